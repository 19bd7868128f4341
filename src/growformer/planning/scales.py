"""By what every space is scaled, and by what every epsilon: derived from norms, attention, additions and ties.

Source coordinates of a space are multiplied by one exact factor, its *scale*. A norm that reads a space of n
coordinates grown to n', scaled by w, with squares repeated C times, sees a mean square of rho = w^2 C n / n'
times the source's. It is exact when its epsilon is multiplied by rho, and the gain by sqrt(rho) / w.
Two choices follow (MATHEMATICS: gain form and stream form): leave w = 1 and scale an epsilon of the config, or
choose w so that rho = 1, where the epsilon is a constant of the class. A norm without a gain hands the factor on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import prod

import numpy as np

from growformer.architecture.arrows import Arrow
from growformer.architecture.declaration import Architecture, space_of
from growformer.architecture.exact import ONE, Root, compute, evaluate
from growformer.architecture.facts import Add
from growformer.errors import NotPreservableError
from growformer.planning.spaces import Index, New, Sizes, SpaceState, norm_axes


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
    scales = _Scales(sizes)
    for space in architecture.outputs:
        for index in scales.instances(space):
            scales.set(space, index, ONE)
    for name, arrow in norms.items():
        space = space_of(arrow.source)
        for index in scales.instances(space):
            factor = Root.sqrt(rho[name] / shrink[name](index))
            if scales.set(space, index, factor) != factor:
                if space in architecture.outputs:
                    raise NotPreservableError(
                        f"{architecture.name}: {space!r} would have to be scaled by {factor} for {name}, whose epsilon "
                        "is a constant of the class, and the model returns it as it is"
                    )
                raise NotPreservableError(
                    f"{architecture.name}: two norms read {space!r} with different epsilons; no scale suits both"
                )
    gainless = [(name, arrow) for name, arrow in norms.items() if not arrow.gain]
    links = scales.links(gainless, rho)
    scales.spread(links)
    _scale_keys(sizes, scales)
    if tied:
        _scale_tied(sizes, new, scales)
    scales.settle(links)
    for name in architecture.activated:
        if scales.differ_from_one(name):
            raise NotPreservableError(
                f"{architecture.name}: {name!r} would be scaled in front of its activation function"
            )
    states = {name: SpaceState(dict(new[name]), scales.of(name)) for name in architecture.spaces}
    fields = {str(arrow.eps): rho[name] for name, arrow in norms.items() if isinstance(arrow.eps, str)}
    return states, {name: factor for name, factor in fields.items() if factor != 1}


_Link = tuple[str, str, dict[str, int], Root]
"""Source and target space, instance, and by what the target's scale differs from the source's."""


class _Scales:
    """The factors found so far; what is absent is not decided, and stands for one in the end."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.spaces = sizes.architecture.spaces
        self.found: dict[str, dict[tuple[int, ...], Root]] = {name: {} for name in self.spaces}

    def instances(self, space: str) -> Iterator[dict[str, int]]:
        return self.sizes.instances(self.spaces[space].index)

    def _key(self, space: str, index: Index) -> tuple[int, ...]:
        return tuple(index[name] for name in self.spaces[space].index if name in index)

    def get(self, space: str, index: Index) -> Root | None:
        return self.found[space].get(self._key(space, index))

    def set(self, space: str, index: Index, factor: Root) -> Root:
        """Decide a factor if it is not decided yet, and return what it is."""
        return self.found[space].setdefault(self._key(space, index), factor)

    def of(self, space: str) -> dict[tuple[int, ...], Root]:
        return {key: factor for key, factor in self.found[space].items() if factor != ONE}

    def differ_from_one(self, space: str) -> bool:
        return bool(self.of(space))

    def links(self, gainless: Sequence[tuple[str, Arrow]], rho: Mapping[str, Fraction]) -> list[_Link]:
        """Return which scales determine each other: those of additions, and of norms that have no gain to change."""
        found: list[_Link] = [
            (add.source, add.target, index, _growth_of_factor(self.sizes, add))
            for add in self.sizes.architecture.adds
            for index in self._pairs(add.source, add.target)
            if add.when is None or compute(add.when, self.sizes.target, index)
        ]
        for contraction in self.sizes.architecture.attention:
            ends = contraction.value, contraction.output
            found += [(*ends, index, ONE) for index in self._pairs(*ends)]
        for name, arrow in gainless:
            source, target = space_of(arrow.source), space_of(arrow.target)
            found += [(source, target, index, ONE / Root.sqrt(rho[name])) for index in self._pairs(source, target)]
        return found

    def spread(self, links: Sequence[_Link]) -> None:
        """Carry what is decided over links."""
        changed = True
        while changed:
            changed = False
            for source, target, index, ratio in links:
                before, after = self.get(source, index), self.get(target, index)
                if before is not None and after is None:
                    self.set(target, index, before * ratio)
                elif before is None and after is not None:
                    self.set(source, index, after / ratio)
                else:
                    continue
                changed = True

    def settle(self, links: Sequence[_Link]) -> None:
        """Decide what is left, the ends of links first, and check that all links hold.

        Raises:
            NotPreservableError: two that must agree do not.
        """
        self.spread(links)
        for _, target, index, ratio in reversed(links):
            if ratio != ONE and self.get(target, index) is None:
                self.set(target, index, ONE)
                self.spread(links)
        for source, target, index, ratio in links:
            before, after = self.get(source, index) or ONE, self.get(target, index) or ONE
            if before * ratio != after:
                raise NotPreservableError(
                    f"{self.sizes.architecture.name}: {source!r} enters {target!r}, but they would be scaled by "
                    f"{before * ratio} and {after}; these sizes leave no exact choice"
                )

    def _pairs(self, first: str, second: str) -> Iterator[dict[str, int]]:
        wanted = {*self.spaces[first].index, *self.spaces[second].index}
        return self.sizes.instances(tuple(a for a in self.sizes.architecture.sizes if a in wanted))


def _growth_of_factor(sizes: Sizes, add: Add) -> Root:
    """Return by what the factor of an addition changes, as the class computes it."""
    before, after = (evaluate(add.factor, config) for config in (sizes.source, sizes.target))
    if add.rounded is None or before == after:
        return after / before
    dtype = sizes.dtypes.get(add.rounded, "float32")
    return Root.of(rounded(float(after), dtype)) / Root.of(rounded(float(before), dtype))


def rounding_notes(sizes: Sizes) -> tuple[str, ...]:
    """Say where a class rounds a factor that depends on a size, so that growth holds for one dtype of the weights."""
    return tuple(
        f"the class multiplies {add.source} by {add.factor}, rounded to the dtype of the weights: this plan is exact "
        f"for {sizes.dtypes.get(add.rounded, 'float32')}, in which they are stored; run in another dtype, the rounding "
        "of that factor (up to 0.4 % in bfloat16) comes on top"
        for add in sizes.architecture.adds
        if add.rounded is not None and _growth_of_factor(sizes, add) != ONE
    )


def rounded(value: float, dtype: str) -> Fraction:
    """Return a number as a class holds it that makes a float32 tensor of it and then converts that to a dtype."""
    single = np.float32(value)
    if dtype == "float16":
        return Fraction(float(np.float16(single)))
    if dtype == "bfloat16":
        bits = int(single.view(np.uint32))
        bits += 0x7FFF + ((bits >> 16) & 1)  # to the nearest, ties to even
        return Fraction(float(np.uint32(bits & 0xFFFF0000).view(np.float32)))
    return Fraction(float(single))


def _scale_keys(sizes: Sizes, scales: _Scales) -> None:
    """Make up on keys for what the scale of the scores and the scale of queries change.

    Raises:
        NotPreservableError: the keys' scale is decided already.
    """
    for contraction in sizes.architecture.attention:
        for query, key in contraction.pairs:
            for index in scales.instances(key):
                origin = sizes.origin(index)
                if origin is None:
                    continue
                before = evaluate(contraction.scale, sizes.source, origin)
                after = evaluate(contraction.scale, sizes.target, index)
                factor = before / after / (scales.get(query, index) or ONE)
                if scales.set(key, index, factor) != factor:
                    raise NotPreservableError(
                        f"{sizes.architecture.name}: {key!r} would have to be scaled by {factor}, and by "
                        f"{scales.get(key, index)} for another reason; these sizes leave no exact choice"
                    )


def _scale_tied(sizes: Sizes, new: Mapping[str, Mapping[str, New]], scales: _Scales) -> None:
    """Scale what a tied head reads such that it can share the table that growth scaled or repeated."""
    architecture = sizes.architecture
    for head, table in architecture.ties.items():
        reads = [d for d in architecture.tensors[head].dims if d.role == "read"]
        if not reads:
            continue
        space = space_of(reads[0].term)
        written = space_of(next(d.term for d in architecture.tensors[table].dims if d.role == "write"))
        copies = prod(
            (sizes.pair(a, {})[1] // sizes.pair(a, {})[0] for a, n in new[written].items() if n == "copy"), start=1
        )
        factor = ONE / Fraction(copies) / (scales.get(written, {}) or ONE)
        if scales.set(space, {}, factor) != factor:
            raise NotPreservableError(
                f"cannot grow with {head} tied to {table}: what the head reads would have to be scaled by {factor}, "
                f"and it is the residual stream itself. {_way_out(architecture)}"
            )


def _way_out(architecture: Architecture) -> str:
    """Return what to do where a tied head stands in the way."""
    field = architecture.tie_field
    if field is None:
        return "Its class ties them always; the model without its head can grow"
    if field in architecture.constants:
        return (
            f"They cannot be untied ({field} = false: {architecture.constants[field][1]}); the model without its head "
            "can grow"
        )
    return f"Untie them first ({field}=false, and a copy of the table as the head's weight)"


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
        # A norm without a gain hands on what its epsilon is multiplied by; in the stream form that is nothing.
        constant = any(not isinstance(norms[n].eps, str) or not norms[n].gain for n in members)
        is_global = [n for n in members if not sizes.architecture.spaces[space_of(norms[n].source)].index]
        deciding = [n for n in members if _cannot_be_scaled(sizes, norms[n])] or is_global
        found[name] = Fraction(1) if constant or not deciding else shrink[deciding[0]]({})
    return found


def _cannot_be_scaled(sizes: Sizes, arrow: Arrow) -> bool:
    """Tell whether a norm decides over its epsilon for all others.

    An activation function stands in front of it, or what it writes is added to what it reads (post-norm), and is what
    the model gives in the end.
    """
    source, target = space_of(arrow.source), space_of(arrow.target)
    added = any((add.source, add.target) == (target, source) for add in sizes.architecture.adds)
    of_one_size = not any(sizes.architecture.size_index(axis) for axis in norm_axes(sizes.architecture, arrow))
    return of_one_size and (added or source in sizes.architecture.activated)
