"""Safetensors headers that lie, repeat, overlap or blow up; beside each stands one like it that opens."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from tests.hostile.samples import file_of
from tests.hostile.targets import time_limit

from growformer.errors import SourceError
from growformer.storage import header
from growformer.storage.header import read_header

TWO = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "I8", "shape": [5], "data_offsets": [24, 29]},
}


def read(tmp_path: Path, raw: bytes) -> dict[str, header.Entry]:
    file = tmp_path / "x.safetensors"
    file.write_bytes(raw)
    with time_limit():
        return read_header(file)


def refused(tmp_path: Path, raw: bytes) -> str:
    with pytest.raises(SourceError) as caught:
        read(tmp_path, raw)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/x.safetensors: ")
    return message.removeprefix(f"{tmp_path}/x.safetensors: ")


def with_b(**changes: Any) -> bytes:
    return file_of({**TWO, "b": {**TWO["b"], **changes}}, 29)


@pytest.mark.parametrize(
    "raw",
    [
        file_of(TWO),
        file_of({}),
        file_of(json.dumps(TWO, indent=3).encode() + b" " * 100, 29),
        file_of({"__metadata__": {}, **TWO}),
        file_of({**TWO, "__metadata__": {"format": "pt", "note": 'é "\\\n{"b": 1}' * 50}}),
        file_of({name: dict(reversed(list(entry.items()))) for name, entry in TWO.items()}),
        file_of({"🌱\n"[0]: TWO["a"], "__metadata__": {"🌱": "🌱"}}),
        file_of({"größe": TWO["a"], 'with "quotes" and \\': TWO["b"]}),
        file_of({"empty": {"dtype": "F32", "shape": [0, 7], "data_offsets": [24, 24]}, **TWO}),
        file_of({"scalar": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]}}),
    ],
)
def test_what_opens(tmp_path: Path, raw: bytes) -> None:
    from safetensors import safe_open

    found = read(tmp_path, raw)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert sorted(found) == sorted(file.keys())
        for name, entry in found.items():
            assert list(entry.shape) == file.get_slice(name).get_shape()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not a safetensors file, or cut short"),
        (b"\x01\0\0", "not a safetensors file, or cut short"),
        ((2**63).to_bytes(8, "little") + b"{}", "header of 9223372036854775808 in 10 bytes"),
        (file_of(TWO)[:60], "cut short"),
        (file_of(TWO)[:-1], "incomplete or altered"),
        (file_of(TWO) + b"\0", "incomplete or altered"),
        (file_of(b" " * 8, 0), "it begins with"),
        (file_of(b"[]", 0), "it begins with b'[]'; expected {"),
        (file_of(b"\xef\xbb\xbf{}", 0), "it begins with"),
        (file_of(b'{"a": 1}', 0), "'a' is '1}'; expected an object of dtype, shape and data_offsets"),
        (file_of(b"{} x", 0), "at byte 3 stands 'x'; expected its end"),
        (file_of(json.dumps(TWO).encode()[:-1] + b",}", 29), "expected a tensor's name"),
        (file_of(b'{"\xff": 1}', 0), "is not UTF-8"),
        (file_of(rb'{"\ud800": 1}', 0), "expected a tensor's name"),
        (file_of(rb'{"a\u001b[2J": 1}', 0), "has control characters"),
        (with_b(dtype="F7"), "'b' has the unknown dtype 'F7'; expected one of F64, "),
        (with_b(dtype="I16"), "'b' has 5 bytes; expected 10 for [5] of int16"),
        (with_b(shape=[6]), "'b' has 5 bytes; expected 6 for [6] of int8"),
        (with_b(shape=[-5]), "expected an object of dtype, shape and data_offsets, whole numbers"),
        (with_b(shape=[5.0]), "whole numbers without a sign"),
        (with_b(shape=[True]), "whole numbers without a sign"),
        (with_b(shape=float("nan")), "NaN"),
        (with_b(shape=[float("inf")]), "Infinity"),
        (with_b(shape=[2**62, 0]), "expected at most 2^53 elements"),
        (with_b(shape=[2**32, 2**32]), "expected at most 2^53 elements"),
        (with_b(shape=[1] * 65), "whole numbers without a sign"),
        (with_b(shape=[10**30]), "whole numbers without a sign"),
        (with_b(shape={"0": 5}), "whole numbers without a sign"),
        (with_b(data_offsets=[24]), "expected where it begins and ends"),
        (with_b(data_offsets=[29, 24]), "expected where it begins and ends"),
        (with_b(data_offsets=[23, 28]), "'b' starts at byte"),
        (with_b(data_offsets=[25, 30]), "overlap or hole"),
        (with_b(data_offsets=[0, 5]), "overlap or hole"),
        (with_b(data_offsets=[2**63, 2**63 + 5]), "overlap or hole"),
        (with_b(data_offsets=[2**64, 2**64 + 5]), "whole numbers without a sign"),
        (with_b(strides=[1]), "expected an object of dtype, shape and data_offsets"),
        (file_of(b'{"a":{"dtype":"I8","dtype":"I8","shape":[0]}}', 0), "expected an object of dtype"),
        (file_of(b'{"a":E,"a":E}'.replace(b"E", b'{"dtype":"I8","shape":[0],"data_offsets":[0,0]}'), 0), "twice"),
        (file_of(b'{"__metadata__":{},"__metadata__":{}}', 0), "'__metadata__' stands twice"),
        (file_of(b'{"__metadata__":{"a":1}}', 0), "in '__metadata__', stands '1}}'; expected a text"),
        (file_of(b'{"__metadata__":{"a":"b}}', 0), "in '__metadata__', stands '\"b}}'; expected a text"),
        (file_of(b'{"__metadata__":{"\xff":"b"}}', 0), "'__metadata__' is not UTF-8"),
        (file_of(rb'{"__metadata__":{"a":"\ud800"}}', 0), "in '__metadata__', stands"),
        (file_of(rb'{"\ude00\ud83d": 1}', 0), "expected a tensor's name"),
        (file_of(b'{"__metadata__":"x"}', 0), "expected an object of texts"),
        (file_of(b'{"a":' * 5000, 0), "'a' is "),
        (file_of(b"[" * 100_000, 0), "it begins with"),
        (file_of(b'{"' + b"n" * 5000 + b'":1}', 0), "expected a tensor's name"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    assert message in refused(tmp_path, raw)


BOMBS = {
    "lists": b'{"a":[' + b"[]," * 1_000_000 + b"[]]}",
    "a shape": b'{"a":{"dtype":"F32","shape":[' + b"1," * 2_000_000 + b"1]}}",
    "a name": b'{"' + b"x" * 4_000_000 + b'":1}',
    "a name without an end": b'{"' + rb"\n" * 2_000_000,
    "metadata": b'{"__metadata__":{"a":"' + rb"\"" * 2_000_000 + b'"} }x',
    "metadata without an end": b'{"__metadata__":{"a":"' + rb"\"" * 2_000_000,
    "keys of metadata": b'{"__metadata__":{' + b'"":"",' * 150_000 + b'"":""}}',
    "blanks": b'{"a"' + b" " * 4_000_000 + b"1}",
    "quotes": b'"' * 4_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_memory_stays_that_of_the_file(tmp_path: Path, name: str) -> None:
    """``json.loads`` takes up to thirty times as much."""
    raw = file_of(BOMBS[name], 0)
    (tmp_path / "x.safetensors").write_bytes(raw)
    tracemalloc.start()
    try:
        with time_limit(), pytest.raises(SourceError) as caught:
            read_header(tmp_path / "x.safetensors")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000
    assert peak < 2 * len(raw) + 1_000_000


def test_a_header_past_the_limit_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with file.open("wb") as out:
        out.write((header.MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        out.truncate(header.MAX_HEADER_BYTES + 100)  # sparse
    with pytest.raises(SourceError, match=re.escape("expected at most 100000000")):
        read_header(file)


def test_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = file_of(TWO)
    monkeypatch.setattr(header, "MAX_TENSORS", 2)
    assert len(read(tmp_path, raw)) == 2
    monkeypatch.setattr(header, "MAX_TENSORS", 1)
    assert "more than 1 tensors" in refused(tmp_path, raw)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            return found if len(found) <= 8 else found[:-1]

    monkeypatch.setattr(header, "open_regular", lambda path: Shrinking(file_of(TWO)))
    with pytest.raises(SourceError, match="ended inside its header"):
        read_header(tmp_path / "x.safetensors")
