"""Whether a source that is written as another class is one: the two declarations and configs must say the same.

Compared arrow by arrow and field by field; of the conversion itself only its table is believed, which names the fields
that one of the two classes does not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from growformer.architecture.conversion import Conversion, conversions_of, unmet
from growformer.architecture.declaration import Architecture
from growformer.architecture.registry import for_config
from growformer.verification.config_conditions import NOT_COMPUTED
from growformer.verification.recorded import Recorded
from growformer.verification.violations import Violation

_SAME = ("sizes", "attention", "adds", "activated", "rotary", "alibi", "shared", "active", "prefix", "heads")
"""What two declarations of the same function must agree on besides their arrows."""
_ARROW = (
    "kind", "source", "target", "when", "optional", "centred", "offset", "eps", "over", "gain", "kernel", "leading",
    "bare", "otherwise",
)  # fmt: skip


def conversion_conditions(rec: Recorded) -> Iterator[Violation]:
    """Yield everything in which a source differs from what it is said to be written as."""
    if rec.original is None:
        if rec.zeros:
            yield _wrong("zeros", "none, as the source is of its own class", str(sorted(rec.zeros)))
        return
    kinds = (rec.original.get("model_type"), rec.source_config.get("model_type"))
    conversion = next((c for c in conversions_of(kinds[0]) if c.target == kinds[1]), None)
    if conversion is None:
        yield _wrong("model_type", f"a class that {kinds[0]!r} can be written as", repr(kinds[1]))
        return
    reason = unmet(conversion, rec.original)
    if reason:
        yield _wrong(kinds[0], f"a source that {kinds[1]} can express", reason)
    own = for_config(dict(rec.original))
    yield from _declarations(own, rec.architecture)
    yield from _tensors(rec, own)
    yield from _fields(rec, own, conversion)


def _wrong(where: Any, expected: str, found: str) -> Violation:
    return Violation(kind="conversion", where=str(where), expected=expected, found=found)


def _declarations(own: Architecture, other: Architecture) -> Iterator[Violation]:
    for name in _SAME:
        if getattr(own, name) != getattr(other, name):
            yield _wrong(name, f"as {own.name} declares it: {getattr(own, name)}", str(getattr(other, name)))
    for tied, table in own.ties.items():
        if tied in other.tensors and other.ties.get(tied) != table:
            yield _wrong(f"ties of {tied}", table, str(other.ties.get(tied)))
    needed = [name for name, arrow in own.arrows.items() if name in other.arrows or not arrow.optional]
    if needed != list(other.arrows):
        differ = sorted(set(needed) ^ set(other.arrows))
        yield _wrong("modules", f"those of {own.name}, in their order", f"others: {differ}")
        return
    for name in needed:
        arrow = own.arrows[name]
        for part in _ARROW:
            if getattr(arrow, part) != getattr(other.arrows[name], part):
                yield _wrong(f"{name}: {part}", str(getattr(arrow, part)), str(getattr(other.arrows[name], part)))


def _tensors(rec: Recorded, own: Architecture) -> Iterator[Violation]:
    assert rec.original is not None  # asked before
    before = own.resolve_config(rec.original)
    has = {t for t, spec in own.tensors.items() if own.exists(spec, before)}
    needs = {t for t, spec in rec.architecture.tensors.items() if rec.architecture.exists(spec, rec.source_config)}
    if needs - has != rec.zeros:
        yield _wrong("zeros", str(sorted(needs - has)), str(sorted(rec.zeros)))
    for template in sorted((has - needs) & rec.present):
        yield _wrong(template, "a place for it", "none")
    for template in sorted(rec.zeros & set(rec.architecture.tensors)):
        if rec.architecture.tensors[template].part != "bias":
            yield _wrong(template, "biases only, which do nothing where they are zero", "a weight")


def _fields(rec: Recorded, own: Architecture, conversion: Conversion) -> Iterator[Violation]:
    """Both configs must say the same wherever both classes look, and the other what turns it into the source."""
    assert rec.original is not None  # asked before
    for name, value in conversion.sets.items():
        if rec.source_config.get(name) != value:
            yield _wrong(name, repr(value), repr(rec.source_config.get(name)))
    before = {**conversion.defaults, **own.resolve_config(rec.original)}
    after = dict(rec.source_config)
    if not any(name in rec.original for name in ("rope_theta", *(r.parameters for r in own.rotary))):
        before["rope_theta"] = 10000.0
    before, after = (json.loads(json.dumps(config)) for config in (before, after))
    skip = {*conversion.sets, *conversion.drops, *conversion.needs, "model_type", *NOT_COMPUTED}
    for name in sorted({*before, *after} - skip):
        if before.get(name) != after.get(name):
            yield _wrong(name, repr(before.get(name)), repr(after.get(name)))
    for name in conversion.drops:
        if rec.target_config.get(name) is not None and name not in rec.architecture.defaults:
            yield _wrong(name, "nothing, as the class would read it", repr(rec.target_config[name]))


__all__ = ["conversion_conditions"]
