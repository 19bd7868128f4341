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

from growformer.architecture.declaration import Config, space_of, spaces_in
from growformer.architecture.exact import ONE, Root, compute, evaluate
from growformer.architecture.facts import Add
from growformer.architecture.language import leaves
from growformer.errors import ArchitectureError
from growformer.verification.alibi_conditions import alibi_conditions
from growformer.verification.attention_conditions import attention_conditions
from growformer.verification.axis_conditions import axis_conditions, existence_conditions
from growformer.verification.config_conditions import config_conditions
from growformer.verification.conversion_conditions import conversion_conditions
from growformer.verification.recorded import STATUS, Recorded
from growformer.verification.rotary_conditions import rotary_conditions
from growformer.verification.rounding import rounded
from growformer.verification.structure import Index
from growformer.verification.violations import Violation, at_instance

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
    found = list(axis_conditions(recorded))
    if found:  # nothing else can be looked up with certainty
        return found
    for check in (
        existence_conditions, _spaces, _norms, _layer_scales, attention_conditions, alibi_conditions, _adds, _ties,
        _post_norms, rotary_conditions, config_conditions, conversion_conditions,
    ):  # fmt: skip
        try:
            found += check(recorded)
        except ArchitectureError as error:
            found.append(Violation(kind="config", where="target_config", expected="a valid config", found=str(error)))
    return found


# Spaces.


def _spaces(rec: Recorded) -> Iterator[Violation]:
    used = {s for a in rec.arrows.values() for s in (*spaces_in(a.source), *spaces_in(a.target))}
    used |= {space for c in rec.architecture.attention for space in c.spaces}
    used |= {space for add in rec.adds for space in (add.source, add.target)}
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
    if axis in rec.index_axes and space not in rec.attention_maps and rec.grows(axis):
        yield wrong("no growth, as which of them is taken depends on them all", repr(kind))
        return
    maps = [rec.along(axis, index) for index in rec.sources(rec.size_indices[axis])]
    added = any((m.source < 0).any() for m in maps)
    repeated = any(m.source.size > m.source_size and not (m.source < 0).any() for m in maps)
    if (added or repeated) and kind is None:
        yield wrong("a word for what its new coordinates carry", "none")
    elif added and kind == "copy":
        yield wrong("a source for every coordinate of a copied axis", "coordinates without one")
    elif repeated and kind != "copy":
        yield wrong("'copy', as the axis repeats its source coordinates", repr(kind))
    if kind in ("mean", "silent", "split") and space in rec.architecture.activated:
        yield wrong("'live' or 'copy', as an activation function stands behind it", repr(kind))
        return
    if not added:
        return
    if space in rec.outputs and kind in ("live", "split"):
        yield wrong("'silent', as the model returns it", repr(kind))
    if kind == "split" and not _is_split_alone(rec, space, axis):
        yield wrong("RMSNorms over it, with gains, as the only readers of a split axis", "other readers")
    if kind == "mean" and axis not in rec.mean_axes(space):
        yield wrong("a LayerNorm over it that makes a mean disappear", "none")
    if kind == "silent" and space not in rec.linear and space not in rec.outputs:
        yield wrong("'live', as what reads it may not map zero to zero", repr(kind))


def _is_split_alone(rec: Recorded, space: str, axis: str) -> bool:
    if rec.joined(space) != {space} or space in rec.outputs:
        return False
    if any(space in c.spaces for c in rec.architecture.attention):
        return False
    readers = [a for a in rec.arrows.values() if space in set(spaces_in(a.source))]
    return all(a.kind == "norm" and a.gain and not a.centred and axis in rec.reduced(a) for a in readers)


def _space_scale(rec: Recorded, space: str) -> Iterator[Violation]:
    for index in rec.sources(rec.architecture.spaces[space].index):
        scale = rec.scale(space, index)
        if scale != ONE and space not in rec.linear - rec.outputs:
            why = "the model returns it" if space in rec.outputs else "what reads it may not be linear"
            yield Violation(
                kind="space",
                where=at_instance(space, index),
                expected=f"no scale, as {why}",
                found=f"the scale {scale}",
            )


# Where spaces meet.


def _norms(rec: Recorded) -> Iterator[Violation]:
    for name, arrow in rec.norms.items():
        source, target, reduced = space_of(arrow.source), space_of(arrow.target), rec.reduced(arrow)
        if not set(reduced) <= set(rec.architecture.spaces[source].axes):
            yield Violation(kind="norm", where=name, expected="axes of what it reads", found=str(reduced))
            continue
        for axis in rec.architecture.spaces[source].axes:
            yield from _norm_axis(rec, name, axis, axis in reduced, arrow.centred)
        for index in rec.sources_of(name):
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
            if not arrow.gain:  # nothing makes good for what the mean square has changed by, so readers must know
                wanted, found = rec.scale(source, index) / Root.sqrt(ratio), rec.scale(target, index)
                if found != wanted:
                    yield Violation(
                        kind="norm", where=where, expected=f"the scale {wanted} of {target}, as it has no gain",
                        found=str(found),
                    )  # fmt: skip


def _norm_axis(rec: Recorded, name: str, axis: str, is_reduced: bool, centred: bool) -> Iterator[Violation]:
    arrow = rec.arrows[name]
    source, target = space_of(arrow.source), space_of(arrow.target)
    before, after = rec.kind(source, axis), rec.kind(target, axis)
    if not rec.grows(axis):
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


def _layer_scales(rec: Recorded) -> Iterator[Violation]:
    """A vector that multiplies coordinate by coordinate: each keeps what it carries, and a mean would not stay one."""
    for name, arrow in rec.arrows.items():
        if arrow.kind != "scale":
            continue
        source, target = space_of(arrow.source), space_of(arrow.target)
        for axis in rec.architecture.spaces[source].axes:
            before, after = rec.kind(source, axis), rec.kind(target, axis)
            if not rec.grows(axis) or (before == after and before not in ("mean", "split")):
                continue
            dead = before == "silent" and after == "live"
            yield Violation(
                kind="dead" if dead else "norm", where=f"{name} along {axis}",
                expected="the same on both sides, and neither 'mean' nor 'split'", found=f"{before!r} and {after!r}",
            )  # fmt: skip


def _adds(rec: Recorded) -> Iterator[Violation]:
    for add in rec.adds:
        first, second = rec.architecture.spaces[add.source], rec.architecture.spaces[add.target]
        where = f"{add.source} + {add.target}"
        if set(first.axes) != set(second.axes) and any(map(rec.grows, (*first.axes, *second.axes))):
            yield Violation(kind="add", where=where, expected=f"the axes {first.axes}", found=str(second.axes))
            continue
        for axis in first.axes:
            kinds = (rec.kind(add.source, axis), rec.kind(add.target, axis)) if rec.grows(axis) else ("", "")
            if kinds[0] != kinds[1]:
                yield Violation(
                    kind="add", where=f"{where} along {axis}", expected=f"{kinds[0]!r} on both sides",
                    found=repr(kinds[1]),
                )  # fmt: skip
        for index in rec.sources(rec.outer(add.source, add.target)):
            if add.when is not None:
                was, there = (bool(compute(add.when, c, i)) for c, i in _both(rec, index))
                if was != there:
                    yield Violation(
                        kind="add", where=at_instance(where, index), expected=f"{add.when} to be {was}, as it was",
                        found=str(there),
                    )  # fmt: skip
                if not there:
                    continue
            before = added_factor(rec, add, rec.source_config, rec.origin(index))
            after = added_factor(rec, add, rec.target_config, index)
            if not before.square or not after.square:
                if before != after:
                    yield Violation(
                        kind="add", where=at_instance(where, index), expected=f"the factor {before}", found=str(after)
                    )
                continue
            mine, other, moved = rec.scale(add.source, index), rec.scale(add.target, index), after / before
            if mine * moved != other:
                why = "on both sides" if moved == ONE else f"of {add.target}, as the factor {before} becomes {after}"
                yield Violation(
                    kind="add", where=at_instance(where, index), expected=f"the scale {mine * moved} {why}",
                    found=str(other),
                )  # fmt: skip


def _both(rec: Recorded, index: Index) -> tuple[tuple[Config, Index], tuple[Config, Index]]:
    """Return the config and the instance in the source, and in the target."""
    return (rec.source_config, rec.origin(index)), (rec.target_config, index)


def added_factor(rec: Recorded, add: Add, config: Config, index: Index) -> Root:
    """Return the factor with which a vector is added, exactly as the class has it."""
    exact = evaluate(add.factor, config, index)
    return exact if add.rounded is None else Root.of(rounded(exact, rec.dtype(add.rounded)))


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
    ends = {(str(arrow.source), str(arrow.target)): arrow for arrow in rec.norms.values()}
    for arrow in ends.values():
        add = rec.residual(arrow)
        chain = rec.chain(arrow) if add is not None else []
        new = [(name, index) for name, index in chain if rec.is_new(index)]
        if add is None or not new:
            continue
        where = at_instance(*new[0])
        if chain[0] == new[0]:
            yield Violation(
                kind="layers", where=where, found="none", expected="a norm in front of it that hands over its gain"
            )
        elif add.factor != "1" or not all(rec.norms[name].gain for name, _ in chain):
            expected = "norms with gains, added with the factor 1, where a new layer norms twice"
            yield Violation(kind="layers", where=where, expected=expected, found=f"the factor {add.factor}, or no gain")


__all__ = ["added_factor", "local_conditions"]
