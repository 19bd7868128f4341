"""Whether every source frequency keeps its index and its angle: order, bases, lists of factors, rotated shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from growformer.architecture.declaration import Config
from growformer.architecture.exact import evaluate_size
from growformer.architecture.facts import Rotary
from growformer.verification.recorded import Recorded
from growformer.verification.violations import Violation, at_instance

SCALABLE_ROTARY = ("default", "linear", "llama3", "longrope", "su", "yarn", "mrope")
"""Rotary types in which theta^(d'/d) keeps every frequency."""
LISTS = ("short_factor", "long_factor")
"""Entries with one number per frequency."""
THETA, TYPE, SECTIONS = "rope_theta", "rope_type", "mrope_section"


@dataclass(frozen=True, slots=True)
class Spelled:
    """One place in a config where something is said about rotary embeddings.

    Attributes:
        where: for messages.
        kinds: kinds of layers that it holds for.
        key: the rotary parameter.
        value: what is said.
    """

    where: str
    kinds: tuple[str, ...]
    key: str
    value: Any


def rotary_conditions(rec: Recorded) -> Iterator[Violation]:
    """Yield every frequency that would not keep its angle, and every spelling in the config that says so."""
    for rotary in rec.architecture.rotary:
        for axis in _turned(rec, rotary):
            for index in rec.sources(rec.size_indices[axis]):
                source = rec.sizes(axis, index)[0]
                along = rec.along(axis, index).source
                if not np.array_equal(along[:source], np.arange(source)) or (along[source:] >= 0).any():
                    yield Violation(
                        kind="rotary", where=at_instance(axis, index),
                        expected="source frequencies first, in their order, as an angle belongs to a position",
                        found="another order",
                    )  # fmt: skip
        for index in rec.sources(rec.size_indices[rotary.frequency]):
            yield from _parameters(rec, rotary, *rec.sizes(rotary.frequency, index))


def _turned(rec: Recorded, rotary: Rotary) -> tuple[str, ...]:
    """Return the axes whose coordinates belong to angles: frequencies, or whole heads that do not name them."""
    spaces = rec.architecture.spaces
    met = {axis for c in rec.architecture.attention for space in (*c.queries, *c.keys) for axis in spaces[space].axes}
    if rotary.frequency in met:
        return (rotary.frequency,)
    return (rotary.frequency, *dict.fromkeys(axis for c in rec.architecture.attention for axis in c.over))


def rotary_fields(rotary: Rotary) -> set[str]:
    """Return the config fields that say something about rotary embeddings, of which any may be missing."""
    named = {rotary.parameters, f"{_nest(rotary)}rope_scaling", *rotary.legacy.values()}
    return named | {*_theta_fields(rotary), *_share_fields(rotary)}


def rotary_types(config: Config, rotary: Rotary) -> set[str]:
    """Return the rotary types of all kinds of layers."""
    kinds = _kinds(rotary, config)
    said = _effective(config, rotary, kinds)
    return {str(said[kind].get(TYPE, "default")) for kind in kinds}


def grown_base(rec: Recorded, rotary: Rotary, base: float) -> float:
    """Return the base that keeps every frequency of a layer that has a base of its own; 0 stays, it rotates nothing."""
    source, target = rec.sizes(rotary.frequency, {})
    return base if not base or source == target else float(base) ** (target / source)


def _parameters(rec: Recorded, rotary: Rotary, source: int, target: int) -> Iterator[Violation]:
    """Every spelling in the target must say what the source's do, but for bases, lists and shares."""
    ratio = Fraction(target, source)
    kinds = tuple(dict.fromkeys((*_kinds(rotary, rec.source_config), *_kinds(rotary, rec.target_config))))
    before = _effective(rec.source_config, rotary, kinds)
    after = _effective(rec.target_config, rotary, kinds)
    spelled = list(_spellings(rec.written, rotary, kinds))
    for one in spelled:
        for kind in one.kinds:
            problem = _problem(rec, rotary, one.key, before[kind].get(one.key), one.value, source, target)
            if problem is not None:
                yield Violation(kind="rotary", where=one.where, expected=problem, found=repr(one.value))
                break
    said = {(kind, one.key) for one in spelled for kind in one.kinds}
    for kind in kinds:
        where = f"{rotary.parameters}.{kind}" if kind else rotary.parameters
        for key in dict.fromkeys((*before[kind], *after[kind])):
            problem = _problem(rec, rotary, key, before[kind].get(key), after[kind].get(key), source, target)
            if (kind, key) not in said and problem is not None:
                found = repr(after[kind][key]) if key in after[kind] else "nothing"
                yield Violation(kind="rotary", where=f"{where}.{key}", expected=problem, found=found)
        if ratio != 1 and THETA not in before[kind] and THETA not in after[kind]:
            says = f"{rotary.theta ** float(ratio)!r} = theta^({ratio}), so that every frequency stays"
            yield Violation(kind="rotary", where=f"{where}.{THETA}", expected=says, found="nothing")
        if SECTIONS not in before[kind] and SECTIONS not in after[kind]:
            problem = _problem(rec, rotary, SECTIONS, None, None, source, target)
            if problem is not None:
                yield Violation(kind="rotary", where=f"{where}.{SECTIONS}", expected=problem, found="nothing")
        share = _share(rotary)
        if share and share not in before[kind] and share not in after[kind]:
            problem = _problem(rec, rotary, share, None, None, source, target)
            if problem is not None:
                yield Violation(kind="rotary", where=f"{where}.{share}", expected=problem, found="nothing")


def _problem(rec: Recorded, rotary: Rotary, key: str, before: Any, after: Any, source: int, target: int) -> str | None:
    """Return what was expected of a parameter that is not what it must be."""
    ratio = Fraction(target, source)
    if key == THETA:
        wanted = float(rotary.theta if before is None else before) ** float(ratio)
        if isinstance(after, (int, float)) and abs(after - wanted) <= 1e-12 * wanted:
            return None
        return f"{wanted!r} = theta^({ratio}), so that every frequency stays"
    if key == TYPE:
        before, after = before or "default", after or "default"
        if ratio != 1 and after not in SCALABLE_ROTARY:
            return f"one of {', '.join(SCALABLE_ROTARY)} where the rotated size grows"
        return None if before == after else repr(before)
    if key in LISTS and isinstance(before, (list, tuple)):
        size = len(before) + target - source
        fits = isinstance(after, (list, tuple)) and len(after) == size and list(after[: len(before)]) == list(before)
        if fits and all(isinstance(x, (int, float)) and x > 0 for x in after):
            return None
        return f"the source's {len(before)} numbers first, and {size} positive ones in all"
    if key == SECTIONS and rotary.sections is not None:
        *first, last = before or rotary.sections
        sections = [*first, last + target - source]
        return None if list(after or rotary.sections) == sections else f"{sections}: new frequencies in the last one"
    if rotary.fraction and key == _share(rotary):
        wanted_size = _rotated(rotary, rec.source_config, before) * ratio
        found_size = _rotated(rotary, rec.target_config, after)
        if found_size == wanted_size:
            return None
        return f"a share of {rotary.of} that rotates {wanted_size} coordinates, not {found_size}"
    return None if before == after else repr(before)


def _rotated(rotary: Rotary, config: Config, share: Any) -> int:
    """Return how much of a head is rotated, in the arithmetic of the classes."""
    return int(evaluate_size(rotary.of, config) * float(1.0 if share is None else share))


# What a config says.


def _kinds(rotary: Rotary, config: Config) -> tuple[str, ...]:
    """Return the kinds of layers with rotary parameters of their own; one without a name where all are alike."""
    given = rotary.implied_by(config) or config.get(rotary.parameters)
    named = [k for k, v in given.items() if isinstance(v, Mapping)] if isinstance(given, Mapping) else []
    return tuple(dict.fromkeys((*rotary.legacy, *named))) or ("",)


def _effective(config: Config, rotary: Rotary, kinds: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return for every kind of layer what holds: the first spelling of several."""
    found: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for one in _spellings(config, rotary, kinds):
        for kind in one.kinds:
            found[kind].setdefault(one.key, one.value)
    return found


def _spellings(config: Config, rotary: Rotary, kinds: tuple[str, ...]) -> Iterator[Spelled]:
    """Yield everything that a config says about rotary embeddings, what counts most first."""
    nest, share = _nest(rotary), _share(rotary)
    # Older configs have one base per kind of layer, and say the rest of those under the usual name alone.
    named = tuple(kind for kind in kinds if rotary.legacy.get(kind) in _theta_fields(rotary))
    alike = named or kinds
    fields = (rotary.parameters, f"{nest}rope_scaling")
    implied = rotary.implied_by(config)
    for field in fields:
        given = (implied if field == rotary.parameters else None) or config.get(field)
        if not isinstance(given, Mapping):
            continue
        inner = {kind: entries for kind, entries in given.items() if isinstance(entries, Mapping)}
        if inner:
            for kind, entries in inner.items():
                for key, value in entries.items():
                    if value is not None and kind in kinds:
                        yield Spelled(f"{field}.{kind}.{key}", (kind,), _modern(key), value)
        else:
            for key, value in given.items():
                if value is not None:
                    yield Spelled(f"{field}.{key}", alike, _modern(key), value)
    for kind, field in rotary.legacy.items():
        if config.get(field) is not None and kind in kinds:
            yield Spelled(field, (kind,), THETA, config[field])
    for field in () if rotary.legacy else _theta_fields(rotary):
        if config.get(field) is not None:
            yield Spelled(field, kinds, THETA, config[field])
    for field in _share_fields(rotary):
        if config.get(field) is not None:
            yield Spelled(field, kinds, share, config[field])


def _nest(rotary: Rotary) -> str:
    """Return what stands in front of fields of the same nested config."""
    outer, dot, _ = rotary.parameters.rpartition(".")
    return outer + dot


def _theta_fields(rotary: Rotary) -> tuple[str, ...]:
    """Return the fields of the config itself that may hold the base."""
    nest, older = _nest(rotary), rotary.legacy_theta
    return tuple(dict.fromkeys((older if older.startswith(nest) else nest + older, nest + THETA)))


def _share_fields(rotary: Rotary) -> tuple[str, ...]:
    """Return the fields of the config itself that may hold the share that is rotated."""
    if rotary.fraction is None:
        return ()
    return tuple(
        dict.fromkeys(n for n in (rotary.fraction, _nest(rotary) + _share(rotary), rotary.legacy_fraction) if n)
    )


def _share(rotary: Rotary) -> str:
    return (rotary.fraction or "").rpartition(".")[2]


def _modern(key: str) -> str:
    return TYPE if key == "type" else key


__all__ = ["grown_base", "rotary_conditions", "rotary_fields", "rotary_types"]
