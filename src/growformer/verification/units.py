"""The units of a grown model: coordinates of an axis, with every tensor that carries them.

A unit is one MLP unit, one head, one coordinate of the stream, one expert: a coordinate ``i`` of an axis, in one
instance (layer) and, where the axis always stands inside of others, at one place of those: coordinate ``i`` of the keys
of one head. Exchanging two units in every tensor that carries them changes nothing that the model computes. Two units
that hold the same values in all of them therefore get the same gradients, and stay equal for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from growformer.architecture.declaration import Dim, TensorSpec, spaces_in
from growformer.architecture.language import Leaf, leaves
from growformer.verification.dimensions import WITHOUT_SPACE
from growformer.verification.joined_axes import Node, joined_axes
from growformer.verification.live_tensors import LiveTensor
from growformer.verification.recorded import Recorded
from growformer.verification.structure import Index

if TYPE_CHECKING:
    import torch

Flags = npt.NDArray[np.bool_]
Key = tuple[str, tuple[tuple[str, int], ...]]
"""A group of joined axes (or an index axis), and the instance."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """One dimension of a tensor that carries units.

    Attributes:
        dim: which one; None where each unit has a tensor of its own, as experts have.
        positions: per context, ``[units, positions of each]`` along the dimension.
        at: the unit that the tensor belongs to, where each has its own.
    """

    dim: int | None
    positions: tuple[npt.NDArray[np.int64], ...] = ()
    at: int = 0


@dataclass(slots=True)
class Units:
    """All units of an axis in one instance.

    Attributes:
        axis: its name.
        instance: values of the index axes that it is local to.
        contexts: names and coordinates of the axes that it stands inside of.
        new: per context and unit, whether the source has none.
        tensors: names of the tensors that carry them.
    """

    axis: str
    instance: Index
    contexts: list[dict[str, int]]
    new: Flags
    tensors: list[str] = field(default_factory=list)


def _added(source: npt.NDArray[np.int64]) -> Flags:
    """Return which positions the source does not have: those without a coordinate in it, and all but its first copy."""
    first = np.zeros(source.shape, dtype=bool)
    first[np.unique(source, return_index=True)[1]] = True
    return (source < 0) | ~first


class UnitTable:
    """Where the units of a grown model are.

    Args:
        rec: how it was grown.
        tensors: its declared tensors.

    Attributes:
        tensors: all of them.
        units: every axis in every instance that has new units, or that a new instance copies.
        carriers: canonical name of a tensor -> which units it carries, and where.
    """

    def __init__(self, rec: Recorded, tensors: Sequence[LiveTensor]) -> None:
        self.rec = rec
        self.tensors = tuple(tensors)
        architecture = rec.architecture
        self._nested = {axis for tensor in tensors for axis in tensor.spec.index[1:]}
        self._group: dict[Node, tuple[str, frozenset[Node]]] = {}
        looked_up = {s for a in rec.arrows.values() if a.kind == "embedding" for s in spaces_in(a.source)}
        written = {s for a in rec.arrows.values() for s in spaces_in(a.target)} | {add.target for add in rec.adds}
        attention = [c for c in architecture.attention if {*c.queries, *c.keys, c.value} <= written]
        for nodes in joined_axes(architecture, list(rec.arrows.values()), attention, rec.adds, rec.tied_heads):
            # Rows of a table are told apart by the input that selects them.
            if not any(space in looked_up for space, _ in nodes):
                axis = min(axis for _, axis in nodes)
                name = axis if axis in self._nested else f"{axis} of {min(nodes)[0]}"
                self._group.update(dict.fromkeys(nodes, (name, nodes)))
        self.units: dict[Key, Units] = {}
        self.carriers: dict[str, list[tuple[Key, Carrier]]] = {}
        for tensor in tensors:
            self._place(tensor)
        self._keep_what_matters()

    def _place(self, tensor: LiveTensor) -> None:
        found = self.carriers.setdefault(tensor.held.canonical, [])
        if self.rec.architecture.arrows[tensor.spec.owner].kind == "carried":
            return  # it has no spaces
        size_of = partial(self.rec.target_size, index=tensor.index)
        for number, dim in enumerate(tensor.spec.dims):
            if dim.role in WITHOUT_SPACE:
                continue
            for leaf in leaves(dim.term, size_of)[1]:
                for position, axis in enumerate(leaf.axes):
                    known = self._group.get((_space(self.rec, tensor.spec, leaf), axis))
                    if known is not None and leaf.positions.size:
                        found.append(self._along(tensor, number, leaf, position, *known))
        for axis in tensor.spec.index[1:]:
            instance = {name: at for name, at in tensor.index.items() if name != axis}
            key = (axis, tuple(instance.items()))
            self._units(key, axis, instance, [{}], tensor)
            found.append((key, Carrier(None, at=tensor.index[axis])))

    def _along(
        self, tensor: LiveTensor, dim: int, leaf: Leaf, position: int, name: str, nodes: frozenset[Node]
    ) -> tuple[Key, Carrier]:
        axis = leaf.axes[position]
        spaces = [self.rec.architecture.spaces[space] for space, _ in nodes]
        index = [n for n in spaces[0].index if all(n in space.index for space in spaces)]
        outer = [n for n in spaces[0].axes if n != axis and all(n in space.axes for space in spaces)]
        instance = {n: tensor.index[n] for n in index if n in tensor.index}
        key = (name, tuple(instance.items()))
        sizes = [range(self.rec.target_size(n, tensor.index)) for n in outer]
        contexts = [dict(zip(outer, at, strict=True)) for at in product(*sizes)]
        self._units(key, axis, instance, contexts, tensor)
        inside = [leaf.axes.index(n) for n in outer if n in leaf.axes]
        rest = [d for d in range(len(leaf.axes)) if d != position and d not in inside]
        ordered = leaf.positions.transpose([*inside, position, *rest])
        rows = []
        for context in contexts:
            at = tuple(context[n] for n in outer if n in leaf.axes)
            rows.append(ordered[at].reshape(leaf.positions.shape[position], -1))
        return key, Carrier(dim, tuple(rows))

    def _units(self, key: Key, axis: str, instance: Index, contexts: list[dict[str, int]], tensor: LiveTensor) -> None:
        if key not in self.units:
            at = {**tensor.index, **instance}
            size = self.rec.target_size(axis, at)
            new = np.zeros((len(contexts), size), dtype=bool)
            if self.rec.is_new(instance):
                new[:] = True
            else:
                new |= _added(self.rec.along(axis, at).source)
                for row, context in zip(new, contexts, strict=True):
                    row |= any(_added(self.rec.along(n, at).source)[place] for n, place in context.items())
            self.units[key] = Units(axis, instance, contexts, new)
        self.units[key].tensors.append(tensor.held.stored)

    def copied(self, key: Key) -> Key | None:
        """Return the units that those of a new instance, such as a copied layer, were copied from."""
        name, instance = key
        found = []
        for axis, at in instance:
            along = self.rec.maps[axis]
            templates = self.rec.templates.get(axis, {})
            for where, origins in templates.items():
                if len(along) == 1 and at < len(origins):
                    same = np.flatnonzero(along[where].source == origins[at])
                    at = int(same[0]) if same.size else at
            found.append((axis, at))
        copied = (name, tuple(found))
        return copied if copied != key and copied in self.units else None

    def zero_around(
        self, tensor: LiveTensor, dim: int, position: int, values: Callable[[LiveTensor], torch.Tensor]
    ) -> list[str]:
        """Return the parameters in which all is zero that belongs to the unit at one position of a tensor."""
        for key, carrier in self.carriers[tensor.held.canonical]:
            if carrier.dim != dim:
                continue
            for context, rows in enumerate(carrier.positions):
                for unit in np.flatnonzero((rows == position).any(1)):
                    found = self._zero(key, context, int(unit), values)
                    if len(found) > 1:
                        return found
        return []

    def _zero(self, key: Key, context: int, unit: int, values: Callable[[LiveTensor], torch.Tensor]) -> list[str]:
        found: dict[str, None] = {}
        for tensor in self.tensors:
            if tensor.spec.part == "bias":
                continue  # one of zeros keeps nothing from learning
            for other, carrier in self.carriers[tensor.held.canonical]:
                if other == key and carrier.dim is not None and carrier.positions[context][unit].size:
                    where = carrier.positions[context][unit]
                    part = values(tensor).movedim(carrier.dim, 0)[where.tolist()]
                    if not bool(part.any()):
                        found[tensor.held.stored] = None
        return list(found)

    def _keep_what_matters(self) -> None:
        wanted = {key for key, units in self.units.items() if units.new.any()}
        wanted |= {copied for key in wanted if (copied := self.copied(key)) is not None}
        self.units = {key: units for key, units in self.units.items() if key in wanted}
        for name, carried in self.carriers.items():
            self.carriers[name] = [(key, carrier) for key, carrier in carried if key in wanted]


def _space(rec: Recorded, spec: TensorSpec, leaf: Leaf) -> str:
    """Return the space that a leaf belongs to: gains over part of a space do not name it."""
    if leaf.space in rec.architecture.spaces:
        return leaf.space
    written = list(spaces_in(rec.architecture.arrows[spec.owner].target))
    return written[0] if len(written) == 1 else ""


def new_coordinates(rec: Recorded, spec: TensorSpec, dim: Dim, index: Index) -> Flags:
    """Return for every coordinate along a dimension of a tensor whether the source has none there."""
    size, found = leaves(dim.term, lambda axis: rec.target_size(axis, index))
    flags = np.zeros(size, dtype=bool)
    if dim.role in WITHOUT_SPACE:
        return flags
    outermost = rec.outermost_new(index)
    for leaf in found:
        space = _space(rec, spec, leaf)
        if outermost is not None and space and rec.is_local(space, outermost):
            flags[leaf.positions] = True
            continue
        for position, axis in enumerate(leaf.axes):
            shape = [-1 if d == position else 1 for d in range(len(leaf.axes))]
            new = (rec.along(axis, index).source < 0).reshape(shape)
            flags[leaf.positions] |= np.broadcast_to(new, leaf.positions.shape)
    return flags


def described(axis: str, instance: Mapping[str, int], context: Mapping[str, int]) -> str:
    """Return where units are, in words: ``mlp of layer 1``, ``key of kv_heads 2, layer 0``."""
    where = ", ".join(f"{name} {at}" for name, at in {**context, **instance}.items())
    return f"{axis} of {where}" if where else axis


__all__ = ["Carrier", "Key", "UnitTable", "Units", "described", "new_coordinates"]
