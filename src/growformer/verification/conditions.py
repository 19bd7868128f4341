"""Whether the recorded spaces can be true together: derived from arrows, norms, contractions, adds and ties.

What new coordinates of a space carry is one word per axis: ``live`` (anything, so that every reader must ignore it),
``silent`` (zero), ``mean`` (the mean of the source's), ``copy`` (each repeats a source coordinate) or ``split`` (the
squares of the parts of one coordinate sum to its own). Each function here takes one place where spaces meet and says
which words, scales, epsilons and config values preserve what is computed there (MATHEMATICS: one rule, RMSNorm,
LayerNorm, rotary, depth). Weights need no condition here: whatever meets in them, ``requirements`` finds values for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from growformer.architecture.declaration import space_of, spaces_in
from growformer.architecture.exact import ONE, evaluate
from growformer.architecture.language import leaves
from growformer.errors import ArchitectureError
from growformer.verification.config_conditions import config_conditions
from growformer.verification.conversion_conditions import conversion_conditions
from growformer.verification.recorded import STATUS, Recorded, Violation, at_instance

EXACT = 2.0**-50
"""Relative deviation of config values, which are float64 and a few roundings away from exact."""


def local_conditions(data: Mapping[str, Any] | Recorded) -> list[Violation]:
    """Return every place where the recorded spaces, axis maps and configs contradict preservation, or each other.

    An empty list means: target tensors that meet their ``requirements`` compute what the source computes, and no
    coordinate is inert on both sides.

    Args:
        data: a plan's JSON (``json.loads(plan.to_json())``). To judge another config than the recorded one, replace
            ``target_config`` in it.

    Raises:
        PlanError: the data is not a record of a growth.
    """
    recorded = Recorded.read(data)
    found = list(_axis_maps(recorded))
    if found:  # nothing else can be looked up with certainty
        return found
    checks = (_present, _spaces, _norms, _contractions, _adds, _ties, _post_norms, config_conditions)
    for check in (*checks, conversion_conditions):
        try:
            found += check(recorded)
        except ArchitectureError as error:
            found.append(Violation(kind="config", where="target_config", expected="a valid config", found=str(error)))
    return found


# Axis maps.


def _axis_maps(rec: Recorded) -> Iterator[Violation]:
    architecture = rec.architecture
    order = sorted(architecture.sizes, key=lambda axis: axis not in architecture.index_axes)
    for axis in order:
        is_index = axis in architecture.index_axes
        broken = False
        try:
            for violation in _axis(rec, axis, is_index):
                broken = True
                yield violation
        except ArchitectureError as error:
            yield Violation(kind="axis map", where=axis, expected="a whole number", found=str(error))
            broken = True
        if broken and is_index:
            return


def _axis(rec: Recorded, axis: str, is_index: bool) -> Iterator[Violation]:
    def wrong(index: Mapping[str, int], expected: str, found: str) -> Violation:
        return Violation(kind="axis map", where=at_instance(axis, index), expected=expected, found=found)

    for index in rec.instances(rec.architecture.size_index(axis)):
        along = rec.maps.get(axis, {}).get(tuple(index.values()))
        if along is None:
            yield wrong(index, "a map", "none")
            continue
        size, source = rec.target_size(axis, index), along.source
        if source.size != size:
            yield wrong(index, f"{size} target coordinates, as the config says", str(source.size))
            continue
        if is_index:
            yield from _templates(rec, axis, index, source)
        if rec.is_new(index):
            continue
        before = rec.sizes(axis, index)[0]
        if along.source_size != before:
            yield wrong(index, f"{before} source coordinates, as the config says", str(along.source_size))
            continue
        if source.size and not (source.min() >= -1 and source.max() < before):
            yield wrong(index, f"source coordinates from 0 to {before - 1}", f"{source.min()} to {source.max()}")
            continue
        counts = np.bincount(source[source >= 0], minlength=before)
        if counts.size and (counts.min() != counts.max() or counts.min() == 0):
            at = int(np.flatnonzero(counts != max(counts.max(), 1))[0])
            yield wrong(index, "every source coordinate, equally often", f"coordinate {at} {int(counts[at])} times")
        elif axis in rec.architecture.fixed and not np.array_equal(source, np.arange(before)):
            yield wrong(index, f"no change ({rec.architecture.fixed[axis]})", "a change")
        elif is_index and not np.array_equal(source[source >= 0], np.arange(before)):
            yield wrong(index, "source instances once, in their order", str(source.tolist()))


def _templates(rec: Recorded, axis: str, index: Mapping[str, int], source: Any) -> Iterator[Violation]:
    found = rec.templates.get(axis, {}).get(tuple(index.values()))
    old = [] if found is None else [int(a) for a, b in zip(found, source, strict=False) if b >= 0]
    if found is None or len(found) != source.size or old != source[source >= 0].tolist():
        yield Violation(
            kind="axis map", where=at_instance(axis, index),
            expected=f"templates that agree with the map {source.tolist()}", found=str(found and list(found)),
        )  # fmt: skip


def _present(rec: Recorded) -> Iterator[Violation]:
    for template, spec in rec.architecture.tensors.items():
        optional = rec.architecture.arrows[spec.owner].optional
        exists = rec.architecture.exists(spec, rec.source_config)
        if (template in rec.present and not exists) or (exists and not optional and template not in rec.present):
            said, has = ("one", "none") if exists else ("none", "one")
            yield Violation(kind="config", where=template, expected=f"{said}, as the source's config says", found=has)


# Spaces.


def _spaces(rec: Recorded) -> Iterator[Violation]:
    used = {s for a in rec.arrows.values() for s in (*spaces_in(a.source), *spaces_in(a.target))}
    used |= {s for c in rec.architecture.attention for s in (c.query, c.key, c.value, c.output)}
    for space in rec.architecture.spaces.values():
        if space.name not in used:
            continue
        for axis in space.axes:
            yield from _space_axis(rec, space.name, axis)
        yield from _space_scale(rec, space.name)


def _space_axis(rec: Recorded, space: str, axis: str) -> Iterator[Violation]:
    def wrong(expected: str, found: str) -> Violation:
        return Violation(kind="space", where=f"{space} along {axis}", expected=expected, found=found)

    kind = rec.kind(space, axis)
    if kind is not None and kind not in STATUS:
        yield wrong(f"one of {', '.join(STATUS)}", repr(kind))
        return
    maps = [rec.along(axis, index) for index in rec.sources(rec.architecture.size_index(axis))]
    added = any((m.source < 0).any() for m in maps)
    repeated = any(m.source.size > m.source_size and not (m.source < 0).any() for m in maps)
    if (added or repeated) and kind is None:
        yield wrong("a word for what its new coordinates carry", "none")
    elif added and kind == "copy":
        yield wrong("a source for every coordinate of a copied axis", "coordinates without one")
    elif repeated and kind != "copy":
        yield wrong("'copy', as the axis repeats its source coordinates", repr(kind))
    if not added:
        return
    if space in rec.outputs and kind in ("live", "split"):
        yield wrong("'silent', as the model returns it", repr(kind))
    if kind == "split" and not _is_split_alone(rec, space, axis):
        yield wrong("norms over it as the only readers of a split axis", "other readers")
    if kind == "mean" and axis not in rec.mean_axes(space):
        yield wrong("a LayerNorm over it that makes a mean disappear", "none")
    if kind == "silent" and space not in _linear(rec) and space not in rec.outputs:
        yield wrong("'live', as what reads it may not map zero to zero", repr(kind))


def _is_split_alone(rec: Recorded, space: str, axis: str) -> bool:
    if rec.joined(space) != {space} or space in rec.outputs:
        return False
    if any(space in (c.query, c.key, c.value, c.output) for c in rec.architecture.attention):
        return False
    readers = [a for a in rec.arrows.values() if space in set(spaces_in(a.source))]
    return all(a.kind == "norm" and not a.centred and axis in rec.reduced(a) for a in readers)


def _space_scale(rec: Recorded, space: str) -> Iterator[Violation]:
    for index in rec.sources(rec.architecture.spaces[space].index):
        scale = rec.scale(space, index)
        if scale != ONE and space not in _linear(rec) - rec.outputs:
            why = "the model returns it" if space in rec.outputs else "what reads it may not be linear"
            yield Violation(
                kind="space",
                where=at_instance(space, index),
                expected=f"no scale, as {why}",
                found=f"the scale {scale}",
            )


def _linear(rec: Recorded) -> set[str]:
    """Return the spaces next to norms and contractions; in others an activation may stand, which no arrow shows."""
    found: set[str] = set()
    for arrow in rec.arrows.values():
        if arrow.kind == "norm":
            found |= {space_of(arrow.source), space_of(arrow.target)}
    for c in rec.architecture.attention:
        found |= {c.query, c.key, c.value, c.output}
    return {name for name in rec.architecture.spaces if found & rec.joined(name)}


# Where spaces meet.


def _norms(rec: Recorded) -> Iterator[Violation]:
    for name, arrow in rec.arrows.items():
        if arrow.kind != "norm":
            continue
        source, reduced = space_of(arrow.source), rec.reduced(arrow)
        if not set(reduced) <= set(rec.architecture.spaces[source].axes):
            yield Violation(kind="norm", where=name, expected="axes of what it reads", found=str(reduced))
            continue
        for axis in rec.architecture.spaces[source].axes:
            yield from _norm_axis(rec, name, axis, axis in reduced, arrow.centred)
        for index in rec.sources(rec.index_of(name)):
            where = at_instance(name, index)
            uneven = [a for a in reduced if len(rec.energies(source, a, index)) > 1]
            if uneven:
                yield Violation(
                    kind="norm", where=where, expected="squares that grow evenly",
                    found=f"squares that do not along {uneven[0]}",
                )  # fmt: skip
                continue
            ratio = rec.mean_square_ratio(arrow, index)
            yield from _epsilon(rec, where, arrow.eps, ratio)


def _norm_axis(rec: Recorded, name: str, axis: str, is_reduced: bool, centred: bool) -> Iterator[Violation]:
    arrow = rec.arrows[name]
    source, target = space_of(arrow.source), space_of(arrow.target)
    before, after = rec.kind(source, axis), rec.kind(target, axis)
    if not _grows(rec, axis):
        return

    def wrong(kind: str, expected: str, found: str) -> Violation:
        return Violation(kind=kind, where=f"{name} along {axis}", expected=expected, found=found)

    if not is_reduced:
        if before != after:
            yield wrong("norm", f"{before!r} written, as it reads that", repr(after))
        return
    allowed = ("mean", "copy") if centred else ("silent", "copy", "split")
    if before not in allowed:
        moved = "mean and variance" if centred else "mean square"
        yield wrong("norm", f"{' or '.join(map(repr, allowed))} read, or the {moved} would change", repr(before))
    elif before in ("silent", "mean") and after == "live":
        yield wrong("dead", "readers that look at new coordinates, as they are inert", "readers that ignore them")
    else:
        wanted = {"silent": "silent", "mean": "silent", "copy": "copy", "split": "live"}[str(before)]
        if after != wanted:
            yield wrong("norm", f"{wanted!r} written, as it reads {before!r}", repr(after))


def _grows(rec: Recorded, axis: str) -> bool:
    for index in rec.sources(rec.architecture.size_index(axis)):
        source, target = rec.sizes(axis, index)
        if source != target:
            return True
    return False


def _epsilon(rec: Recorded, where: str, eps: str | float, ratio: Fraction) -> Iterator[Violation]:
    if isinstance(eps, str):
        before, after = Fraction(rec.source_config[eps]), Fraction(rec.target_config[eps])
        field = eps
    else:
        before = after = Fraction(eps)
        field = "its epsilon"
    expected = before * ratio
    if abs(after - expected) > Fraction(EXACT) * expected:
        yield Violation(
            kind="norm", where=where,
            expected=f"{field} = {float(expected)!r}, as the mean square is {ratio} of the source's",
            found=repr(float(after)), deviation=float(abs(after - expected)),
        )  # fmt: skip
    elif isinstance(eps, str) and before and rec.epsilon_factors.get(eps, Fraction(1)) != ratio:
        yield Violation(
            kind="norm", where=where, expected=f"the factor {ratio} on {eps}",
            found=f"{rec.epsilon_factors.get(eps, Fraction(1))} recorded",
        )  # fmt: skip


def _contractions(rec: Recorded) -> Iterator[Violation]:
    for c in rec.architecture.attention:
        spaces = rec.architecture.spaces
        where = f"attention {c.query} . {c.key}"

        def wrong(kind: str, at: str, expected: str, found: str, where: str = where) -> Violation:
            return Violation(kind=kind, where=f"{where} {at}", expected=expected, found=found)

        for axis in c.over:
            if not _grows(rec, axis):
                continue
            pair = (rec.kind(c.query, axis), rec.kind(c.key, axis))
            found = f"{pair[0]!r} queries and {pair[1]!r} keys"
            if pair == ("silent", "silent"):
                yield wrong("dead", f"along {axis}", "one side that is not silent, or neither ever learns", found)
            elif pair != ("copy", "copy") and ("silent" not in pair or not {*pair} <= {"silent", "live", "mean"}):
                yield wrong("contraction", f"along {axis}", "one silent side, or scores would change", found)
        for axis in spaces[c.query].axes:
            shared = axis not in c.over and axis in spaces[c.key].axes and _grows(rec, axis)
            if shared and rec.kind(c.query, axis) == rec.kind(c.key, axis) == "silent":
                yield wrong(
                    "dead", f"along {axis}", "one side that is not silent, or neither ever learns",
                    "'silent' queries and 'silent' keys",
                )  # fmt: skip
        for axis in spaces[c.output].axes:
            yield from _mixed(rec, c.query, c.key, c.value, c.output, axis, where)
        outer = tuple(a for a in rec.architecture.sizes if a in {*spaces[c.query].index, *spaces[c.key].index})
        for index in rec.sources(outer):
            before = evaluate(c.scale, rec.source_config, rec.origin(index))
            after = evaluate(c.scale, rec.target_config, index)
            product = rec.scale(c.query, index) * rec.scale(c.key, index) * after / before
            for axis in c.over:
                product = product * min(rec.energies(c.query, axis, index))
            if product != ONE:
                yield wrong("contraction", at_instance("scores", index), "scores times 1", f"times {product}")
        outer = tuple(a for a in rec.architecture.sizes if a in {*spaces[c.value].index, *spaces[c.output].index})
        for index in rec.sources(outer):
            values, output = rec.scale(c.value, index), rec.scale(c.output, index)
            if values != output:
                yield wrong(
                    "contraction", at_instance(c.output, index), f"the scale {values} of the values", str(output)
                )


def _mixed(rec: Recorded, query: str, key: str, value: str, output: str, axis: str, where: str) -> Iterator[Violation]:
    """Attention's output is a mean of values, weighted by scores: what may it carry along one of its axes?"""
    if not _grows(rec, axis):
        return
    spaces = rec.architecture.spaces
    values = rec.kind(value, axis) if axis in spaces[value].axes else None
    scores = {rec.kind(s, axis) for s in (query, key) if axis in spaces[s].axes}
    found = rec.kind(output, axis)
    if values is None:  # a new query head mixes source values by new scores
        wanted = "copy" if scores == {"copy"} else "live"
    elif values == "copy":  # the copies agree where their scores do
        wanted = "copy" if scores <= {"copy"} else "live"
    else:
        wanted = values
    if found == wanted:
        return
    dead = values in ("silent", "mean") and found == "live"
    expected = "readers that look at inert coordinates" if dead else f"{wanted!r} coordinates in {output}"
    yield Violation(
        kind="dead" if dead else "contraction", where=f"{where} along {axis}", expected=expected, found=repr(found)
    )


def _adds(rec: Recorded) -> Iterator[Violation]:
    for a, b in rec.architecture.adds:
        first, second = rec.architecture.spaces[a], rec.architecture.spaces[b]
        if set(first.axes) != set(second.axes):
            yield Violation(kind="add", where=f"{a} + {b}", expected=f"the axes {first.axes}", found=str(second.axes))
            continue
        for axis in first.axes:
            kinds = rec.kind(a, axis), rec.kind(b, axis)
            if _grows(rec, axis) and kinds[0] != kinds[1]:
                yield Violation(
                    kind="add", where=f"{a} + {b} along {axis}", expected=f"{kinds[0]!r} on both sides",
                    found=repr(kinds[1]),
                )  # fmt: skip
        outer = tuple(x for x in rec.architecture.sizes if x in {*first.index, *second.index})
        for index in rec.sources(outer):
            scales = rec.scale(a, index), rec.scale(b, index)
            if scales[0] != scales[1]:
                yield Violation(
                    kind="add", where=at_instance(f"{a} + {b}", index), expected=f"the scale {scales[0]} on both sides",
                    found=str(scales[1]),
                )  # fmt: skip


def _ties(rec: Recorded) -> Iterator[Violation]:
    for head, table in rec.tied_heads.items():
        first, second = rec.architecture.tensors[head], rec.architecture.tensors[table]
        shapes = [[leaves(d.term, lambda a: rec.target_size(a, {}))[0] for d in s.dims] for s in (first, second)]
        if first.index or second.index or shapes[0] != shapes[1]:
            yield Violation(kind="tie", where=table, expected=f"the layout of {head}", found="another")
            continue
        factors = []
        for spec in (first, second):
            factor = ONE
            for dim in spec.dims:
                (space,) = spaces_in(dim.term)
                scale = rec.scale(space, {})
                if dim.role != "read":
                    factor = factor * scale
                    continue
                factor = factor / scale
                for axis in rec.architecture.spaces[space].axes:
                    # Copies of a coordinate share their weight; a table is looked up, not summed.
                    if rec.arrows[spec.owner].kind != "embedding":
                        factor = factor / min(rec.energies(space, axis, {}))
            factors.append(factor)
        if factors[0] != factors[1]:
            yield Violation(
                kind="tie", where=table, expected=f"times {factors[0]} for what {head} reads",
                found=f"times {factors[1]} for what it writes itself",
            )  # fmt: skip


def _post_norms(rec: Recorded) -> Iterator[Violation]:
    for arrow in rec.arrows.values():
        if not rec.is_residual(arrow):
            continue
        name, index = rec.chain(arrow)[0]
        if rec.is_new(index):
            yield Violation(
                kind="layers", where=at_instance(name, index), found="none",
                expected="a norm in front of it that hands over its gain",
            )  # fmt: skip


__all__ = ["local_conditions"]
