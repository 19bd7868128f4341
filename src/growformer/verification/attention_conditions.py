"""Where queries meet keys and weights mix values: which words and scales leave every score and every mean as it is."""

from __future__ import annotations

from collections.abc import Iterator

from growformer.architecture.exact import ONE, evaluate
from growformer.architecture.facts import Attention
from growformer.verification.recorded import Recorded
from growformer.verification.violations import Violation, at_instance


def attention_conditions(rec: Recorded) -> Iterator[Violation]:
    """Yield every contraction whose scores or means would not be the source's."""
    for c in rec.architecture.attention:
        for query, key in c.pairs:
            yield from _products(rec, c, query, key)
        for space in c.per_head:
            yield from _per_head(rec, c, space)
        if c.maps is not None:
            yield from _maps(rec, c, c.maps)
        where = f"attention {' + '.join(f'{query} . {key}' for query, key in c.pairs)}"
        for axis in rec.architecture.spaces[c.output].axes:
            yield from _mixed(rec, c, axis, where)
        for index in rec.sources(rec.outer(c.value, c.output)):
            values, output = rec.scale(c.value, index), rec.scale(c.output, index)
            if values != output:
                yield Violation(
                    kind="contraction", where=f"{where} {at_instance(c.output, index)}",
                    expected=f"the scale {values} of the values", found=str(output),
                )  # fmt: skip


def _products(rec: Recorded, c: Attention, query: str, key: str) -> Iterator[Violation]:
    """Each product enters the score by itself, and sums over those of the axes that it has."""
    spaces = rec.architecture.spaces
    over = [axis for axis in c.over if axis in spaces[query].axes or axis in spaces[key].axes]

    def wrong(kind: str, at: str, expected: str, found: str) -> Violation:
        return Violation(kind=kind, where=f"attention {query} . {key} {at}", expected=expected, found=found)

    for axis in over:
        if axis not in spaces[query].axes or axis not in spaces[key].axes:
            yield wrong("contraction", f"along {axis}", "an axis of queries and keys", "one that only one of them has")
            return
        if not rec.grows(axis):
            continue
        pair = (rec.kind(query, axis), rec.kind(key, axis))
        found = f"{pair[0]!r} queries and {pair[1]!r} keys"
        if pair == ("silent", "silent"):
            yield wrong("dead", f"along {axis}", "one side that is not silent, or neither ever learns", found)
        elif pair != ("copy", "copy") and ("silent" not in pair or not {*pair} <= {"silent", "live", "mean"}):
            yield wrong("contraction", f"along {axis}", "one silent side, or scores would change", found)
    for axis in spaces[query].axes:
        shared = axis not in over and axis in spaces[key].axes and rec.grows(axis)
        if shared and rec.kind(query, axis) == rec.kind(key, axis) == "silent":
            yield wrong(
                "dead", f"along {axis}", "one side that is not silent, or neither ever learns",
                "'silent' queries and 'silent' keys",
            )  # fmt: skip
    for index in rec.sources(rec.outer(query, key)):
        before = evaluate(c.scale, rec.source_config, rec.origin(index))
        after = evaluate(c.scale, rec.target_config, index)
        product = rec.scale(query, index) * rec.scale(key, index) * after / before
        for axis in over:
            product = product * min(rec.energies(query, axis, index))
        if product != ONE:
            yield wrong("contraction", at_instance("scores", index), "scores times 1", f"times {product}")


def _per_head(rec: Recorded, c: Attention, space: str) -> Iterator[Violation]:
    """A number per head enters the scores as it is: those of new heads are ignored with their heads."""
    spaces = rec.architecture.spaces

    def wrong(at: str, expected: str, found: str) -> Violation:
        return Violation(kind="contraction", where=at, expected=expected, found=found)

    for axis in spaces[space].axes:
        kinds = {rec.kind(s, axis) for s in (*c.queries, *c.keys) if axis in spaces[s].axes and axis not in c.over}
        if not kinds:
            yield wrong(f"{space} along {axis}", "an axis of the scores", "another")
            continue
        wanted = "copy" if kinds == {"copy"} else "live"
        if rec.grows(axis) and rec.kind(space, axis) != wanted:
            yield wrong(f"{space} along {axis}", f"{wanted!r}, as a number per head", repr(rec.kind(space, axis)))
    for index in rec.sources(rec.outer(space)):
        if rec.scale(space, index) != ONE:
            yield wrong(
                at_instance(space, index), "no scale, as it enters the scores", f"the scale {rec.scale(space, index)}"
            )


def _maps(rec: Recorded, c: Attention, space: str) -> Iterator[Violation]:
    """Those of new heads and layers are anything; those of the others are as they were."""
    for axis in rec.architecture.spaces[space].axes:
        found = rec.kind(space, axis)
        if rec.grows(axis) and found not in ("live", "copy"):
            yield Violation(
                kind="contraction", where=f"{space} along {axis}", expected="'live', as attention weights are",
                found=repr(found),
            )  # fmt: skip
    for index in rec.sources(rec.outer(space)):
        if rec.scale(space, index) != ONE:
            yield Violation(
                kind="contraction", where=at_instance(space, index), found=f"the scale {rec.scale(space, index)}",
                expected="no scale, as attention weights have none",
            )  # fmt: skip


def _mixed(rec: Recorded, c: Attention, axis: str, where: str) -> Iterator[Violation]:
    """Attention's output is a mean of values, weighted by scores: what may it carry along one of its axes?"""
    if not rec.grows(axis):
        return
    spaces = rec.architecture.spaces
    values = rec.kind(c.value, axis) if axis in spaces[c.value].axes else None
    scores = {rec.kind(s, axis) for s in (*c.queries, *c.keys) if axis in spaces[s].axes and axis not in c.over}
    found = rec.kind(c.output, axis)
    if values is None:  # a new query head mixes source values by new scores
        wanted = "copy" if scores == {"copy"} else "live"
    elif values == "copy":  # the copies agree where their scores do
        wanted = "copy" if scores <= {"copy"} else "live"
    else:
        wanted = values
    if found == wanted:
        return
    dead = values in ("silent", "mean") and found == "live"
    expected = "readers that look at inert coordinates" if dead else f"{wanted!r} coordinates in {c.output}"
    yield Violation(
        kind="dead" if dead else "contraction", where=f"{where} along {axis}", expected=expected, found=repr(found)
    )


__all__ = ["attention_conditions"]
