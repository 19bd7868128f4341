"""Bands of stored tensors: runs of their bytes that are read at a time, and what a requirement asks for inside one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod

from growformer.architecture.packing import Piece
from growformer.verification.regions import Region, count, part, places_between, shifted, size
from growformer.verification.requirements import MeanOf, Requirement, Scaled

BAND_BYTES = 6 << 20
"""Of a tensor in the target; a band holds whole rows."""
Bounds = tuple[slice, ...]


def bands(shape: tuple[int, ...], width: int) -> Iterator[Bounds]:
    """Cut a tensor into runs of bytes of at most ``BAND_BYTES``; an empty one into a single empty band."""
    cut = cut_dimension(shape, width)
    if not shape or 0 in shape:
        yield tuple(slice(0, n) for n in shape)
        return
    rows = max(1, BAND_BYTES // max(1, prod(shape[cut + 1 :]) * width))
    inner = tuple(slice(0, n) for n in shape[cut + 1 :])
    for outer in product(*(range(n) for n in shape[:cut])):
        for first in range(0, shape[cut], rows):
            yield (*(slice(at, at + 1) for at in outer), slice(first, min(first + rows, shape[cut])), *inner)


def cut_dimension(shape: tuple[int, ...], width: int) -> int:
    """Return the dimension that bands cut; those before it are taken position by position, those behind it whole."""
    cut = 0
    while cut < len(shape) - 1 and prod(shape[cut + 1 :]) * width > BAND_BYTES:
        cut += 1
    return cut


def is_cut_by_bands(
    requirement: Requirement, whole: Region, piece: Piece | None, stored: tuple[int, ...], width: int
) -> bool:
    """Tell whether bands would part copies that must be added up, as they stand at different rows."""
    if len(requirement.copies) == 1 or prod(stored) * width <= BAND_BYTES:
        return False
    cut = cut_dimension(stored, width)
    dims = [d <= cut for d in range(len(stored))]
    if piece is not None and piece.at is not None:
        dims = dims[1:]
    if piece is not None and piece.transposed:
        dims = dims[::-1]
    return any(
        is_cut and any(_key(copy[d]) != _key(requirement.copies[0][d]) for copy in requirement.copies)
        for d, is_cut in enumerate(dims[: len(whole)])
    )


def inside(requirement: Requirement, bounds: Bounds, shape: tuple[int, ...]) -> Requirement | None:
    """Return what a requirement asks for inside bounds, in positions of the whole tensor; None if nothing.

    Copies that must be added up have to agree in the dimensions that the bounds cut.
    """
    first = requirement.copies[0]
    changed = False
    copies = [list(region) for region in requirement.copies]
    must = requirement.must
    region = list(must.region) if isinstance(must, (Scaled, MeanOf)) else []
    for d, (along, bound) in enumerate(zip(first, bounds, strict=True)):
        if bound.start == 0 and bound.stop == shape[d]:
            continue
        chosen = places_between(along, bound.start, bound.stop)
        if chosen is None:
            return None
        if size(chosen) == size(along):
            continue
        changed = True
        for copy in copies:
            copy[d] = part(copy[d], chosen)
        if region and not (isinstance(must, MeanOf) and d == must.dim):
            region[d] = part(region[d], chosen)
    if not changed:
        return requirement
    if isinstance(must, (Scaled, MeanOf)):
        must = replace(must, region=tuple(region))
    return Requirement(tuple(map(tuple, copies)), must)


def pieces_of(requirement: Requirement, width: int) -> Iterator[Requirement]:
    """Cut a requirement itself, along its longest dimension that is not averaged over, into parts of a band's size."""
    must, first = requirement.must, requirement.copies[0]
    averaged = must.dim if isinstance(must, MeanOf) else None
    lengths = [size(along) for along in first]
    cut = max((d for d in range(len(first)) if d != averaged), key=lambda d: lengths[d], default=None)
    total = count(first) * len(requirement.copies) * width
    if cut is None or total <= BAND_BYTES:
        yield requirement
        return
    step = max(1, lengths[cut] * BAND_BYTES // total)
    for start in range(0, lengths[cut], step):
        chosen = slice(start, min(start + step, lengths[cut]))
        copies = tuple(_with(region, cut, chosen) for region in requirement.copies)
        if isinstance(must, (Scaled, MeanOf)):
            yield Requirement(copies, replace(must, region=_with(must.region, cut, chosen)))
        else:
            yield Requirement(copies, must)


def _with(region: Region, dim: int, chosen: slice) -> Region:
    return tuple(part(along, chosen) if d == dim else along for d, along in enumerate(region))


def seen_from(region: Region, bounds: Bounds) -> Region:
    """Return a region in positions of a band."""
    return tuple(shifted(along, bound.start) for along, bound in zip(region, bounds, strict=True))


def _key(along: object) -> object:
    return (along.start, along.stop) if isinstance(along, slice) else along.tobytes()  # type: ignore[attr-defined]


__all__ = [
    "BAND_BYTES", "Bounds", "bands", "cut_dimension", "inside", "is_cut_by_bands", "pieces_of", "seen_from",
]  # fmt: skip
