"""What becomes of one tensor: blocks, each a region of the target and the value that fills it.

Values are a small language that every executor interprets, and the only place where growth touches numbers:

    Constant(v)                      v everywhere
    Affine(source, scale, shift)     scale * source region + shift, computed in float64 and rounded once
    Mean(source, dim, scale)         scale * mean of the source along a dimension
    Fill(...)                        fresh values that depend on seed, canonical name and coordinates only
    Sum(...)                         several of these
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from growformer.architecture.exact import ONE, Root

Index1D = slice | npt.NDArray[np.int64]
Region = tuple[Index1D, ...]
Status = Literal["source", "live", "silent", "mean", "fresh"]
FillKind = Literal["weight", "gain", "bias"]


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value everywhere."""

    value: float


@dataclass(frozen=True, slots=True)
class Affine:
    """``scale * tensor[region] + shift``.

    Attributes:
        tensor: canonical name in the source.
        region: what of it.
        scale: exact factor.
        shift: added to it.
        slope: exact factor on the gradient: with the same loss, the target's entry has ``slope`` times the gradient of
            the source's. Not so where a norm subtracts a mean, or reads coordinates that were split.
    """

    tensor: str
    region: Region
    scale: Root = ONE
    shift: float = 0.0
    slope: Root = ONE

    @property
    def is_copy(self) -> bool:
        """Whether the source's values are taken over bit by bit."""
        return self.scale.is_one() and not self.shift


@dataclass(frozen=True, slots=True)
class Mean:
    """``scale * mean(tensor[region], dim)``; the region spans all that is averaged."""

    tensor: str
    region: Region
    dim: int
    scale: Root = ONE


@dataclass(frozen=True, slots=True)
class Fill:
    """Fresh values: any value preserves the function here (a gain of zero would never learn).

    Attributes:
        tensor: canonical name in the target, from which the values are drawn, with ``coordinates``.
        coordinates: logical coordinates of the region.
        kind: what the values are for.
        template: the source tensor and region that the ``copy`` initialisation starts from, if there is one.
        offset: what the norm adds to the stored gain.
    """

    tensor: str
    coordinates: Region
    kind: FillKind
    template: tuple[str, Region] | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise that cancels over the copies of one source coordinate: draw ``copy`` minus draw ``copy + 1``."""

    tensor: str
    coordinates: Region
    copy: int
    copies: int


@dataclass(frozen=True, slots=True)
class Sum:
    """The sum of several values."""

    parts: tuple[Affine | Noise, ...]


Value = Constant | Affine | Mean | Fill | Sum


def from_source(value: Value) -> Affine | None:
    """Return the part of a value that is the source's, scaled; None where it is constant, a mean or fresh."""
    if isinstance(value, Sum):
        return next((part for part in value.parts if isinstance(part, Affine)), None)
    return value if isinstance(value, Affine) else None


@dataclass(frozen=True, slots=True)
class Block:
    """A region of the target and its value."""

    region: Region
    value: Value

    def sources(self, *, copies: bool = True) -> set[str]:
        """Return the canonical names of the source tensors that the value reads.

        Args:
            copies: whether fresh values start from their templates.
        """
        value = self.value
        if isinstance(value, (Affine, Mean)):
            return {value.tensor}
        if isinstance(value, Fill) and value.template and copies:
            return {value.template[0]}
        if isinstance(value, Sum):
            return {part.tensor for part in value.parts if isinstance(part, Affine)}
        return set()


def renamed(block: Block, tensor: str, source: str) -> Block:
    """Return the same block of another instance of a tensor.

    Args:
        block: a block all of whose values come from one source tensor.
        tensor: canonical name of the other instance in the target.
        source: canonical name of what it comes from in the source.
    """
    value = block.value
    if isinstance(value, Sum):
        return Block(block.region, Sum(tuple(_renamed(part, tensor, source) for part in value.parts)))
    return Block(block.region, _renamed(value, tensor, source))


_Single = TypeVar("_Single", bound=Constant | Affine | Mean | Fill | Noise)


def _renamed(value: _Single, tensor: str, source: str) -> _Single:
    if isinstance(value, (Affine, Mean)):
        return replace(value, tensor=source)
    if isinstance(value, Fill):
        return replace(value, tensor=tensor, template=value.template and (source, value.template[1]))
    return replace(value, tensor=tensor) if isinstance(value, Noise) else value


@dataclass(frozen=True, slots=True)
class Segment:
    """Coordinates of one dimension that are treated alike.

    Attributes:
        target: positions in the target's dimension.
        source: positions in the source's dimension (for new coordinates: of the coordinate a copy would start from).
        status: what the space carries there.
        factor: exact factor of this dimension.
        slope: exact factor of this dimension on the gradient.
        copy, copies: which of several copies of the same source coordinates this is.
        averaged: the source positions whose mean it carries.
    """

    target: Index1D
    source: Index1D | None
    status: Status
    factor: Root
    copy: int = 0
    copies: int = 1
    averaged: Index1D | None = None
    slope: Root = ONE


def compact(positions: npt.NDArray[np.int64]) -> Index1D:
    """Return positions as a slice where they are consecutive."""
    if positions.size and np.array_equal(positions, np.arange(positions[0], positions[0] + positions.size)):
        return slice(int(positions[0]), int(positions[0]) + positions.size)
    return positions


def length(index: Index1D) -> int:
    """Return how many positions an index selects."""
    return len(range(index.start, index.stop, index.step or 1)) if isinstance(index, slice) else int(index.size)


def positions(index: Index1D) -> npt.NDArray[np.int64]:
    """Return the positions that an index selects."""
    return np.arange(index.start, index.stop, index.step or 1, dtype=np.int64) if isinstance(index, slice) else index


def shifted(index: Index1D, by: int) -> Index1D:
    """Return an index seen from ``by`` positions further on."""
    return slice(index.start - by, index.stop - by, index.step) if isinstance(index, slice) else index - by


def found_in(whole: Index1D, part: Index1D) -> npt.NDArray[np.int64]:
    """Return where in an index the positions of a part of it stand."""
    everything = positions(whole)
    order = np.argsort(everything)
    at: npt.NDArray[np.int64] = order[np.searchsorted(everything, positions(part), sorter=order)]
    return at


def restrict(block: Block, region: Region) -> Block | None:
    """Return the part of a block inside a region of the target (with target coordinates kept), or None."""
    kept, picks = [], []
    for index, bounds in zip(block.region, region, strict=True):
        where = positions(index)
        if isinstance(bounds, slice):
            pick = np.flatnonzero((where >= bounds.start) & (where < bounds.stop))
        else:
            wanted = np.zeros(int(max(where.max(initial=0), bounds.max(initial=0))) + 1, dtype=bool)
            wanted[bounds] = True
            pick = np.flatnonzero(wanted[where])
        if not pick.size:
            return None
        kept.append(compact(where[pick]))
        picks.append(pick)
    return Block(tuple(kept), _restrict_value(block.value, picks))


def _restrict_value(value: Value, picks: list[npt.NDArray[np.int64]]) -> Value:
    def pick(region: Region, skip: int | None = None) -> Region:
        return tuple(
            index if dim == skip else compact(positions(index)[chosen])
            for dim, (index, chosen) in enumerate(zip(region, picks, strict=True))
        )

    if isinstance(value, Affine):
        return replace(value, region=pick(value.region))
    if isinstance(value, Mean):
        return replace(value, region=pick(value.region, skip=value.dim))
    if isinstance(value, Fill):
        template = (value.template[0], pick(value.template[1])) if value.template else None
        return replace(value, coordinates=pick(value.coordinates), template=template)
    if isinstance(value, Sum):
        parts: list[Affine | Noise] = []
        for part in value.parts:
            if isinstance(part, Affine):
                parts.append(replace(part, region=pick(part.region)))
            else:
                parts.append(replace(part, coordinates=pick(part.coordinates)))
        return Sum(tuple(parts))
    return value


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the target: its shape and the blocks that tile it.

    Attributes:
        name: canonical name in the target.
        template: its template in the architecture.
        index: its instance.
        shape: shape in the target.
        source: canonical name of the tensor in the source that gives its dtype.
        blocks: the blocks; they cover the tensor exactly once.
    """

    name: str
    template: str
    index: tuple[tuple[str, int], ...]
    shape: tuple[int, ...]
    source: str
    blocks: tuple[Block, ...]

    def region(self, bounds: tuple[slice, ...]) -> Iterator[Block]:
        """Yield the blocks inside a region, such as a band of rows."""
        for block in self.blocks:
            found = restrict(block, bounds)
            if found is not None:
                yield found

    def sources(self) -> set[str]:
        """Return the canonical names of the source tensors that the blocks read."""
        return {name for block in self.blocks for name in block.sources()}
