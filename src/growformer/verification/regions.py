"""Regions of a tensor: one index per dimension, a slice where positions are consecutive."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from growformer.verification.recorded import Indices

if TYPE_CHECKING:
    import torch

Positions = slice | Indices
Region = tuple[Positions, ...]


def compact(where: Indices) -> Positions:
    """Return positions as a slice where they are consecutive."""
    if where.size and np.array_equal(where, np.arange(where[0], where[0] + where.size)):
        return slice(int(where[0]), int(where[0]) + where.size)
    return where


def spread(along: Positions) -> Indices:
    """Return the positions that an index selects."""
    return np.arange(along.start, along.stop, along.step, dtype=np.int64) if isinstance(along, slice) else along


def size(along: Positions) -> int:
    """Return how many positions an index selects."""
    return len(range(along.start, along.stop, along.step or 1)) if isinstance(along, slice) else int(along.size)


def count(region: Region) -> int:
    """Return how many values a region holds."""
    return math.prod(map(size, region))


def part(along: Positions, chosen: Positions) -> Positions:
    """Return the positions at some places of an index."""
    if isinstance(along, slice) and isinstance(chosen, slice):
        return slice(along.start + chosen.start, along.start + chosen.stop)
    return compact(spread(along)[chosen])


def places_between(along: Positions, start: int, stop: int) -> Positions | None:
    """Return the places in an index of the positions from ``start`` to ``stop``, or None where there are none."""
    if isinstance(along, slice):
        first, last = max(along.start, start), min(along.stop, stop)
        return slice(first - along.start, last - along.start) if first < last else None
    found = np.flatnonzero((along >= start) & (along < stop))
    return compact(found) if found.size else None


def shifted(along: Positions, by: int) -> Positions:
    """Return an index seen from ``by`` positions further on."""
    return slice(along.start - by, along.stop - by, along.step) if isinstance(along, slice) else along - by


def pick(tensor: torch.Tensor, dim: int, along: Positions) -> torch.Tensor:
    """Return what an index selects along one dimension: a view where it is a slice."""
    if isinstance(along, slice):
        return tensor[(slice(None),) * dim + (along,)]
    import torch

    found = list(runs(along))
    if len(found) * 16 > along.size:
        return tensor.index_select(dim, torch.from_numpy(along))
    # Positions side by side are copied together, which is several times faster than one by one.
    return torch.cat([tensor.narrow(dim, first, count) for first, count in found], dim)


def runs(along: Indices) -> Iterator[tuple[int, int]]:
    """Yield the runs of consecutive positions in an index: the first, and how many."""
    breaks = np.flatnonzero(np.diff(along) != 1) + 1
    starts = [0, *breaks.tolist()] if along.size else []
    for start, stop in zip(starts, [*starts[1:], along.size], strict=True):
        yield int(along[start]), stop - start


def select(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    """Return the values at a region: a view where it is of slices alone."""
    for dim, along in enumerate(region):
        tensor = pick(tensor, dim, along)
    return tensor


def intersect(first: Region, second: Region) -> Region | None:
    """Return what two regions share, or None."""
    found: list[Positions] = []
    for a, b in zip(first, second, strict=True):
        if isinstance(a, slice) and isinstance(b, slice):
            start, stop = max(a.start, b.start), min(a.stop, b.stop)
            if start >= stop:
                return None
            found.append(slice(start, stop))
            continue
        shared = np.intersect1d(spread(a), spread(b))
        if not shared.size:
            return None
        found.append(compact(shared))
    return tuple(found)


def show(region: Region) -> str:
    """Print a region as it would be indexed."""
    parts = []
    for along in region:
        if isinstance(along, slice):
            parts.append(f"{along.start}:{along.stop}")
        elif along.size <= 4:
            parts.append("[" + ",".join(map(str, along.tolist())) + "]")
        else:
            parts.append(f"[{along[0]},{along[1]},..{along[-1]}; {along.size} of them]")
    return f"[{', '.join(parts)}]"


__all__ = [
    "Positions", "Region", "compact", "count", "intersect", "part", "pick", "places_between", "runs", "select",
    "shifted", "show", "size", "spread",
]  # fmt: skip
