"""Several declared tensors stored as one: where each lies, and what shape the whole has.

Experts that a class keeps in one tensor ``[experts, 2 * mlp, hidden]`` are declared one by one, as other checkpoints
store them; ``Packed`` says how they lie together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from growformer.architecture.declaration import Architecture, Config, TensorSpec
from growformer.architecture.facts import Packed

Positions = slice | npt.NDArray[np.int64]
"""Some coordinates along a dimension."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a declared tensor lies in a stored one.

    Attributes:
        at: its position along the stored tensor's first dimension; None: there is no such dimension.
        dim: dimension (after that one) along which parts lie beside each other.
        start, count, step: its coordinates there.
        transposed: it is stored with its two dimensions exchanged.
    """

    at: int | None
    dim: int
    start: int
    count: int
    step: int
    transposed: bool

    @property
    def slices(self) -> tuple[slice, ...]:
        """Slices of what is left after ``at`` is taken."""
        whole = (slice(None),) * self.dim
        return (*whole, slice(self.start, self.start + (self.count - 1) * self.step + 1, self.step))


def pieces(
    architecture: Architecture, packed: Packed, config: Config, index: Mapping[str, int]
) -> Iterator[tuple[TensorSpec, dict[str, int], Piece]]:
    """Yield every declared tensor inside one stored tensor: its template, its index, where it lies."""
    specs = [architecture.tensors[part] for part in packed.parts]
    places = range(architecture.size(packed.stack, config, index)) if packed.stack else [None]
    for at in places:
        inner = dict(index) if at is None or packed.stack is None else {**index, packed.stack: at}
        start = 0
        for number, spec in enumerate(specs):
            shape = architecture.shape(spec, config, inner)
            write = _written(spec)
            dim = len(shape) - 1 - write if packed.transposed else write
            count = shape[write]
            begin, step = (number, len(specs)) if packed.interleaved else (start, 1)
            yield spec, inner, Piece(at, dim, begin, count, step, packed.transposed and len(shape) == 2)
            start += count


def packed_shape(
    architecture: Architecture, packed: Packed, config: Config, index: Mapping[str, int]
) -> tuple[int, ...]:
    """Return the shape of a stored tensor that holds several declared ones."""
    specs = [architecture.tensors[part] for part in packed.parts]
    inner = {**index, packed.stack: 0} if packed.stack else index
    shapes = [list(architecture.shape(spec, config, inner)) for spec in specs]
    shape = shapes[0]
    write = _written(specs[0])
    shape[write] = sum(other[write] for other in shapes)
    if packed.transposed:
        shape.reverse()
    return (architecture.size(packed.stack, config, index), *shape) if packed.stack else tuple(shape)


def _written(spec: TensorSpec) -> int:
    return next(d for d, dim in enumerate(spec.dims) if dim.role == "write")


def stored_region(piece: Piece | None, region: tuple[Positions, ...]) -> tuple[Positions, ...]:
    """Return a region of a declared tensor as one of the stored tensor that holds it."""
    if piece is None:
        return region
    dims = list(region[::-1] if piece.transposed else region)
    along = dims[piece.dim]
    if isinstance(along, slice):
        first, last = piece.start + along.start * piece.step, piece.start + (along.stop - 1) * piece.step
        dims[piece.dim] = slice(first, last + 1, piece.step)
    else:
        dims[piece.dim] = piece.start + along * piece.step
    return (slice(piece.at, piece.at + 1), *dims) if piece.at is not None else tuple(dims)


def declared_bounds(piece: Piece | None, bounds: tuple[slice, ...]) -> tuple[slice, ...] | None:
    """Return what of a declared tensor lies inside bounds of the stored one, or None."""
    if piece is None:
        return bounds
    if piece.at is not None and not bounds[0].start <= piece.at < bounds[0].stop:
        return None
    dims = list(bounds if piece.at is None else bounds[1:])
    along = dims[piece.dim]
    first = max(0, -(-(along.start - piece.start) // piece.step))
    last = min(piece.count, -(-(along.stop - piece.start) // piece.step))
    if first >= last:
        return None
    dims[piece.dim] = slice(first, last)
    return tuple(dims[::-1] if piece.transposed else dims)


__all__ = ["Piece", "Positions", "declared_bounds", "packed_shape", "pieces", "stored_region"]
