"""What a declaration promises about a model, as experiments on its weights: permutations, scalings, shifts.

Shapes cannot tell ``(heads [q k v] key)`` from ``([q k v] heads key)``, nor which of two vectors of one size a weight
reads. A change of coordinates can: done to *every* tensor that is said to carry a space it is invisible in the
outputs, and done to one tensor alone it is not. Every experiment follows from the arrows:

    permutation  of an axis, in all spaces that norms, attention, additions and ties join
    scaling      of what a norm writes, of queries against keys, of values through attention; undone by the readers
    shift        of what norms read by a constant: invisible behind LayerNorms, visible in front of anything else
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from growformer.architecture.declaration import Architecture, Arrow, Attention, TensorSpec, space_of, spaces_in
from growformer.architecture.language import Leaf, leaves
from growformer.architecture.source import SourceInfo

Node = tuple[str, str]
"""A space and one of its axes."""
Change = Callable[[torch.Tensor], torch.Tensor]
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One space in one dimension of one stored tensor.

    Attributes:
        tensor: canonical name.
        spec: the tensor's template.
        index: values of the template's index axes.
        dim: which dimension.
        leaf: the space there, its axes, and where each coordinate lies.
    """

    tensor: str
    spec: TensorSpec
    index: Mapping[str, int]
    dim: int
    leaf: Leaf

    @property
    def space(self) -> str:
        """The space's name."""
        return str(self.leaf.space)

    @property
    def reads(self) -> bool:
        """Whether the tensor reads the space; otherwise it writes it."""
        return self.spec.dims[self.dim].role == "read"

    @property
    def is_first(self) -> bool:
        """Whether it lies in the first layer (expert, ...) of its kind."""
        return not any(self.index.values())

    def key(self, index: tuple[str, ...]) -> tuple[int, ...]:
        """Return the values of some index axes."""
        return tuple(self.index[name] for name in index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One change of one tensor."""

    tensor: str
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Changes of weights, and whether the outputs may show them.

    Attributes:
        name: for messages.
        actions: on tensors, applied in order.
        preserves: whether the outputs must stay (or become what ``outputs`` says); otherwise they must change.
        inputs: input's name -> change.
        outputs: size of an output's last dimension -> change that is expected there, where it does not stay.
        frequencies: change of the rotary frequencies.
    """

    name: str
    actions: tuple[Action, ...]
    preserves: bool
    inputs: Mapping[str, Change] = field(default_factory=dict)
    outputs: Mapping[int, Change] = field(default_factory=dict)
    frequencies: Change | None = None


class Experiments:
    """Every experiment that a declaration implies for one source.

    Args:
        architecture: the declaration under test.
        source: the model's tensors, matched with it.
        tied: canonical names of tensors that share the storage of another one.
        lookups: axis of an embedding's rows -> name of the model's input that selects them.
        ordered: axes whose coordinates the class itself tells apart.
        unused: templates of parameters that the model's class does not use.
        seed: of the permutations and factors.
    """

    def __init__(
        self,
        architecture: Architecture,
        source: SourceInfo,
        *,
        tied: Collection[str] = (),
        lookups: Mapping[str, str],
        ordered: Collection[str] = (),
        unused: Collection[str] = (),
        seed: int = 0,
    ) -> None:
        self.architecture = architecture
        self.config = architecture.resolve_config(source.sizes)
        self.tied = frozenset(tied)
        self.lookups = lookups
        self.ordered = ordered
        self.activated = frozenset(architecture.activated)
        self.unused = unused
        self.random = np.random.default_rng(seed)
        self.specs = [architecture.tensors[name] for name in architecture.tensors if name in source.templates]
        owners = {spec.owner for spec in architecture.tensors.values()}
        here = {spec.owner for spec in self.specs} | {architecture.tensors[name].owner for name in self.tied}
        self.arrows = {n: a for n, a in architecture.arrows.items() if n in here or n not in owners}
        self.written = {s for arrow in self.arrows.values() for s in spaces_in(arrow.target)}
        self.attention = [c for c in architecture.attention if {c.query, c.key, c.value} <= self.written]

    def __iter__(self) -> Iterator[Experiment]:
        """Yield the experiments, those that must preserve the outputs first."""
        breaking: list[Experiment] = []
        for experiment in self._all():
            if experiment.preserves:
                yield experiment
            else:
                breaking.append(experiment)
        yield from breaking

    def _all(self) -> Iterator[Experiment]:
        yield from self._permutations()
        yield from self._scalings()
        yield from self._shifts()

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every space in every dimension of every stored tensor."""
        return tuple(self._find_places())

    def _find_places(self) -> Iterator[Place]:
        for spec in self.specs:
            for index in self.architecture.instances(spec.index, self.config):
                size_of = partial(self.architecture.size, config=self.config, index=index)
                for dim, entry in enumerate(spec.dims):
                    for leaf in leaves(entry.term, size_of)[1]:
                        named = leaf if leaf.space else Leaf(self._written_by(spec), leaf.axes, leaf.positions)
                        yield Place(tensor=spec.name(index), spec=spec, index=index, dim=dim, leaf=named)

    def _written_by(self, spec: TensorSpec) -> str | None:
        named = list(spaces_in(self.architecture.arrows[spec.owner].target))
        return named[0] if len(named) == 1 else None

    # Contradictions

    def contradictions(self) -> Iterator[str]:
        """Yield what cannot be meant: a vector from nowhere, a norm on its own output, an axis that attention loses."""
        written = self.written | {c.output for c in self.attention} | {b for _, b in self.architecture.adds}
        for name, arrow in self.arrows.items():
            for space in spaces_in(arrow.source):
                grows = any(axis not in self.architecture.fixed for axis in self._axes(space))
                if grows and arrow.kind == "embedding" and space in written:
                    yield f"{name} looks up rows by {space}, which is no input but computed"
                if grows and arrow.kind != "embedding" and space not in written:
                    yield f"{name} reads {space}, which nothing writes"
            if arrow.kind == "norm" and space_of(arrow.source) == space_of(arrow.target):
                yield f"the norm {name} reads what it writes"
        for c in self.attention:
            query, key, output = (set(self._axes(space)) for space in (c.query, c.key, c.output))
            for axis in sorted((query - {*c.over} - output) | (key - {*c.over} - query)):
                yield f"attention does not sum over {axis} of {c.query} and {c.key}, and {c.output} lacks it"
            for axis in sorted({*c.over} - (query & key)):
                yield f"attention sums over {axis}, which {c.query} or {c.key} lacks"

    # Permutations

    def _permutations(self) -> Iterator[Experiment]:
        for nodes in self._joined_axes():
            yield from self._permutation(nodes)

    def _permutation(self, nodes: frozenset[Node]) -> Iterator[Experiment]:
        names = f"{' and '.join(sorted({axis for _, axis in nodes}))} of {_list(space for space, _ in nodes)}"
        rotary, partner = self._rotary_role(nodes)
        index = () if rotary or partner else self._common_index(space for space, _ in nodes)
        orders: dict[tuple[int, ...], npt.NDArray[np.int64]] = {}
        actions: list[Action] = []
        inputs: dict[str, Change] = {}
        outputs: dict[int, Change] = {}
        complete = not any(axis in self.ordered for _, axis in nodes)
        for place in self.places:
            for position, axis in enumerate(place.leaf.axes):
                size = place.leaf.positions.shape[position]
                if (place.space, axis) not in nodes or size < 2:
                    continue
                order = orders.setdefault(place.key(index), self._cycle(size))
                action = Action(tensor=place.tensor, change=_permute(place, position, order))
                actions.append(action)
                if self.architecture.arrows[place.spec.owner].kind == "embedding" and place.reads:
                    complete = complete and axis in self.lookups
                    inputs[self.lookups.get(axis, "")] = partial(_take, np.argsort(order))
                if not index and len(place.leaf.axes) == 1:
                    outputs[size] = partial(torch.index_select, dim=-1, index=torch.from_numpy(order))
                if place.is_first and not self._is_without_effect(place):
                    yield Experiment(
                        name=f"permuting {axis} of {place.space} in {place.tensor} alone", actions=(action,),
                        preserves=False,
                    )  # fmt: skip
        if not actions or not complete or (partner and len(next(iter(orders.values()))) != 2):
            return
        frequencies: Change | None = None
        if rotary:
            frequencies = partial(torch.index_select, dim=-1, index=torch.from_numpy(orders[()]))
        elif partner:  # a reflected plane turns the other way
            frequencies = torch.neg
        yield Experiment(
            name=f"permuting {names} in every tensor that carries it", actions=tuple(actions), preserves=True,
            inputs=inputs, outputs=outputs, frequencies=frequencies,
        )  # fmt: skip

    def _joined_axes(self) -> list[frozenset[Node]]:
        """Return the axes of spaces in groups that can only be permuted together."""
        architecture = self.architecture
        spaces = {s for a in self.arrows.values() for t in (a.source, a.target) for s in spaces_in(t)}
        group: dict[Node, set[Node]] = {(s, a): {(s, a)} for s in spaces for a in architecture.spaces[s].axes}

        def join(*members: Node) -> None:
            here = [node for node in members if node in group]
            for node in here[1:]:
                if group[node] is not group[here[0]]:
                    group[here[0]] |= group[node]
                    for other in group[node]:
                        group[other] = group[here[0]]

        for arrow in self.arrows.values():
            if arrow.kind == "norm":
                source, target = space_of(arrow.source), space_of(arrow.target)
                for axis in architecture.spaces[source].axes:
                    join((source, axis), (target, axis))
        for c in self.attention:
            for axis in architecture.sizes:
                if axis in c.over:
                    join((c.query, axis), (c.key, axis))
                    join((c.value, axis), (c.output, axis))
                else:
                    join((c.query, axis), (c.key, axis), (c.value, axis), (c.output, axis))
        for a, b in architecture.adds:
            for axis in architecture.sizes:
                join((a, axis), (b, axis))
        for name in self.tied:
            pairs = zip(
                architecture.tensors[name].dims, architecture.tensors[architecture.ties[name]].dims, strict=True
            )
            for one, other in pairs:
                for a, b in zip(spaces_in(one.term), spaces_in(other.term), strict=True):
                    for axis in architecture.spaces[a].axes:
                        join((a, axis), (b, axis))
        found = {id(members): frozenset(members) for members in group.values()}
        return sorted(found.values(), key=sorted)

    def _rotary_role(self, nodes: Collection[Node]) -> tuple[bool, bool]:
        """Tell whether nodes are an axis of rotary frequencies, or the axis of the two coordinates of each plane."""
        frequencies = {r.frequency for r in self.architecture.rotary}
        for c in self.attention:
            turned = {axis for axis in c.over if axis in frequencies}
            for axis in c.over:
                if turned and ((c.query, axis) in nodes or (c.key, axis) in nodes):
                    return axis in turned, axis not in turned
        return False, False

    def _is_without_effect(self, place: Place) -> bool:
        """Tell whether a place is known to leave no trace.

        An unused parameter, or a bias on keys, which adds the same to all scores of a query unless positions rotate it.
        """
        if place.spec.template in self.unused:
            return True
        turned = {r.frequency for r in self.architecture.rotary}
        keys = {c.key for c in self.attention if not turned & set(c.over)}
        is_norm = self.architecture.arrows[place.spec.owner].kind == "norm"
        return place.spec.part == "bias" and place.space in keys and not is_norm

    def _cycle(self, size: int) -> npt.NDArray[np.int64]:
        """Return a random permutation that moves every entry."""
        order = self.random.permutation(size)
        found = np.empty(size, dtype=np.int64)
        found[order] = np.roll(order, 1)
        return found

    def _common_index(self, spaces: Iterator[str]) -> tuple[str, ...]:
        found = [self.architecture.spaces[space].index for space in spaces]
        return tuple(name for name in found[0] if all(name in other for other in found))

    # Scalings

    def _scalings(self) -> Iterator[Experiment]:
        norms = [a for a in self.arrows.values() if a.kind == "norm"]
        contracted = {s for c in self.attention for s in (c.query, c.key, c.value)}
        for target in dict.fromkeys(space_of(a.target) for a in norms):
            axes = self._reduced_axes(target)
            if axes and target not in contracted:
                weights_alone = target not in self._added and not self._norms_reading(target)
                yield from self._scaling(
                    f"what is written to {target}", axes, multiply=[target], divide=[target], preserves=weights_alone
                )
        for c in self.attention:
            if not self._norms_reading(c.value) and not self._norms_reading(c.output) and c.output not in self._added:
                axes = tuple(a for a in self._axes(c.value) if a in self._axes(c.output))
                yield from self._scaling(f"{c.value} through {c.output}", axes, multiply=[c.value], divide=[c.output])
            yield from self._scaling(
                f"{c.query} against {c.key}", self._scalable(c), multiply=[c.query], undo=[c.key]
            )  # fmt: skip

    def _scaling(
        self,
        name: str,
        axes: tuple[str, ...],
        *,
        multiply: Collection[str],
        divide: Collection[str] = (),
        undo: Collection[str] = (),
        preserves: bool = True,
    ) -> Iterator[Experiment]:
        """Multiply what is written to some spaces; divide what weights read, or what is written to others."""
        involved = {*multiply, *divide, *undo}
        if self._touches_a_tie(involved):
            return
        index = self._common_index(s for s in sorted(involved))
        factors: dict[tuple[int, ...], Vector] = {}
        actions = []
        for place in self.places:
            writes = not place.reads and place.space in multiply
            if not (writes or (place.reads and place.space in divide) or (not place.reads and place.space in undo)):
                continue
            if not set(axes) <= set(place.leaf.axes):
                continue
            shape = [place.leaf.positions.shape[place.leaf.axes.index(axis)] for axis in axes]
            factor = factors.setdefault(place.key(index), self.random.uniform(0.5, 2.0, shape))
            actions.append(self._multiply(place, axes, factor if writes else 1 / factor))
        outputs: dict[int, Change] = {}
        if not any(p.reads and p.space in divide for p in self.places) and factors:
            factor = next(iter(factors.values())).reshape(-1)
            outputs[factor.size] = partial(torch.mul, other=torch.from_numpy(factor))
        if actions:
            name = f"scaling {name}" + ("" if preserves else ", undone for weights alone")
            yield Experiment(name=name, actions=tuple(actions), preserves=preserves, outputs=outputs)

    def _multiply(self, place: Place, axes: tuple[str, ...], factor: Vector) -> Action:
        shape = [n if a in axes else 1 for a, n in zip(place.leaf.axes, place.leaf.positions.shape, strict=True)]
        moved = factor.transpose([axes.index(a) for a in place.leaf.axes if a in axes]).reshape(shape)
        arrow = self.architecture.arrows[place.spec.owner]
        offset = arrow.offset if place.spec.dims[place.dim].role == "gain" else 0
        values = np.broadcast_to(moved, place.leaf.positions.shape)
        return Action(tensor=place.tensor, change=_scale(place, values, offset))

    def _reduced_axes(self, target: str) -> tuple[str, ...]:
        """Return the axes on which every norm that writes a space has a gain of its own per coordinate."""
        gains = [set(p.leaf.axes) for p in self.places if p.space == target and not p.reads]
        return tuple(axis for axis in self._axes(target) if all(axis in axes for axes in gains))

    def _scalable(self, c: Attention) -> tuple[str, ...]:
        turned = tuple(axis for axis in c.over if axis in {r.frequency for r in self.architecture.rotary})
        return turned or c.over

    def _axes(self, space: str) -> tuple[str, ...]:
        return self.architecture.spaces[space].axes

    @property
    def _added(self) -> set[str]:
        return {space for pair in self.architecture.adds for space in pair}

    def _norms_reading(self, space: str) -> list[Arrow]:
        return [a for a in self.arrows.values() if a.kind == "norm" and space_of(a.source) == space]

    def _touches_a_tie(self, spaces: Collection[str]) -> bool:
        for name in self.tied:
            for template in (name, self.architecture.ties[name]):
                if any(s in spaces for dim in self.architecture.tensors[template].dims for s in spaces_in(dim.term)):
                    return True
        return False

    # Shifts

    def _shifts(self) -> Iterator[Experiment]:
        tables = {self.architecture.ties[name] for name in self.tied}
        for place in self.places:
            arrow = self.architecture.arrows[place.spec.owner]
            is_vector = place.spec.part == "bias" or (arrow.kind == "embedding" and not place.reads)
            in_attention = any(place.space in (c.query, c.key, c.value) for c in self.attention)
            if not is_vector or not place.is_first or in_attention or place.space in self.activated:
                continue
            if place.spec.template in tables or self._is_without_effect(place):
                continue
            norms = self._norms_reading(place.space)
            read_otherwise = place.space in {a for a, _ in self.architecture.adds} or any(
                place.space in spaces_in(a.source) for a in self.arrows.values() if a.kind != "norm"
            )
            hidden = bool(norms) and all(n.centred and n.over is None for n in norms) and not read_otherwise
            readers = "LayerNorms alone read it" if hidden else "not only LayerNorms read it"
            yield Experiment(
                name=f"adding a constant to {place.space} in {place.tensor} ({readers})", preserves=hidden,
                actions=(Action(tensor=place.tensor, change=_shift(place, 0.7)),),
            )  # fmt: skip


def _permute(place: Place, position: int, order: npt.NDArray[np.int64]) -> Change:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        index = np.arange(tensor.shape[place.dim])
        index[place.leaf.positions] = np.take(place.leaf.positions, order, axis=position)
        return tensor.index_select(place.dim, torch.from_numpy(index))

    return change


def _scale(place: Place, factor: Vector, offset: int) -> Change:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        whole = np.ones(tensor.shape[place.dim])
        whole[place.leaf.positions] = factor
        shape = [-1 if dim == place.dim else 1 for dim in range(tensor.ndim)]
        return (tensor + offset) * torch.from_numpy(whole).to(tensor.dtype).reshape(shape) - offset

    return change


def _shift(place: Place, value: float) -> Change:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.index_add(
            place.dim,
            torch.from_numpy(place.leaf.positions.reshape(-1)),
            torch.full_like(tensor, value).narrow(place.dim, 0, place.leaf.positions.size),
        )

    return change


def _take(order: npt.NDArray[np.int64], ids: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(order)[ids]


def _list(names: Any) -> str:
    found = sorted(set(names))
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"


__all__ = ["Action", "Experiment", "Experiments", "Place"]
