"""Strategies: headers, indices and configs that were right, and then had something done to them.

Half of the changes know the structure: a number becomes another kind of value, a key stands twice, an offset moves.
The others change bytes.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st
from tests.hostile.samples import CONFIGS, fitting, header_of, tensors

from growformer.storage.header import DTYPES


class Pairs(list[tuple[Any, Any]]):
    """An object whose keys may stand twice."""


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 2**24, 2**31, 2**53, 2**63, 2**64, 10**30, 10**299, 0.5, -0.0, 1e-300,
    1e308, float("nan"), float("inf"), -float("inf"), "", "x", "auto", "1", "\ud800", "\x00", "\x1b[2J", "\u202e",
    "/etc/passwd", "../x.safetensors", "hidden_size", "__metadata__", "F32", "F4", [], [1], [-1], ["a"], [[]], [None],
    [2**62, 4], [10**9] * 3, [0, 2**63], [1.5], {}, {"a": 1}, {"__float__": "Infinity"}, {"": {}},
    "sliding_attention", ["full_attention"] * 3,
)  # fmt: skip
"""What a value is replaced by."""

_any = st.one_of(
    st.sampled_from(VALUES),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.integers(1, 400).map(lambda depth: Raw("[" * depth + "]" * depth)),
    st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)),
).map(lambda value: pairs(copy.deepcopy(value)))  # those above stay as they are
_key = st.one_of(st.text(max_size=8), st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "weight_map"]))


class Raw(str):
    """Text that is written as it is."""


def dump(value: Any) -> str:
    """Return JSON, or what looks like it."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(str(name))}:{dump(inner)}" for name, inner in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value)


def pairs(value: Any) -> Any:
    """Return plain data with objects as pairs."""
    if isinstance(value, dict):
        return Pairs((name, pairs(inner)) for name, inner in value.items())
    return [pairs(inner) for inner in value] if isinstance(value, list) else value


@st.composite
def _changed(draw: st.DrawFn, data: Any, keys: st.SearchStrategy[str] = _key) -> Any:
    """Return plain data with one to three changes, each at some depth."""
    root = pairs(copy.deepcopy(data))
    for _ in range(draw(st.integers(1, 3))):
        here, depth = root, draw(st.integers(0, 3))
        while depth and here:
            at = draw(st.integers(0, len(here) - 1))
            inner = here[at][1] if isinstance(here, Pairs) else here[at]
            if not isinstance(inner, list):
                break
            here, depth = inner, depth - 1
        kind = draw(
            st.sampled_from(["replace", "replace", "replace", "remove", "repeat", "rename", "insert", "number"])
        )
        at = draw(st.integers(0, max(len(here) - 1, 0)))
        is_object = isinstance(here, Pairs)
        if kind == "insert" or not here:
            value = draw(_any)
            here.insert(at, (draw(keys), value) if is_object else value)
        elif kind == "replace":
            here[at] = (here[at][0], draw(_any)) if is_object else draw(_any)
        elif kind == "remove":
            del here[at]
        elif kind == "repeat":
            here.append(here[at])
        elif kind == "rename" and is_object:
            here[at] = (draw(keys), here[at][1])
        elif kind == "number":
            value = here[at][1] if is_object else here[at]
            if isinstance(value, int):
                value += draw(st.integers(-9, 9))
                here[at] = (here[at][0], value) if is_object else value
    return root


@st.composite
def _bytes_changed(draw: st.DrawFn, raw: bytes) -> bytes:
    """Return bytes of which some were changed, put in, taken out, or doubled."""
    found = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "insert", "delete", "cut", "repeat"]))
        if kind == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            found[at:at] = draw(st.one_of(st.binary(max_size=4), st.sampled_from([b"{", b"]", b'"', b"\\", b"1e999"])))
        elif kind == "delete":
            del found[at : at + draw(st.integers(1, 8))]
        elif kind == "cut":
            del found[at:]
        elif kind == "repeat":
            found[at:at] = found[at : at + draw(st.integers(1, 60))]
    return bytes(found)


def _text(data: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    def encoded(value: Any) -> bytes:
        return dump(value).encode("utf-8", "surrogatepass")

    return data.map(encoded)


def _either(data: Any, keys: st.SearchStrategy[str] = _key) -> st.SearchStrategy[bytes]:
    """Return JSON with a change that knows the structure, one of bytes, or both."""
    by_structure = _text(_changed(data, keys))
    by_bytes = _bytes_changed(json.dumps(data).encode())
    return st.one_of(by_structure, by_bytes, by_structure.flatmap(_bytes_changed))


def headers() -> st.SearchStrategy[bytes]:
    """Return safetensors files whose header is wrong, or the length in front of it, or both."""
    header = header_of(tensors("llama"))
    small = header_of({"a": ((2, 3), "float32"), "b": ((0,), "int8"), "c": ((), "bfloat16")}, note="é\n")
    keys = st.one_of(_key, st.sampled_from([*header, *DTYPES]))

    def file(parts: tuple[bytes, int | None, int]) -> bytes:
        raw, length, more = parts
        prefix = (len(raw) if length is None else length).to_bytes(8, "little")
        return prefix + raw + bytes(max(fitting(raw) + more, 0))

    lengths = st.one_of(*[st.none()] * 10, st.integers(0, 2**64 - 1), st.integers(0, 4000))
    bodies = st.sampled_from([*[0] * 10, -1, 1])
    raws = st.one_of(_either(header, keys), _either(small, keys))
    return st.tuples(raws, lengths, bodies).map(file)


def indices() -> st.SearchStrategy[bytes]:
    """Return indices of the sample in two shards."""
    names = tensors("llama")
    files = [f"model-{n:05d}-of-00002.safetensors" for n in (1, 2)]
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {name: files[at % 2] for at, name in enumerate(names)},
    }
    hostile = st.sampled_from(["/etc/passwd", "../model.safetensors", "x/../y.safetensors", "\x00.safetensors", *files])
    return _either(index, st.one_of(_key, hostile, st.sampled_from(list(names))))


def configs(model_type: str) -> st.SearchStrategy[bytes]:
    """Return configs of a model type, with fields of others."""
    others = sorted({name for config in CONFIGS.values() for name in config})
    more = ["rope_scaling", "text_config", "quantization_config", "auto_map", "attn_implementation", "per_layer_config"]
    return _either(CONFIGS[model_type], st.one_of(st.sampled_from([*others, *more]), _key))
