"""What new coordinates of every space carry, and by what every space is scaled: derived from the arrows alone.

A grown space must satisfy its readers. For each space and each axis that grows, new coordinates are

    live    written freely, ignored by every reader (MLP units, heads, value dims, the query side of a contraction)
    silent  written as zero, read freely (behind an RMSNorm; the key side of a contraction; a model's output)
    mean    written as the mean of the source's coordinates, read freely behind a LayerNorm
    copy    each repeats a source coordinate, and readers share their weight between the copies
    split   the source's coordinates are split in two such that their squares sum to the same (in front of a query norm)

and source coordinates are multiplied by one exact factor, the space's *scale* (see ``scales``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from growformer.architecture.arrows import Arrow
from growformer.architecture.declaration import Architecture, space_of, spaces_in
from growformer.architecture.exact import ONE, Root
from growformer.architecture.language import term_axes
from growformer.errors import NotPreservableError, PlanError
from growformer.planning.axis_map import AxisMap

New = Literal["live", "silent", "mean", "copy", "split"]
_VALUES = {"mean": "the mean of the others", "silent": "zero", "split": "half of another's square"}
Index = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SpaceState:
    """What growth does to one space.

    Attributes:
        new: axis -> what new coordinates along it carry; axes that do not grow are absent.
        scales: instance of the space (its index values, in order) -> exact factor on source coordinates.
    """

    new: Mapping[str, New]
    scales: Mapping[tuple[int, ...], Root]

    def scale(self, key: tuple[int, ...]) -> Root:
        """Return the factor of one instance."""
        return self.scales.get(key, ONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The two configs that growth leads from and to, and how target instances map to source instances.

    Attributes:
        source, target: resolved configs.
        origin: target index -> the source index it comes from or copies, or None where it is new and random.
        dtypes: template of a tensor -> dtype in the source.
    """

    architecture: Architecture
    source: Mapping[str, Any]
    target: Mapping[str, Any]
    origin: Callable[[Index], dict[str, int] | None]
    dtypes: Mapping[str, str] = field(default_factory=dict)

    def instances(self, index: tuple[str, ...]) -> Iterator[dict[str, int]]:
        """Yield the target's instances of index axes."""
        return self.architecture.instances(index, self.target)

    def pair(self, axis: str, index: Index) -> tuple[int, int]:
        """Return an axis' size in the source (0 where it is new) and in the target."""
        wanted = {name: index[name] for name in self.architecture.size_index(axis)}
        origin = self.origin(wanted)
        source = 0 if origin is None else self.architecture.size(axis, self.source, origin)
        return source, self.architecture.size(axis, self.target, wanted)

    def grows(self, axis: str) -> bool:
        """Tell whether an axis grows in any instance that has a source, from nothing as well."""
        instances = (i for i in self.instances(self.architecture.size_index(axis)) if self.origin(i) is not None)
        return any(source != target for source, target in (self.pair(axis, i) for i in instances))


def norm_axes(architecture: Architecture, arrow: Arrow) -> tuple[str, ...]:
    """Return the axes that a norm reduces."""
    if arrow.over is not None:
        return tuple(sorted(term_axes(arrow.over)))
    return architecture.spaces[space_of(arrow.source)].axes


def solve_new(sizes: Sizes) -> dict[str, dict[str, New]]:
    """Decide for every space what new coordinates carry.

    Raises:
        NotPreservableError: no choice satisfies all readers at these sizes.
    """
    architecture = sizes.architecture
    grown = {
        axis
        for axis in architecture.sizes
        if axis not in architecture.index_axes and axis not in architecture.fixed and sizes.grows(axis)
    }
    wants = _requirements(architecture, grown)
    copied: set[str] = set()
    for axis in grown:
        conflict = _conflict(architecture, wants, axis)
        if conflict:
            _must_divide(sizes, axis, conflict)
            copied.add(axis)
    found: dict[str, dict[str, New]] = {}
    for space in architecture.spaces.values():
        found[space.name] = {}
        for axis in space.axes:
            if axis in copied:
                found[space.name][axis] = "copy"
            elif axis in grown:
                wanted = sorted(_wanted(architecture, wants, space.name, axis))
                found[space.name][axis] = wanted[0] if wanted else "live"
    return found


def _requirements(architecture: Architecture, grown: set[str]) -> dict[tuple[str, str], dict[New, str]]:
    """Return (space, axis) -> what it must carry, with the reason."""
    wants: dict[tuple[str, str], dict[New, str]] = {}

    def want(space: str, axis: str, new: New, reason: str) -> None:
        wants.setdefault((space, axis), {})[new] = reason

    queries, heads = set(), set()
    for contraction in architecture.attention:
        for query, key in contraction.pairs:
            queries |= {(query, axis) for axis in contraction.over}
            for space in (query, key):
                heads |= {(space, a) for a in architecture.spaces[space].axes if a not in contraction.over}
            for axis in contraction.over:
                if axis in architecture.spaces[query].axes:
                    want(query, axis, "live", "queries")
                    want(key, axis, "silent", "keys: new ones must not add to any score")
        for space in contraction.per_head:
            for axis in architecture.spaces[space].axes:
                want(space, axis, "live", "a number per head")
    for name, arrow in architecture.arrows.items():
        if arrow.kind == "scale":
            for axis in architecture.spaces[space_of(arrow.source)].axes:
                want(space_of(arrow.source), axis, "silent", f"{name} multiplies it, and a mean would not stay one")
        if arrow.kind != "norm":
            continue
        source, target = space_of(arrow.source), space_of(arrow.target)
        for axis in norm_axes(architecture, arrow):
            meets = (target, axis) in queries or (target, axis) in heads
            if meets and not arrow.centred:
                want(source, axis, "split", f"{name} on queries or heads")
                continue
            if (target, axis) in queries and axis in grown:
                raise NotPreservableError(
                    f"cannot grow {architecture.sizes[axis]}: the LayerNorm {name} reads every query, and a new "
                    "coordinate of queries and keys would never learn behind it; grow other sizes"
                )
            want(source, axis, "mean" if arrow.centred else "silent", f"{name} reduces over it")
            if (target, axis) in heads:
                want(target, axis, "live", "new heads must attend to something")
            want(target, axis, "silent", f"{name} writes zero where it reads {'its mean' if arrow.centred else 0}")
    for space_name in architecture.activated:
        for axis in architecture.spaces[space_name].axes:
            want(space_name, axis, "live", f"an activation function on {space_name} keeps neither zeros nor means")
    readers = {s for arrow in architecture.arrows.values() for s in spaces_in(arrow.source)}
    readers |= {s for c in architecture.attention for s in (*c.queries, *c.keys, c.value, *c.per_head)}
    readers |= {add.source for add in architecture.adds}
    for name, found in architecture.spaces.items():
        if name not in readers:
            for axis in found.axes:
                want(name, axis, "silent", "an output of the model")
    return wants


def joined(architecture: Architecture, space: str) -> set[str]:
    """Return a space with all that carry the same there: what enters it without a weight, or by a LayerScale."""
    pairs = [(add.source, add.target) for add in architecture.adds]
    pairs += [(space_of(a.source), space_of(a.target)) for a in architecture.arrows.values() if a.kind == "scale"]
    found, frontier = {space}, [space]
    while frontier:
        here = frontier.pop()
        for pair in pairs:
            if here in pair:
                frontier += [other for other in pair if other not in found]
                found |= {*pair}
    return found


def averaged_axes(architecture: Architecture, space: str) -> set[str]:
    """Return the axes over which a mean in a space is taken: those of the LayerNorms that read it."""
    together = joined(architecture, space)
    return {
        axis
        for arrow in architecture.arrows.values()
        if arrow.kind == "norm" and arrow.centred and space_of(arrow.source) in together
        for axis in norm_axes(architecture, arrow)
    }


def _wanted(
    architecture: Architecture, wants: Mapping[tuple[str, str], Mapping[New, str]], space: str, axis: str
) -> dict[New, str]:
    """Return what a space and all that is added to it (or it is added to) must carry on an axis."""
    found: dict[New, str] = {}
    for name in sorted(joined(architecture, space)):
        found.update(wants.get((name, axis), {}))
    return found


def _conflict(architecture: Architecture, wants: Mapping[tuple[str, str], Mapping[New, str]], axis: str) -> str | None:
    for space in architecture.spaces.values():
        if axis in space.axes:
            wanted = _wanted(architecture, wants, space.name, axis)
            if len(wanted) > 1:
                return " against ".join(f"{_VALUES.get(new, new)} ({why})" for new, why in sorted(wanted.items()))
    return None


def _must_divide(sizes: Sizes, axis: str, conflict: str) -> None:
    for index in sizes.instances(sizes.architecture.size_index(axis)):
        source, target = sizes.pair(axis, index)
        if source and target % source:
            expression = sizes.architecture.sizes[axis]
            below, above = target // source * source, (target // source + 1) * source
            raise NotPreservableError(
                f"cannot grow {expression} {source} -> {target}: no value suits a new coordinate of {axis!r}: "
                f"{conflict}. It can only be repeated a whole number of times; nearest: {below}, {above}"
            )


def place(axis_new: set[New], source: int, target: int) -> AxisMap:
    """Return where new coordinates of an axis go: repeated when its spaces are copied, otherwise after the source's.

    A head or layer that is new may be smaller than the one it starts from, and then takes its first coordinates; that
    nothing shrinks in instances that have a source, the resolver has made sure.

    Raises:
        PlanError: an axis whose spaces are copied would shrink.
    """
    if "copy" in axis_new and source:
        if target < source:
            raise PlanError(f"an axis cannot shrink from {source} to {target}")
        return AxisMap.tile(source, target)
    if target < source:
        return AxisMap(source, ((0, target),))
    return AxisMap.append(source, target)
