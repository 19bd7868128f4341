"""What new coordinates of every space carry, as the declaration demands it of whoever grows an axis by default.

Each place where spaces meet demands something of the axes it sums or averages over; spaces that are added share their
demands. An axis of which one space is asked for two things at once can only repeat its source coordinates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from growformer.architecture.declaration import Architecture, space_of, spaces_in
from growformer.architecture.language import term_axes

Kinds = dict[str, dict[str, str]]
"""Space -> axis -> what its new coordinates carry."""


def kinds_of(
    architecture: Architecture, grown: Collection[str], copied: Collection[str] = ()
) -> tuple[Kinds, set[str]]:
    """Return what new coordinates carry, and the axes that can only repeat their source coordinates.

    Args:
        architecture: the declaration, as it holds for the source.
        grown: the axes that grow.
        copied: axes that repeat their source coordinates although they need not.
    """
    demands = _demands(architecture)
    repeated = set(copied)
    for axis in grown:
        for space in architecture.spaces.values():
            if axis in space.axes and len(_of_all_joined(architecture, demands, space.name, axis)) > 1:
                repeated.add(axis)
    found: Kinds = {}
    for space in architecture.spaces.values():
        found[space.name] = {}
        for axis in space.axes:
            if axis in repeated:
                found[space.name][axis] = "copy"
            elif axis in grown:
                wanted = _of_all_joined(architecture, demands, space.name, axis)
                found[space.name][axis] = next(iter(wanted), "live")
    return found, repeated


def _demands(architecture: Architecture) -> Mapping[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for space, axis, kind in (*_of_attention(architecture), *_of_arrows(architecture), *_of_ends(architecture)):
        found.setdefault((space, axis), set()).add(kind)
    return found


def _of_attention(architecture: Architecture) -> Iterator[tuple[str, str, str]]:
    """Scores are sums over queries times keys: new keys add nothing. New heads, and numbers per head, are ignored."""
    for c in architecture.attention:
        for query, key in c.pairs:
            for axis in c.over:
                if axis in architecture.spaces[query].axes:
                    yield query, axis, "live"
                    yield key, axis, "silent"
        own = architecture.spaces[c.value].axes
        yield from ((c.output, axis, "live") for axis in architecture.spaces[c.output].axes if axis not in own)
        yield from ((space, axis, "live") for space in c.per_head for axis in architecture.spaces[space].axes)


def _of_arrows(architecture: Architecture) -> Iterator[tuple[str, str, str]]:
    """A norm must not see what is new: zero in front of an RMSNorm, the mean in front of a LayerNorm.

    On queries, keys and heads, where zero would never learn, the square of old coordinates is split.
    """
    compared, heads = set(), set()
    for c in architecture.attention:
        for query, key in c.pairs:
            compared |= {(query, axis) for axis in c.over}
            heads |= {(s, axis) for s in (query, key) for axis in architecture.spaces[s].axes if axis not in c.over}
    for arrow in architecture.arrows.values():
        if arrow.kind == "scale":
            space = space_of(arrow.source)
            yield from ((space, axis, "silent") for axis in architecture.spaces[space].axes)
        if arrow.kind != "norm":
            continue
        source, target = space_of(arrow.source), space_of(arrow.target)
        over = sorted(term_axes(arrow.over)) if arrow.over is not None else architecture.spaces[source].axes
        for axis in over:
            on_heads = (target, axis) in heads
            if not arrow.centred and (on_heads or (target, axis) in compared):
                yield source, axis, "split"
                continue
            yield source, axis, "mean" if arrow.centred else "silent"
            yield target, axis, "silent"
            if on_heads:
                yield target, axis, "live"


def _of_ends(architecture: Architecture) -> Iterator[tuple[str, str, str]]:
    """An activation keeps neither zero nor mean; and the model's own outputs have nothing new but zeros."""
    for space in architecture.activated:
        yield from ((space, axis, "live") for axis in architecture.spaces[space].axes)
    read = {s for arrow in architecture.arrows.values() for s in spaces_in(arrow.source)}
    read |= {s for c in architecture.attention for s in (*c.queries, *c.keys, c.value, *c.per_head)}
    read |= {add.source for add in architecture.adds}
    for space, found in architecture.spaces.items():
        if space not in read:
            yield from ((space, axis, "silent") for axis in found.axes)


def _of_all_joined(
    architecture: Architecture, demands: Mapping[tuple[str, str], set[str]], space: str, axis: str
) -> set[str]:
    """Return what is demanded of an axis in a space, and in all that carry the same there."""
    pairs = [(add.source, add.target) for add in architecture.adds]
    pairs += [(space_of(a.source), space_of(a.target)) for a in architecture.arrows.values() if a.kind == "scale"]
    pairs += [(c.value, c.output) for c in architecture.attention if axis in architecture.spaces[c.value].axes]
    together, pending = {space}, [space]
    while pending:
        here = pending.pop()
        more = {end for pair in pairs if here in pair for end in pair} - together
        together |= more
        pending += more
    return {kind for name in together for kind in demands.get((name, axis), ())}


__all__ = ["Kinds", "kinds_of"]
