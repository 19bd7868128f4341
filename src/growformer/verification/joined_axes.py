"""Which axes of which spaces are one set of coordinates: those that norms, attention, additions and ties join."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from growformer.architecture.declaration import Architecture, Arrow, space_of, spaces_in
from growformer.architecture.facts import Add, Attention

Node = tuple[str, str]
"""A space and one of its axes."""


def joined_axes(
    architecture: Architecture,
    arrows: Collection[Arrow],
    attention: Collection[Attention],
    adds: Iterable[Add],
    ties: Mapping[str, str],
) -> list[frozenset[Node]]:
    """Return the axes of spaces in groups that can only be permuted together.

    Args:
        architecture: the declaration.
        arrows: those that the model has.
        attention: the contractions that it has.
        adds: the additions that it has.
        ties: template of a tied tensor -> that of the tensor whose storage it shares.
    """
    spaces = {s for a in arrows for t in (a.source, a.target) for s in spaces_in(t)}
    group: dict[Node, set[Node]] = {(s, a): {(s, a)} for s in spaces for a in architecture.spaces[s].axes}

    def join(*members: Node) -> None:
        here = [node for node in members if node in group]
        for node in here[1:]:
            if group[node] is not group[here[0]]:
                group[here[0]] |= group[node]
                for other in group[node]:
                    group[other] = group[here[0]]

    for arrow in arrows:
        if arrow.kind in ("norm", "scale"):
            source, target = space_of(arrow.source), space_of(arrow.target)
            for axis in architecture.spaces[source].axes:
                join((source, axis), (target, axis))
    for c in attention:
        for axis in architecture.sizes:
            if axis not in c.over:
                join(*((space, axis) for space in (*c.spaces, *((c.maps,) if c.maps else ()))))
                continue
            for query, key in c.pairs:
                join((query, axis), (key, axis))
            join((c.value, axis), (c.output, axis))
    # One set of frequencies for all that it turns.
    rotated = {rotary.frequency for rotary in architecture.rotary}
    turned = [
        (space, [axis for axis in c.over if axis in architecture.spaces[query].axes])
        for c in attention
        for query, key in c.pairs
        for space in (query, key)
    ]
    for axis in architecture.sizes:
        join(*((space, axis) for space, axes in turned if axis in axes and rotated & {*axes}))
    for add in adds:
        for axis in architecture.sizes:
            join((add.source, axis), (add.target, axis))
    for name, table in ties.items():
        for one, other in zip(architecture.tensors[name].dims, architecture.tensors[table].dims, strict=True):
            for a, b in zip(spaces_in(one.term), spaces_in(other.term), strict=True):
                for axis in architecture.spaces[a].axes:
                    join((a, axis), (b, axis))
    found = {id(members): frozenset(members) for members in group.values()}
    return sorted(found.values(), key=sorted)


__all__ = ["Node", "joined_axes"]
