"""One dimension of a tensor, coordinate by coordinate: what the recorded spaces say that it carries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from growformer.architecture.declaration import Arrow, Dim, TensorSpec
from growformer.architecture.exact import ONE, Root
from growformer.architecture.language import Leaf, leaves
from growformer.errors import PlanError
from growformer.verification.recorded import LIVE, MEAN, SILENT, SOURCE, STATUS, Indices, Recorded
from growformer.verification.regions import Positions, compact
from growformer.verification.structure import Index

WITHOUT_SPACE = ("kernel", "unit")
"""Roles of dimensions that carry no space: a convolution's window, and dimensions of size one. They never grow."""


@dataclass(frozen=True, slots=True)
class Table:
    """What one dimension of a tensor carries.

    Attributes:
        status: per target coordinate.
        source: per target coordinate its position in the source's dimension, or -1.
        factor: per target coordinate a code in ``factors``.
        group: per target coordinate that carries a mean: a code in ``groups``, the source positions averaged.
    """

    status: Indices
    source: Indices
    factor: Indices
    group: Indices
    factors: list[Root]
    groups: list[Indices]


@dataclass(frozen=True, slots=True)
class Segment:
    """Coordinates that are treated alike.

    Attributes:
        status, factor: what they carry.
        copies: target positions; several arrays beside each other where what is read is copied.
        source: source positions, or those averaged.
    """

    status: int
    factor: Root
    copies: tuple[Positions, ...]
    source: Positions


def term_size(rec: Recorded, dim: Dim, index: Index) -> int:
    """Return the size of a dimension in the target."""
    return leaves(dim.term, lambda axis: rec.target_size(axis, index))[0]


def _unchanged(size: int) -> Table:
    where = np.arange(size, dtype=np.int64)
    return Table(np.full(size, SOURCE), where, np.zeros_like(where), np.full(size, -1), [ONE], [])


def _empty(size: int) -> Table:
    new = np.full(size, -1, dtype=np.int64)
    return Table(np.full(size, LIVE), new, np.zeros_like(new), new.copy(), [ONE], [])


def dimension_segments(rec: Recorded, spec: TensorSpec, number: int, index: Index, *, is_lookup: bool) -> list[Segment]:
    """Return what one dimension of a tensor carries, in groups of coordinates; those of like instances are found once.

    Args:
        rec: the record.
        spec: the tensor.
        number: of the dimension.
        index: its instance.
        is_lookup: whether its rows are looked up rather than summed.

    Raises:
        PlanError: nothing is recorded for a new coordinate.
    """
    dim = spec.dims[number]
    known = ("spaces", spec.template, number)
    if known not in rec.cache:
        rec.cache[known] = [(leaf.space, leaf.axes) for leaf in leaves(dim.term, lambda _: 1)[1]]
    # All that the outcome depends on.
    new = rec.outermost_new(index)
    alike: list[object] = [spec.template, number, new]
    if dim.role not in WITHOUT_SPACE:
        for space, axes in rec.cache[known]:
            if space is not None:
                alike += [rec.scale(space, index), new is not None and rec.is_local(space, new)]
            alike += [tuple(index[name] for name in rec.size_indices[axis]) for axis in axes]
    key = tuple(alike)
    if key not in rec.cache:
        rec.cache[key] = segments_of(table_of(rec, dim, index, is_lookup=is_lookup), dim.role)
    found: list[Segment] = rec.cache[key]
    return found


def table_of(rec: Recorded, dim: Dim, index: Index, *, is_lookup: bool) -> Table:
    """Return what a dimension carries; ``is_lookup`` for one whose rows are looked up rather than summed.

    Raises:
        PlanError: nothing is recorded for a new coordinate.
    """
    if dim.role in WITHOUT_SPACE:
        return _unchanged(term_size(rec, dim, index))
    size, targets = leaves(dim.term, lambda axis: rec.target_size(axis, index))
    new = rec.outermost_new(index)
    table = _empty(size)
    # In what is new, source positions are not used: nothing is taken from the source.
    sources = leaves(dim.term, lambda axis: rec.sizes(axis, index)[0])[1] if new is None else targets
    for target, source in zip(targets, sources, strict=True):
        if target.space is None:
            raise PlanError(f"the term {dim.term} names no space")
        if new is not None and rec.is_local(target.space, new):
            continue
        _fill(rec, table, target, source, index)
        if is_lookup:
            # Rows that no input of the source looks up.
            at = target.positions
            table.status[at] = np.where(table.status[at] == SOURCE, SOURCE, SILENT)
    return table


def _fill(rec: Recorded, table: Table, target: Leaf, source: Leaf, index: Index) -> None:
    """Fill in the coordinates of one space."""
    space, shape = str(target.space), target.positions.shape
    new = rec.is_new(index)
    status = np.full(shape, SOURCE, dtype=np.int64)
    squares: list[Fraction] = [rec.scale(space, index).square]
    codes = np.zeros(shape, dtype=np.int64)
    coordinates = []
    for dim, axis in enumerate(target.axes):
        expand = tuple(-1 if d == dim else 1 for d in range(len(shape)))
        origins, code, factors = rec.parts(space, axis, index)
        kind = rec.kind(space, axis)
        if kind is None and (origins < 0).any():
            raise PlanError(f"nothing is recorded for new coordinates of {space!r} along {axis!r}")
        status = np.maximum(status, np.where(origins < 0, STATUS[kind or "live"], SOURCE).reshape(expand))
        coordinates.append(np.broadcast_to(np.maximum(origins, 0).reshape(expand), shape))
        codes = codes * len(factors) + code.reshape(expand)
        squares = [a * b for a in squares for b in factors]
    at = target.positions
    table.status[at] = status
    roots = [_intern(table.factors, Root(square)) for square in squares]
    table.factor[at] = np.array(roots, dtype=np.int64)[codes]
    if new or not source.positions.size:  # the source has no coordinate that could be repeated
        return
    table.source[at] = np.where(status == SOURCE, source.positions[tuple(coordinates)], -1)
    if (status == MEAN).any():
        table.group[at] = np.where(status == MEAN, _groups(rec, table, space, target.axes, source, coordinates), -1)


def _groups(
    rec: Recorded, table: Table, space: str, axes: tuple[str, ...], source: Leaf, coordinates: list[Indices]
) -> Indices:
    """Return for every coordinate the code of the source positions whose mean it would carry."""
    averaged = rec.mean_axes(space) or axes
    kept = [d for d, axis in enumerate(axes) if axis not in averaged]
    order = [*kept, *(d for d in range(len(axes)) if d not in kept)]
    sizes = [source.positions.shape[d] for d in kept]
    rows = source.positions.transpose(order).reshape(math.prod(sizes), -1)
    code = np.zeros(coordinates[0].shape, dtype=np.int64)
    for d, size in zip(kept, sizes, strict=True):
        code = code * size + coordinates[d]
    first = len(table.groups)
    table.groups.extend(np.sort(row) for row in rows)
    return code + first


def _intern(factors: list[Root], factor: Root) -> int:
    if factor not in factors:
        factors.append(factor)
    return factors.index(factor)


def alike(*columns: Indices) -> Iterator[tuple[tuple[int, ...], Indices]]:
    """Yield the different tuples of codes that stand side by side, with where they do, in order of first appearance."""
    code = np.zeros_like(columns[0])
    for column in columns:
        code = code * (int(column.max(initial=0)) + 2) + column + 1
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    runs = np.split(order, starts[1:]) if order.size else []  # a size may be 0
    for where in sorted(runs, key=lambda w: int(w[0])):
        yield tuple(int(column[where[0]]) for column in columns), where


def segments_of(table: Table, role: str) -> list[Segment]:
    """Group the coordinates that are treated alike; copies of what is read stand beside each other."""
    # What is read as zero or ignored, or written to be ignored, has no factor.
    scaled = table.status == SOURCE if role == "read" else table.status != LIVE
    group = np.full_like(table.group, -1) if role == "read" else table.group
    found = []
    # Where several spaces are read beside each other, some may be repeated and others not.
    _, at, counts = np.unique(table.source, return_inverse=True, return_counts=True)
    times = np.where((table.status == SOURCE) & (role == "read"), counts[at], 0)
    for (status, code, mean, _), where in alike(table.status, np.where(scaled, table.factor, 0), group, times):
        factor = table.factors[code]
        if status == MEAN and role != "read":
            source = table.groups[mean] if mean >= 0 else np.zeros(0, dtype=np.int64)
            found.append(Segment(status, factor, (compact(where),), compact(source)))
        elif status == SOURCE and role == "read" and (table.source[where] >= 0).all():
            ordered = where[np.argsort(table.source[where], kind="stable")]
            source = np.unique(table.source[where])
            beside = ordered.reshape(source.size, -1).T
            found.append(Segment(status, factor, tuple(map(compact, beside)), compact(source)))
        else:
            found.append(Segment(status, factor, (compact(where),), compact(table.source[where])))
    return found


def norm_table(rec: Recorded, arrow: Arrow, space: str, index: Index) -> Table:
    """Return what one of a norm's two spaces carries at its stored coordinates."""
    term = rec.architecture.expand(arrow.over or arrow.target)
    size, (target,) = leaves(term, lambda axis: rec.target_size(axis, index))
    new = rec.is_new(index)
    (source,) = leaves(term, lambda axis: rec.target_size(axis, index) if new else rec.sizes(axis, index)[0])[1]
    table = _empty(size)
    _fill(rec, table, replace(target, space=space), source, index)
    return table


__all__ = [
    "WITHOUT_SPACE", "Segment", "Table", "alike", "dimension_segments", "norm_table", "segments_of", "table_of",
    "term_size",
]  # fmt: skip
