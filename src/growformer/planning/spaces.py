"""What new coordinates of every space carry, and by what every space is scaled: derived from the arrows alone.

A grown space must satisfy its readers. For each space and each axis that grows, new coordinates are

    live    written freely, ignored by every reader (MLP units, heads, value dims, the query side of a contraction)
    silent  written as zero, read freely (behind an RMSNorm; the key side of a contraction; a model's output)
    mean    written as the mean of the source's coordinates, read freely behind a LayerNorm
    copy    each repeats a source coordinate, and readers share their weight between the copies
    split   the source's coordinates are split in two such that their squares sum to the same (in front of a query norm)

and source coordinates are multiplied by one exact factor, the space's *scale*. A norm that reads a space of n
coordinates grown to n', scaled by w, with squares repeated C times, sees a mean square of rho = w^2 C n / n'
times the source's. It is exact when its epsilon is multiplied by rho, and the gain by sqrt(rho) / w.
Two choices follow (MATHEMATICS: gain form and stream form): leave w = 1 and scale an epsilon of the config, or
choose w so that rho = 1, where the epsilon is a constant of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any, Literal

from growformer.architecture.declaration import Architecture, Arrow, space_of, spaces_in
from growformer.architecture.exact import ONE, Root, evaluate
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
    """

    architecture: Architecture
    source: Mapping[str, Any]
    target: Mapping[str, Any]
    origin: Callable[[Index], dict[str, int] | None]

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
        """Tell whether an axis grows in any instance that has a source."""
        pairs = (self.pair(axis, i) for i in self.instances(self.architecture.size_index(axis)))
        return any(source and source != target for source, target in pairs)


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
    wants = _requirements(architecture)
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


def _requirements(architecture: Architecture) -> dict[tuple[str, str], dict[New, str]]:
    """Return (space, axis) -> what it must carry, with the reason."""
    wants: dict[tuple[str, str], dict[New, str]] = {}

    def want(space: str, axis: str, new: New, reason: str) -> None:
        wants.setdefault((space, axis), {})[new] = reason

    queries = {(c.query, axis) for c in architecture.attention for axis in c.over}
    heads = {
        (space, axis)
        for c in architecture.attention
        for space in (c.query, c.key)
        for axis in architecture.spaces[space].axes
        if axis not in c.over
    }
    for contraction in architecture.attention:
        for axis in contraction.over:
            want(contraction.query, axis, "live", "queries")
            want(contraction.key, axis, "silent", "keys: new ones must not add to any score")
    for name, arrow in architecture.arrows.items():
        if arrow.kind != "norm":
            continue
        source, target = space_of(arrow.source), space_of(arrow.target)
        reduced = norm_axes(architecture, arrow)
        for axis in architecture.spaces[source].axes:
            if axis not in reduced:
                continue
            if (target, axis) in queries:
                if arrow.centred:
                    raise NotPreservableError(f"{name}: a LayerNorm on queries cannot be split")
                want(source, axis, "split", f"{name} on queries")
            else:
                want(source, axis, "mean" if arrow.centred else "silent", f"{name} reduces over it")
                if (target, axis) in heads:
                    want(target, axis, "live", "new heads must attend to something")
                want(target, axis, "silent", f"{name} writes zero where it reads {'its mean' if arrow.centred else 0}")
    for space_name in architecture.activated:
        for axis in architecture.spaces[space_name].axes:
            want(space_name, axis, "live", f"an activation function on {space_name} keeps neither zeros nor means")
    readers = {s for arrow in architecture.arrows.values() for s in spaces_in(arrow.source)}
    readers |= {s for c in architecture.attention for s in (c.query, c.key, c.value)}
    readers |= {a for a, _ in architecture.adds}
    for space in architecture.spaces.values():
        if space.name not in readers:
            for axis in space.axes:
                want(space.name, axis, "silent", "an output of the model")
    return wants


def _wanted(
    architecture: Architecture, wants: Mapping[tuple[str, str], Mapping[New, str]], space: str, axis: str
) -> dict[New, str]:
    """Return what a space and all that is added to it (or it is added to) must carry on an axis."""
    joined, frontier = {space}, [space]
    while frontier:
        here = frontier.pop()
        for a, b in architecture.adds:
            for other in ({a: b, b: a}.get(here),):
                if other is not None and other not in joined:
                    joined.add(other)
                    frontier.append(other)
    found: dict[New, str] = {}
    for name in sorted(joined):
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


def solve_scales(
    sizes: Sizes, new: Mapping[str, Mapping[str, New]], tied: bool
) -> tuple[dict[str, SpaceState], dict[str, Fraction]]:
    """Decide the scale of every space, and the factor on every epsilon that is a config field.

    Args:
        sizes: the two configs.
        new: what ``solve_new`` found.
        tied: whether the ties of the architecture hold in this source.

    Raises:
        NotPreservableError: an epsilon or a tie leaves no exact choice.
    """
    architecture = sizes.architecture
    norms = {name: a for name, a in architecture.arrows.items() if a.kind == "norm"}
    shrink = {name: _shrink(sizes, new, arrow) for name, arrow in norms.items()}
    rho = _epsilon_factors(sizes, norms, shrink)
    scales: dict[str, dict[tuple[int, ...], Root]] = {name: {} for name in architecture.spaces}

    def instances(space: str) -> Iterator[dict[str, int]]:
        return sizes.instances(architecture.spaces[space].index)

    def key(space: str, index: Index) -> tuple[int, ...]:
        return tuple(index[name] for name in architecture.spaces[space].index)

    for name, arrow in norms.items():
        space = space_of(arrow.source)
        for index in instances(space):
            factor = Root.sqrt(rho[name] / shrink[name](index))
            at = key(space, index)
            if scales[space].setdefault(at, factor) != factor:
                raise NotPreservableError(
                    f"{architecture.name}: two norms read {space!r} with different epsilons; no scale suits both"
                )
    for contraction in architecture.attention:
        for index in instances(contraction.key):
            origin = sizes.origin(index)
            if origin is None:
                continue
            before = evaluate(contraction.scale, sizes.source, origin)
            after = evaluate(contraction.scale, sizes.target, index)
            query = scales[contraction.query].get(key(contraction.query, index), ONE)
            scales[contraction.key][key(contraction.key, index)] = before / after / query
    if tied:
        for head, table in architecture.ties.items():
            reads = [d for d in architecture.tensors[head].dims if d.role == "read"]
            if not reads:
                continue
            space = space_of(reads[0].term)
            written = space_of(next(d.term for d in architecture.tensors[table].dims if d.role == "write"))
            copies = prod(
                (sizes.pair(a, {})[1] // sizes.pair(a, {})[0] for a, n in new[written].items() if n == "copy"), start=1
            )
            scales[space][()] = ONE / Fraction(copies) / scales[written].get((), ONE)
    for a, b in architecture.adds:
        if scales[a] != scales[b] and {*scales[a].values(), *scales[b].values()} - {ONE}:
            raise NotPreservableError(f"{architecture.name}: {a!r} is added to {b!r}, but their scales differ")
    for name in architecture.activated:
        if {*scales[name].values()} - {ONE}:
            raise NotPreservableError(
                f"{architecture.name}: {name!r} would be scaled in front of its activation function"
            )
    states = {name: SpaceState(dict(new[name]), {k: v for k, v in scales[name].items() if v != ONE}) for name in scales}
    fields = {str(arrow.eps): rho[name] for name, arrow in norms.items() if isinstance(arrow.eps, str)}
    return states, {name: factor for name, factor in fields.items() if factor != 1}


def _shrink(sizes: Sizes, new: Mapping[str, Mapping[str, New]], arrow: Arrow) -> Callable[[Index], Fraction]:
    """Return how much the mean square over a norm's axes shrinks when its space is not scaled: C n / n'."""
    space = sizes.architecture.spaces[space_of(arrow.source)]
    reduced = norm_axes(sizes.architecture, arrow)

    def shrink(index: Index) -> Fraction:
        factor = Fraction(1)
        for axis in reduced:
            source, target = sizes.pair(axis, index)
            if source and new[space.name].get(axis) in ("silent", "mean", "split"):
                factor *= Fraction(source, target)
        return factor

    return shrink


def _epsilon_factors(
    sizes: Sizes, norms: Mapping[str, Arrow], shrink: Mapping[str, Callable[[Index], Fraction]]
) -> dict[str, Fraction]:
    """Return the factor on each norm's epsilon: one per group of norms that share an epsilon or a space."""
    group = {name: {name} for name in norms}
    for a, first in norms.items():
        for b, second in norms.items():
            shared = isinstance(first.eps, str) and first.eps == second.eps
            if (shared or space_of(first.source) == space_of(second.source)) and group[a] is not group[b]:
                group[a] |= group[b]
                for name in group[b]:
                    group[name] = group[a]
    found: dict[str, Fraction] = {}
    for name in norms:
        members = [n for n in norms if n in group[name]]
        constant = any(not isinstance(norms[n].eps, str) for n in members)
        is_global = [n for n in members if not sizes.architecture.spaces[space_of(norms[n].source)].index]
        found[name] = Fraction(1) if constant or not is_global else shrink[is_global[0]]({})
    return found


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
