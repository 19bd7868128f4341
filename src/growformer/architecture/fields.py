"""Whether config fields have the kinds of values that the code reads from them. Sizes are checked where they are used.

A config.json holds whatever its author put there. What a declaration takes numbers, names or lists from is looked at
once, here, so that no later step meets a text where it divides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from growformer.architecture.declaration import Architecture
from growformer.architecture.exact import MAX_SIZE, names_in
from growformer.errors import SourceError

Field = tuple[str, Any, Callable[[Any], bool], str]
"""Its name, its value, what holds for a good one, and that in words. None, which means the default, is not asked."""


def check_fields(architecture: Architecture, resolved: Mapping[str, Any], location: str = "") -> None:
    """Refuse fields whose values are of another kind than the declaration reads.

    Args:
        architecture: the declaration.
        resolved: the config, with ``resolve_config`` applied.
        location: where it came from, for messages.

    Raises:
        SourceError: for the first such field.
    """
    for name, value in _implementations(resolved):
        if any("/" in str(entry) for entry in (value.values() if isinstance(value, Mapping) else [value])):
            where = f"{location}: " if location else ""
            raise SourceError(
                f"{where}the config's {name} is {_short(value)}: code from the hub, which transformers would fetch "
                "and run; expected an implementation of its own, such as 'sdpa'. Remove the field"
            )
    for name, value, holds, expected in _fields(architecture, resolved):
        if value is not None and not holds(value):
            where = f"{location}: " if location else ""
            raise SourceError(f"{where}the config's {name} is {_short(value)}; expected {expected}")


def _fields(architecture: Architecture, resolved: Mapping[str, Any]) -> Iterator[Field]:
    def field(name: str, holds: Callable[[Any], bool], expected: str) -> Field:
        return name, resolved.get(name), holds, expected

    yield field("architectures", _are_texts, "a list with the names of classes")
    yield field("dtype", _is_text, "the name of a dtype")
    yield field("torch_dtype", _is_text, "the name of a dtype")
    for name in architecture.nested:
        yield field(name, _is_mapping, "a config, which is an object")
    for arrow in architecture.arrows.values():
        if isinstance(arrow.eps, str):
            yield field(arrow.eps, _is_not_negative, "a number that is not negative")
    for name in (*architecture.layer_lists, *architecture.layer_numbers):
        yield field(name, _are_plain, "a name or number, or a list of them")
    for name in dict.fromkeys(name for expression in architecture.sizes.values() for name in names_in(expression)):
        yield field(name, _is_possible, f"at most {MAX_SIZE}")
    for name in _divisors(architecture):
        yield field(name, _is_not_zero, "more than zero")
    for rotary in architecture.rotary:
        nest = rotary.parameters.rpartition(".")[0]
        inside = f"{nest}." if nest else ""
        yield field(f"{inside}max_position_embeddings", _is_count, "a number of positions")
        yield field(rotary.legacy_theta, _is_base, "a number above one")
        for name in rotary.legacy.values():
            yield field(name, _is_base, "a number above one")
        for name in {rotary.parameters, f"{inside}rope_scaling"}:
            yield field(name, _is_mapping, "the parameters of a rotary embedding, an object")
            yield from _rotary(name, resolved.get(name), rotary.fraction)
        if rotary.fraction is not None:
            yield field(rotary.fraction, _is_not_negative, "the share of a head that is rotated, a number")
        if rotary.legacy_fraction is not None:
            yield field(rotary.legacy_fraction, _is_not_negative, "the share of a head that is rotated, a number")
        if rotary.per_layer is not None:
            yield field(rotary.per_layer, _are_plain, "a number, or a list of them")


def _implementations(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields, at any depth, that say by which code attention or experts are computed."""
    for name, value in config.items():
        if str(name).endswith(("attn_implementation", "experts_implementation")):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _implementations(value)


def _divisors(architecture: Architecture) -> Iterator[str]:
    """Yield the names of sizes that something is divided by: means, scores, angles."""
    yield from (f for role, f in architecture.roles.items() if role in ("hidden", "heads", "kv_heads", "key", "value"))
    yield from (rule.of for rule in architecture.multiples)
    for rotary in architecture.rotary:
        yield rotary.of
        yield from names_in(architecture.sizes[rotary.frequency])


def _rotary(name: str, parameters: Any, fraction: str | None) -> Iterator[Field]:
    """Yield the fields inside of rotary parameters, of which there may be some per kind of layer."""
    if not isinstance(parameters, Mapping):
        return
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _rotary(f"{name}.{key}", value, fraction)
        elif key == "rope_theta":
            yield f"{name}.{key}", value, _is_base, "a number above one"
        elif key in ("rope_type", "type"):
            yield f"{name}.{key}", value, _is_text, "the name of a kind of scaling"
        elif key == fraction:
            yield f"{name}.{key}", value, _is_not_negative, "the share of a head that is rotated, a number"
        elif isinstance(value, list):
            yield f"{name}.{key}", value, _are_numbers, "a list of numbers"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_not_negative(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_possible(value: Any) -> bool:
    """Tell whether a number may be a size; what is none is refused where it is used."""
    return not isinstance(value, int) or value <= MAX_SIZE


def _is_not_zero(value: Any) -> bool:
    return value != 0 or isinstance(value, bool)


def _is_base(value: Any) -> bool:
    return _is_number(value) and value > 1


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _are_plain(value: Any) -> bool:
    entries = value if isinstance(value, list) else [value]
    return not any(isinstance(entry, (list, dict)) for entry in entries)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
