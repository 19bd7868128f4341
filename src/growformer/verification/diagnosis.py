"""Why values are not those of the source: rows in another order, or those of another layer. A hint, not a check."""

from __future__ import annotations

import torch

from growformer.architecture.packing import stored_region
from growformer.errors import SourceError
from growformer.verification.bands import BAND_BYTES
from growformer.verification.held import Held, undo
from growformer.verification.recorded import Indices, Recorded
from growformer.verification.regions import part, size, spread
from growformer.verification.requirements import Requirement, Scaled, TensorRequirements
from growformer.verification.structure import Index
from growformer.verification.tensors import Tensors

COLUMNS = 64
"""Of each row, by which it is recognised."""
MAX_ROWS = 1 << 18
SHOWN = 3
_SHARE = 0.9


def diagnose(
    rec: Recorded, needed: TensorRequirements, test: Requirement, template: str, index: Index, source: Tensors,
    target: Tensors,
) -> str:  # fmt: skip
    """Return what a region holds instead of the source's values, or nothing where that cannot be recognised.

    Args:
        rec: the record.
        needed: what the tensor must hold.
        test: the part of it that does not hold.
        template: of the tensor.
        index: its instance in the target.
        source: the source's tensors.
        target: the grown ones.
    """
    must = test.must
    if not isinstance(must, Scaled) or len(test.copies) != 1 or not must.region:
        return ""
    rows = size(must.region[0])
    if not 1 <= rows <= MAX_ROWS:
        return ""
    try:
        found = _rows(target, needed.held, test.copies[0])
        expected = _rows(source, rec.source_held(must.tensor), must.region)
        keys, wanted = _keys(found), _keys(_scaled(expected, must, found.dtype))
        moved = _moved(keys, wanted, spread(test.copies[0][0]), spread(must.region[0]))
        return moved or _elsewhere(rec, must, template, index, keys, source, found.dtype)
    except (KeyError, SourceError, IndexError, RuntimeError):
        return ""  # what is wrong has been said


def _rows(tensors: Tensors, held: Held, region: tuple[slice | Indices, ...]) -> torch.Tensor:
    """Return the first columns of all rows of a region, read a band at a time."""
    reader, width = tensors.reader(), tensors.dtype(held.stored).itemsize
    narrow = tuple(part(along, slice(0, min(COLUMNS, size(along)))) for along in region[1:])
    whole = tensors.shape(held.stored)
    across = 1
    for n in whole[1:]:
        across *= n
    step = max(1, BAND_BYTES // max(1, across * width))
    found = []
    for first in range(0, size(region[0]), step):
        some = part(region[0], slice(first, min(first + step, size(region[0]))))
        values = undo(held.piece, reader.region(held.stored, stored_region(held.piece, (some, *narrow))))
        found.append(values.reshape(values.shape[0], -1).clone())
        reader.reset()
    return torch.cat(found)


def _scaled(values: torch.Tensor, must: Scaled, dtype: torch.dtype) -> torch.Tensor:
    if must.is_copy:
        return values.to(dtype)
    scale = float(must.scale)
    return (values.double() * scale + (scale - 1.0) * must.offset).to(dtype)


def _keys(rows: torch.Tensor) -> list[bytes]:
    view = rows.contiguous().view(torch.uint8).numpy()
    return [row.tobytes() for row in view]


def _moved(found: list[bytes], wanted: list[bytes], targets: Indices, sources: Indices) -> str:
    """Say which rows stand where others should."""
    if len(set(wanted)) < 2:
        return ""
    places = {key: at for at, key in enumerate(wanted)}
    here = [places.get(key, -1) for key in found]
    known = sum(at >= 0 for at in here)
    if known < _SHARE * len(found):
        return ""
    runs: list[list[int]] = []
    for at, origin in enumerate(here):
        if origin < 0 or origin == at or found[at] == wanted[at]:
            continue
        if runs and at == runs[-1][0] + runs[-1][2] and origin == runs[-1][1] + runs[-1][2]:
            runs[-1][2] += 1
        else:
            runs.append([at, origin, 1])
    if not runs:
        return ""
    said = [
        f"{_range(targets[at : at + n])} where source {_range(sources[at : at + n])} should be stand the source's "
        f"{_range(sources[origin : origin + n])}"
        for at, origin, n in runs[:SHOWN]
    ]
    more = f", and {len(runs) - SHOWN} more runs" if len(runs) > SHOWN else ""
    return "rows are the source's in another order: at " + "; at ".join(said) + more


def _range(rows: Indices) -> str:
    return str(int(rows[0])) if rows.size == 1 else f"{rows[0]}..{rows[-1]}"


def _elsewhere(
    rec: Recorded, must: Scaled, template: str, index: Index, keys: list[bytes], source: Tensors, dtype: torch.dtype
) -> str:
    """Say which other layer of the source has these values."""
    spec = rec.architecture.tensors[template]
    if not spec.index or rec.is_new(index):
        return ""
    axis = spec.index[0]
    origin = rec.origin(index)
    for at in range(rec.along(axis, index).source_size):
        name = spec.name({**origin, axis: at})
        if at == origin[axis] or name not in rec.tensors:
            continue
        values = _rows(source, rec.source_held(name), must.region)
        if _keys(_scaled(values, must, dtype)) == keys:
            return f"it is that of source {axis} {at}"
    return ""


__all__ = ["diagnose"]
