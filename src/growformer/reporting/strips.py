"""Cuts a tensor into strips along each dimension, in which its blocks are rectangles, and fits strips into pixels.

Where heads interleave, strips become finer than a pixel. Those are gathered: a few pixels then stand for some heads
together, divided among what these hold in its true shares, so that areas stay true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from growformer.reporting.blocks import Block
from growformer.verification.recorded import Indices
from growformer.verification.regions import Positions

FINEST = 2.0
"""Pixels that a strip needs in order to be drawn as it is."""
GATHERED = 6.0
"""Pixels in which finer strips are drawn together."""


@dataclass(frozen=True, slots=True)
class Strip:
    """A part of one dimension in the picture.

    Attributes:
        start, length: in pixels.
        kind: strips of one kind hold the same blocks: its row (or column) in the grid.
        size: coordinates that it stands for.
    """

    start: float
    length: float
    kind: int
    size: float


@dataclass(frozen=True, slots=True)
class Grid:
    """A tensor of two dimensions: strips of either, and the block in which each pair of kinds lies.

    Attributes:
        rows, columns: the strips.
        blocks: number of a block, per kind of row and of column.
        gathered: whether the rows, and the columns, are drawn several together.
    """

    rows: tuple[Strip, ...]
    columns: tuple[Strip, ...]
    blocks: Indices
    gathered: tuple[bool, bool]


def grid(blocks: Sequence[Block], shape: tuple[int, int], pixels: tuple[float, float]) -> Grid:
    """Return how blocks that cover a matrix are drawn in a box of pixels (height, width)."""
    cuts = [_cuts([b.region[dim] for b in blocks], shape[dim]) for dim in (0, 1)]
    cells = np.full([len(c) - 1 for c in cuts], -1, dtype=np.int64)
    for number, block in enumerate(blocks):
        inside = [_inside(along, cut) for along, cut in zip(block.region, cuts, strict=True)]
        cells[np.ix_(*inside)] = number
    row_kinds, rows = np.unique(cells, axis=0, return_inverse=True)
    both, columns = np.unique(row_kinds, axis=1, return_inverse=True)
    strips = [
        _fit(np.diff(cut), kinds.reshape(-1), shape[dim], pixels[dim])
        for dim, (cut, kinds) in enumerate(zip(cuts, (rows, columns), strict=True))
    ]
    return Grid(strips[0][0], strips[1][0], both, (strips[0][1], strips[1][1]))


def boxes(made: Grid) -> dict[int, list[tuple[float, float, float, float]]]:
    """Return the rectangles (x, y, width, height) of every block, neighbours joined."""
    open_: dict[tuple[int, float, float], list[float]] = {}
    found: dict[int, list[tuple[float, float, float, float]]] = {}

    def close(key: tuple[int, float, float]) -> None:
        top, height = open_.pop(key)
        found.setdefault(key[0], []).append((key[1], top, key[2], height))

    for row in made.rows:
        runs: list[list[float]] = []
        for column in made.columns:
            number = int(made.blocks[row.kind, column.kind])
            if runs and runs[-1][0] == number:
                runs[-1][2] += column.length
            else:
                runs.append([number, column.start, column.length])
        present = {(int(n), x, w) for n, x, w in runs}
        for key in [k for k in open_ if k not in present]:
            close(key)
        for key in present:
            if key in open_:
                open_[key][1] += row.length
            else:
                open_[key] = [row.start, row.length]
    for key in list(open_):
        close(key)
    return found


def _cuts(regions: Sequence[Positions], size: int) -> Indices:
    """Return where any region begins or ends, with 0 and the size."""
    found = [np.array([0, size], dtype=np.int64)]
    seen = set()
    for along in regions:
        if isinstance(along, slice):
            found.append(np.array([along.start, along.stop], dtype=np.int64))
        elif id(along) not in seen:
            seen.add(id(along))
            ordered = np.sort(along)
            breaks = np.flatnonzero(np.diff(ordered) != 1)
            found += [ordered[[0, *(breaks + 1)]], ordered[[*breaks, -1]] + 1]
    return np.unique(np.concatenate(found))


def _inside(along: Positions, cuts: Indices) -> Indices:
    """Return which strips a region consists of; every strip lies inside or outside."""
    if isinstance(along, slice):
        first, last = np.searchsorted(cuts, [along.start, along.stop])
        return np.arange(first, last)
    return np.flatnonzero(np.isin(cuts[:-1], along))


def _fit(sizes: Indices, kinds: Indices, size: int, pixels: float) -> tuple[tuple[Strip, ...], bool]:
    """Return strips in pixels, and whether several are drawn together."""
    scale = pixels / max(size, 1)
    if float(sizes.min()) * scale >= FINEST or len(sizes) <= max(4, pixels / GATHERED):
        return _placed([(int(k), float(n)) for k, n in zip(kinds, sizes, strict=True)], scale), False
    bins = max(1, round(pixels / GATHERED))
    edges = np.linspace(0, size, bins + 1)
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(float)
    order = list(dict.fromkeys(kinds.tolist()))
    shared = []
    for low, high in pairwise(edges):
        overlap = np.clip(np.minimum(ends[1:], high) - np.maximum(ends[:-1], low), 0, None)
        shared += [(kind, share) for kind in order if (share := float(overlap[kinds == kind].sum())) > 0]
    return _placed(shared, scale), True


def _placed(shared: list[tuple[int, float]], scale: float) -> tuple[Strip, ...]:
    """Return strips one after the other, those of one kind joined where they touch."""
    joined: list[tuple[int, float]] = []
    for kind, size in shared:
        if joined and joined[-1][0] == kind:
            joined[-1] = (kind, joined[-1][1] + size)
        else:
            joined.append((kind, size))
    found, at = [], 0.0
    for kind, size in joined:
        found.append(Strip(at, size * scale, kind, size))
        at += size * scale
    return tuple(found)


__all__ = ["FINEST", "GATHERED", "Grid", "Strip", "boxes", "grid"]
