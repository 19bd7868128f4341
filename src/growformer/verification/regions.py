"""Regions of a tensor: one index per dimension, a slice where positions are consecutive."""

from __future__ import annotations

import math

import numpy as np

from growformer.verification.recorded import Indices

Positions = slice | Indices
Region = tuple[Positions, ...]


def compact(where: Indices) -> Positions:
    """Return positions as a slice where they are consecutive."""
    if where.size and np.array_equal(where, np.arange(where[0], where[0] + where.size)):
        return slice(int(where[0]), int(where[0]) + where.size)
    return where


def spread(along: Positions) -> Indices:
    """Return the positions that an index selects."""
    return np.arange(along.start, along.stop, dtype=np.int64) if isinstance(along, slice) else along


def count(region: Region) -> int:
    """Return how many values a region holds."""
    return math.prod(a.stop - a.start if isinstance(a, slice) else int(a.size) for a in region)


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


__all__ = ["Positions", "Region", "compact", "count", "intersect", "show", "spread"]
