"""Which layers of a grown checkpoint are new: those that write nothing, and are not what a source layer is.

Every layer of both sides is looked at in the corner of each of its tensors, where source coordinates stand before and
after growth. A layer may come from a source layer as far as their corners are proportional; it may be new as far as
what it writes is zero. Of all ways to keep the source's layers in their order, the one with the fewest contradictions
is taken; tools that stack, interleave or duplicate layers need not be told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from growformer.architecture.declaration import TensorSpec
from growformer.architecture.packing import stored_region
from growformer.errors import PlanError, SourceError
from growformer.verification.dimensions import term_size
from growformer.verification.held import Held, undo
from growformer.verification.recorded import Along, Recorded
from growformer.verification.requirements import Value, requirements
from growformer.verification.tensors import Reader, Tensors

Corner = npt.NDArray[np.float64]

ROWS, COLUMNS = 4, 64
"""Of a corner. A head has more coordinates than rows are taken."""
_ALIKE = 1e-3
"""Of one minus the cosine of two corners: rounding to bfloat16 leaves 1e-5."""


def place_layers(rec: Recorded, source: Tensors, target: Tensors) -> Recorded:
    """Return a record in which every numbered axis that grew has its new instances where the tensors show them.

    Args:
        rec: a record of how many are new, wherever it places them.
        source: the source's tensors.
        target: the grown ones.
    """
    for axis in rec.index_axes:
        if rec.size_indices[axis]:
            continue
        along = rec.along(axis, {})
        if along.source.size <= along.source_size:
            continue
        origins = _Layers(rec, axis, source, target).origins()
        placed: dict[tuple[int, ...], Along] = {(): Along(along.source_size, np.array(origins, dtype=np.int64))}
        rec = replace(rec, maps={**rec.maps, axis: placed}, templates={**rec.templates, axis: {(): tuple(origins)}})
    return rec


class _Layers:
    """The layers along one axis.

    Args:
        rec: a record of how many are new, wherever it places them.
        axis: the axis.
        source: the source's tensors.
        target: the grown ones.
    """

    def __init__(self, rec: Recorded, axis: str, source: Tensors, target: Tensors) -> None:
        self.rec, self.axis = rec, axis
        self.numbers = rec.along(axis, {}).source_size, rec.along(axis, {}).source.size
        self.source, self.target = source, target
        self.closing = set(self._closing())

    def origins(self) -> list[int]:
        """Return for every target position a source position, or -1 where it is new."""
        before, after = self.numbers
        sources = [self._corners(at, self.source, is_source=True) for at in range(before)]
        targets = [self._corners(at, self.target, is_source=False) for at in range(after)]
        new = [sum(bool(corner.any()) for name, corner in found.items() if name in self.closing) for found in targets]
        best = np.full((after + 1, before + 1), np.inf)
        best[0, 0] = 0
        came = np.zeros((after + 1, before + 1), dtype=bool)
        for i in range(after):
            for j in range(max(0, before - after + i), min(i, before) + 1):
                if not np.isfinite(best[i, j]):
                    continue
                if best[i, j] + new[i] < best[i + 1, j]:
                    best[i + 1, j], came[i + 1, j] = best[i, j] + new[i], False
                if j < before:
                    kept = best[i, j] + _differences(sources[j], targets[i])
                    if kept < best[i + 1, j + 1]:
                        best[i + 1, j + 1], came[i + 1, j + 1] = kept, True
        origins, j = [], before
        for i in range(after, 0, -1):
            origins.append(j - 1 if came[i, j] else -1)
            j -= bool(came[i, j])
        return origins[::-1]

    def _specs(self) -> Iterator[TensorSpec]:
        for spec in self.rec.architecture.tensors.values():
            if spec.template in self.rec.present and spec.index[:1] == (self.axis,):
                yield spec

    def _closing(self) -> Iterator[str]:
        """Yield the templates that are zero in a new layer as a whole: what writes to the stream, or a gain on it."""
        for spec in self._specs():
            for at in np.flatnonzero(self.rec.along(self.axis, {}).source < 0).tolist():
                index = {**dict.fromkeys(spec.index, 0), self.axis: at}
                if not self.rec.architecture.exists(spec, self.rec.target_config, index):
                    continue
                try:
                    needed = requirements(self.rec, spec.template, index)
                except PlanError:
                    continue
                musts = [r.must for use in needed.uses for r in use]
                if musts and all(isinstance(must, Value) and not must.root.square for must in musts):
                    yield spec.template
                break

    def _corners(self, at: int, tensors: Tensors, *, is_source: bool) -> Mapping[str, Corner]:
        """Return the corner of every tensor of a layer; gains as they act."""
        rec, reader = self.rec, tensors.reader()
        config = rec.source_config if is_source else rec.target_config
        found = {}
        for spec in self._specs():
            arrow = rec.architecture.arrows[spec.owner]
            if arrow.kind == "carried" or (arrow.kind == "norm" and spec.template not in self.closing):
                continue  # a post-norm hands its gain on
            index = {**dict.fromkeys(spec.index, 0), self.axis: at}
            if not rec.architecture.exists(spec, config, index):
                continue
            try:
                if is_source:
                    held = rec.source_held(spec.name(index))
                    shape = rec.tensors[spec.name(index)].shape
                else:
                    held = rec.target_held(spec, index)
                    shape = tuple(term_size(rec, dim, index) for dim in spec.dims)
                offset = arrow.offset if spec.dims[0].role == "gain" else 0
                found[spec.template] = _corner(reader, tensors, held, shape) + offset
            except (KeyError, SourceError, PlanError):
                continue
        reader.reset()
        return found


def _corner(reader: Reader, tensors: Tensors, held: Held, shape: tuple[int, ...]) -> Corner:
    """Return the first values of a declared tensor.

    Raises:
        KeyError, SourceError: there is none of this shape.
    """
    if tensors.shape(held.stored) != (held.shape if held.piece is not None else shape):
        raise KeyError(held.stored)
    limits = [COLUMNS] if len(shape) == 1 else [ROWS, *[COLUMNS] * (len(shape) - 1)]
    region = tuple(slice(0, min(limit, n)) for limit, n in zip(limits, shape, strict=True))
    values: Corner = undo(held.piece, reader.region(held.stored, stored_region(held.piece, region))).double().numpy()
    return np.array(values)


def _differences(before: Mapping[str, Corner], after: Mapping[str, Corner]) -> int:
    """Return how many tensors of two layers are not the same up to a factor; one that only one has counts too."""
    different = len(before.keys() ^ after.keys())
    for name in before.keys() & after.keys():
        shared = tuple(slice(0, min(a, b)) for a, b in zip(before[name].shape, after[name].shape, strict=True))
        one, other = before[name][shared].ravel(), after[name][shared].ravel()
        sizes = float(np.linalg.norm(one)), float(np.linalg.norm(other))
        if min(sizes) == 0 or not np.isfinite(sizes).all():
            different += sizes[0] != sizes[1]
        else:
            different += 1 - float(one @ other) / sizes[0] / sizes[1] > _ALIKE
    return different


__all__ = ["place_layers"]
