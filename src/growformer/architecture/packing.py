"""Several declared tensors stored as one: where each lies, and what shape the whole has.

Experts that a class keeps in one tensor ``[experts, 2 * mlp, hidden]`` are declared one by one, as other checkpoints
store them; ``Packed`` says how they lie together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from growformer.architecture.declaration import Architecture, Config, TensorSpec
from growformer.architecture.facts import Packed


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


__all__ = ["Piece", "packed_shape", "pieces"]
