r"""From spaces to blocks: the one table that says what each block of a weight must hold.

A linear weight maps what it reads, x, to what it writes, y. For a target coordinate t of y and u of x:

    y \ x            source u                    silent u (zero)   live u (anything)
    source t        factor * source weight      free              0
    silent t        0                           free              0
    mean t          mean over y of the source   free              0
    live t          free                        free              free

"Free" wherever no value can matter now, so that nothing is constrained more than it must be. Inside a layer (or
head) that is new, everything is free but the tensors that write to spaces outside of it, and those are zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from growformer.architecture.declaration import Arrow, TensorSpec, space_of
from growformer.architecture.exact import ONE, Root
from growformer.architecture.language import Leaf, Term, leaves
from growformer.errors import NotPreservableError, PlanError
from growformer.planning.axis_map import NEW
from growformer.planning.blocks import (
    Affine,
    Block,
    Constant,
    Fill,
    FillKind,
    Mean,
    Noise,
    Segment,
    Status,
    Sum,
    TensorPlan,
    Value,
    compact,
)
from growformer.planning.spaces import norm_axes

if TYPE_CHECKING:
    from growformer.planning.plan import Plan

_STATUSES: tuple[Status, ...] = ("source", "live", "silent", "mean", "fresh")


@dataclass(frozen=True, slots=True)
class _Table:
    """One dimension, coordinate by coordinate."""

    source: npt.NDArray[np.int64]
    status: npt.NDArray[np.int64]
    factor: npt.NDArray[np.int64]
    copy: npt.NDArray[np.int64]
    factors: list[Root]
    copies: int
    source_size: int


def tensor_plan(plan: Plan, spec: TensorSpec, index: Mapping[str, int]) -> TensorPlan:
    """Return the blocks of one instance of a tensor."""
    architecture = plan.architecture
    origin = plan.origin(index)
    fresh = plan.is_new(index)
    arrow = architecture.arrows[spec.owner]
    name = spec.name(index)
    # A layer that is new and random has no source; its dtype comes from any instance.
    source = plan.dtype_from(spec, index)
    shape = tuple(plan.term_size(dim.term, index) for dim in spec.dims)
    if spec.template in plan.source.zeros:
        nothing = Block(tuple(slice(0, size) for size in shape), Constant(0.0))
        return TensorPlan(name, spec.template, tuple(index.items()), shape, source, (nothing,))
    tables = [_table(plan, dim.term, dim.role, index, origin, fresh) for dim in spec.dims]
    if arrow.kind == "norm" and arrow_is_on_the_residual_path(plan, arrow):
        shifted = _post_norm(plan, spec, arrow, index, origin, tables)
        if shifted is not None:
            return TensorPlan(name, spec.template, tuple(index.items()), shape, source, shifted)
    writes_outside = fresh and not _is_local(plan, spec, index)
    if writes_outside:
        value: Value = Constant(float(-arrow.offset) if spec.dims[0].role == "gain" else 0.0)
        blocks: tuple[Block, ...] = (Block(tuple(slice(0, size) for size in shape), value),)
        return TensorPlan(name, spec.template, tuple(index.items()), shape, source, blocks)
    if arrow.kind == "norm":
        found = _norm_blocks(plan, spec, arrow, index, name, source, tables[0])
    else:
        noisy = spec.template not in plan.tied_templates and arrow.kind != "embedding"
        found = _weight_blocks(spec, name, source, tables, origin is not None, noisy)
    return TensorPlan(name, spec.template, tuple(index.items()), shape, source, tuple(found))


def arrow_is_on_the_residual_path(plan: Plan, arrow: Arrow) -> bool:
    """Tell whether a norm's output is added to what it reads: post-norm, where a zero layer is not the identity."""
    return (space_of(arrow.target), space_of(arrow.source)) in plan.architecture.adds


def _is_local(plan: Plan, spec: TensorSpec, index: Mapping[str, int]) -> bool:
    """Tell whether a tensor of a new instance writes only to spaces of that instance."""
    target = plan.architecture.arrows[spec.owner].target
    outermost = plan.outermost_new(index)
    reached = list(_labels(plan, target))[:1]
    for space in reached:
        reached += [b for a, b in plan.architecture.adds if a == space and b not in reached]
    return outermost is None or all(outermost in plan.architecture.spaces[space].index for space in reached)


def _labels(plan: Plan, term: Term) -> Iterable[str]:
    return [leaf.space for leaf in leaves(plan.architecture.expand(term), lambda _: 1)[1] if leaf.space]


def _table(
    plan: Plan, term: Term, role: str, index: Mapping[str, int], origin: Mapping[str, int] | None, fresh: bool
) -> _Table:
    size, target_leaves = leaves(term, lambda axis: plan.axis_map(axis, index).target_size)
    source_size, source_leaves = leaves(term, lambda axis: plan.axis_map(axis, index).source_size)
    table = _Table(
        np.full(size, NEW, dtype=np.int64),
        np.zeros(size, dtype=np.int64),
        np.zeros(size, dtype=np.int64),
        np.zeros(size, dtype=np.int64),
        [ONE],
        1,
        source_size if origin is not None else 0,
    )
    copies = 1
    for target_leaf, source_leaf in zip(target_leaves, source_leaves, strict=True):
        copies = max(copies, _fill_leaf(plan, table, target_leaf, source_leaf, role, index, fresh))
    return _Table(table.source, table.status, table.factor, table.copy, table.factors, copies, table.source_size)


def _fill_leaf(
    plan: Plan, table: _Table, leaf: Leaf, source_leaf: Leaf, role: str, index: Mapping[str, int], fresh: bool
) -> int:
    """Fill in the coordinates of one space, and return how often each source coordinate appears."""
    state = plan.spaces[leaf.space] if leaf.space else None
    scale = plan.space_scale(leaf.space, index) if leaf.space and role != "gain" else ONE
    shape = leaf.positions.shape
    source = np.zeros(shape, dtype=np.int64)
    status = np.zeros(shape, dtype=np.int64)
    factor = np.zeros(shape, dtype=np.int64)
    copy = np.zeros(shape, dtype=np.int64)
    known = source_leaf.positions.size > 0 and plan.origin(index) is not None
    coordinates, copies = [], 1
    axis_factors: list[npt.NDArray[np.int64]] = []
    for dim, axis in enumerate(leaf.axes):
        axis_map = plan.axis_map(axis, index)
        new = state.new.get(axis, "live") if state else "live"
        along = axis_map.array()
        is_new = along == NEW
        template = np.where(is_new, np.arange(along.size) % max(axis_map.source_size, 1), along)
        expand = tuple(-1 if d == dim else 1 for d in range(len(shape)))
        kinds = np.zeros(along.size, dtype=np.int64)
        squares: list[Fraction] | None = None
        if fresh:
            kinds[is_new] = _STATUSES.index("fresh")
        elif new == "split" and is_new.any():
            template, squares = _split(axis_map.source_size, along.size)
        elif new == "mean" and is_new.any() and len(leaf.axes) > 1:
            raise NotPreservableError(
                f"cannot grow {axis}: a LayerNorm reads {leaf.space} per {leaf.axes[0]}, and means per part of an axis "
                "are not supported; grow other sizes"
            )
        elif new == "copy":
            seen = np.arange(along.size) // max(axis_map.source_size, 1)
            copy += seen.reshape(expand)
            copies *= max(axis_map.copies, 1)
        else:
            kinds[is_new] = _STATUSES.index(new if new in ("live", "silent", "mean") else "live")
        # A coordinate that is new along any live axis is ignored downstream; that frees it altogether.
        status = _stronger(status, np.broadcast_to(kinds.reshape(expand), shape))
        coordinates.append(np.broadcast_to(template.reshape(expand), shape))
        if squares is not None:
            codes = np.array([_intern(table.factors, Root(square)) for square in squares], dtype=np.int64)
            axis_factors.append(np.broadcast_to(codes.reshape(expand), shape))
    if known:
        # A space without axes has one coordinate, and indexing by nothing selects it.
        source = np.asarray(source_leaf.positions[tuple(coordinates)], dtype=np.int64)
    if role in ("write", "offset"):
        base = scale
    elif role == "read":
        base = ONE / (scale * Fraction(copies))
    else:
        base = ONE
    if axis_factors:
        combined = np.empty(shape, dtype=np.int64)
        flat = [codes.reshape(-1) for codes in axis_factors]
        for position, along_axes in enumerate(zip(*flat, strict=True)):
            product = base
            for code in along_axes:
                product = product * table.factors[int(code)]
            combined.reshape(-1)[position] = _intern(table.factors, product)
        factor = combined
    else:
        factor[...] = _intern(table.factors, base)
    if not known:
        status = np.full(shape, _STATUSES.index("fresh"), dtype=np.int64)
    at = leaf.positions
    table.source[at] = source if known else NEW
    table.status[at] = status
    table.factor[at] = factor
    table.copy[at] = copy
    return copies


def _stronger(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Combine the status along two axes: fresh over live over silent or mean over source."""
    rank = np.array([0, 3, 1, 2, 4])
    return np.where(rank[a] >= rank[b], a, b)


def _split(source: int, target: int) -> tuple[npt.NDArray[np.int64], list[Fraction]]:
    """Split coordinates so that the sum of squares stays: entry i keeps 9/25 of its square, its parts share 16/25.

    Returns the source coordinate and the squared factor of every target coordinate.
    """
    along = np.arange(target, dtype=np.int64)
    template = along % source
    parts = np.bincount(template, minlength=source)
    squares = [
        Fraction(1)
        if parts[origin] == 1
        else (Fraction(9, 25) if position < source else Fraction(16, 25 * (int(parts[origin]) - 1)))
        for position, origin in enumerate(template.tolist())
    ]
    return template, squares


def _intern(factors: list[Root], factor: Root) -> int:
    if factor not in factors:
        factors.append(factor)
    return factors.index(factor)


def _segments(table: _Table) -> list[Segment]:
    """Group a dimension's coordinates that are treated alike."""
    codes = (table.status * len(table.factors) + table.factor) * (int(table.copy.max(initial=0)) + 1) + table.copy
    found = []
    for code in np.unique(codes):
        where = np.flatnonzero(codes == code)
        first = where[0]
        has_source = table.source_size > 0 and table.source[first] != NEW
        found.append(
            Segment(
                compact(where),
                compact(table.source[where]) if has_source else None,
                _STATUSES[table.status[first]],
                table.factors[table.factor[first]],
                int(table.copy[first]),
                table.copies,
            )
        )
    return sorted(found, key=lambda s: int(s.target.start if isinstance(s.target, slice) else s.target[0]))


def _weight_blocks(
    spec: TensorSpec, name: str, source: str, tables: list[_Table], has_source: bool, noisy: bool
) -> Iterable[Block]:
    kind: FillKind = "bias" if len(spec.dims) == 1 and spec.part == "bias" else "weight"
    segments = [_segments(table) for table in tables]
    if len(spec.dims) == 1:
        for s in segments[0]:
            yield Block((s.target,), _value(name, source, (s,), s, None, tables, kind, False))
        return
    write = 0 if spec.dims[0].role == "write" else 1
    for first in segments[0]:
        for second in segments[1]:
            pair = (first, second)
            value = _value(name, source, pair, pair[write], pair[1 - write], tables, kind, noisy)
            yield Block((first.target, second.target), value)


def _value(
    name: str,
    source: str,
    segments: tuple[Segment, ...],
    write: Segment,
    read: Segment | None,
    tables: list[_Table],
    kind: FillKind,
    noisy: bool,
) -> Value:
    """The table at the head of this file."""
    regions = tuple(s.source for s in segments)
    known = tuple(r for r in regions if r is not None)
    complete = len(known) == len(regions)
    reads = read.status if read is not None else "source"
    scale = write.factor * read.factor if read is not None else write.factor
    if write.status == "source" and reads == "source":
        if not complete:
            raise PlanError(f"{name}: a block that should come from the source has none")
        affine = Affine(source, known, scale)
        if read is not None and read.copies > 1 and noisy:
            return Sum((affine, Noise(name, known, read.copy, read.copies)))
        return affine
    is_free = write.status in ("live", "fresh") or reads in ("silent", "fresh")
    if is_free:
        template = (source, known) if complete else None
        return Fill(name, tuple(s.target for s in segments), kind, template)
    if reads in ("live", "mean") or write.status == "silent":
        return Constant(0.0)
    dim = 0 if segments[0] is write else 1
    whole = slice(0, tables[dim].source_size)
    return Mean(source, tuple(whole if d == dim else r for d, r in enumerate(known)), dim, scale)


def _norm_blocks(
    plan: Plan, spec: TensorSpec, arrow: Arrow, index: Mapping[str, int], name: str, source: str, table: _Table
) -> Iterable[Block]:
    reads, writes = space_of(arrow.source), space_of(arrow.target)
    if spec.dims[0].role == "offset":
        target = _for_space(plan, arrow, writes, index, "offset")
        for s in _segments(target):
            if s.status in ("live", "fresh"):
                template = (source, (s.source,)) if s.source is not None else None
                yield Block((s.target,), Fill(name, (s.target,), "bias", template))
            elif s.status == "source" and s.source is not None:
                yield Block((s.target,), Affine(source, (s.source,), s.factor))
            else:
                yield Block((s.target,), Constant(0.0))
        return
    before = _for_space(plan, arrow, reads, index, "write")
    after = _for_space(plan, arrow, writes, index, "write")
    rho = plan.norm_rho(spec.owner, index)
    # Gain factor per coordinate: sqrt(rho) * (scale written) / (scale read); free where the output is new.
    codes = after.status * len(before.factors) * len(after.factors) + before.factor * len(after.factors) + after.factor
    for code in np.unique(codes):
        where = np.flatnonzero(codes == code)
        first = where[0]
        status = _STATUSES[after.status[first]]
        if status == "source":
            factor = Root.sqrt(rho) * after.factors[after.factor[first]] / before.factors[before.factor[first]]
            yield Block((compact(where),), gain(source, compact(after.source[where]), factor, arrow.offset))
        else:
            known = after.source_size > 0 and after.source[first] != NEW
            template = (source, (compact(after.source[where]),)) if known else None
            yield Block((compact(where),), Fill(name, (compact(where),), "gain", template, arrow.offset))


def gain(source: str, region: slice | npt.NDArray[np.int64], factor: Root, offset: int) -> Affine:
    """Return ``factor * (offset + g) - offset`` for stored gains g."""
    if not offset or factor.is_one():
        return Affine(source, (region,), factor)
    return Affine(source, (region,), factor, (float(factor) - 1.0) * offset)


def _for_space(plan: Plan, arrow: Arrow, space: str, index: Mapping[str, int], role: str) -> _Table:
    """Return the table of a norm's stored dimension with the states of one of its two spaces."""
    axes = plan.architecture.spaces[space].axes
    reduced = norm_axes(plan.architecture, arrow)
    term = plan.architecture.expand(arrow.over or arrow.target)
    wanted = [a for a in axes if a in reduced]
    size, found = leaves(term, lambda axis: plan.axis_map(axis, index).target_size)
    source_size, source_found = leaves(term, lambda axis: plan.axis_map(axis, index).source_size)
    if len(found) != 1 or sorted(found[0].axes) != sorted(wanted):
        raise PlanError(f"the norm {arrow} must store one gain per coordinate of {wanted}")
    origin = plan.origin(index)
    table = _Table(
        np.full(size, NEW, dtype=np.int64),
        np.zeros(size, dtype=np.int64),
        np.zeros(size, dtype=np.int64),
        np.zeros(size, dtype=np.int64),
        [ONE],
        1,
        source_size if origin is not None else 0,
    )
    leaf = Leaf(space, found[0].axes, found[0].positions)
    _fill_leaf(plan, table, leaf, source_found[0], role, index, plan.is_new(index))
    return table


def _post_norm(
    plan: Plan,
    spec: TensorSpec,
    arrow: Arrow,
    index: Mapping[str, int],
    origin: Mapping[str, int] | None,
    tables: list[_Table],
) -> tuple[Block, ...] | None:
    """Move the affine of the norm in front of new post-norm layers to the last of them (MATHEMATICS: post-norm).

    A new layer whose writers are zero computes LN(LN(x)). With gain 1 and bias 0 on the norm in front of it, gain
    sqrt(1 + eps) and bias 0 on the new inner norms, and the front norm's own affine times sqrt(1 + eps) on the last,
    that is the front norm alone, up to eps / (2 variance).

    Returns None where no new layer follows or precedes, so that the usual rule holds.
    """
    chain = plan.norm_chain(arrow)
    here = chain.index((spec.owner, tuple(index.items())))
    is_new = [plan.is_new(dict(i)) for _, i in chain]
    last_of_run = is_new[here] and (here + 1 == len(chain) or not is_new[here + 1])
    before_run = not is_new[here] and here + 1 < len(chain) and is_new[here + 1]
    if not (is_new[here] or before_run):
        return None
    size = plan.term_size(spec.dims[0].term, index)
    everything = (slice(0, size),)
    eps = plan.epsilon(arrow)
    if last_of_run:
        front = here
        while front >= 0 and is_new[front]:
            front -= 1
        if front < 0:
            raise PlanError(f"{spec.owner}: no norm stands in front of the new layer")
        owner, front_index = chain[front]
        front_origin = plan.origin(dict(front_index))
        assert front_origin is not None  # front is not new
        moved = plan.architecture.tensors[f"{owner}.{spec.part}"]
        factor = Root.sqrt((1 + eps) * plan.norm_rho(owner, dict(front_index))) if spec.part == "weight" else ONE
        blocks = []
        table = _table(plan, moved.dims[0].term, "offset", dict(front_index), front_origin, False)
        for s in _segments(table):
            if s.source is None:
                raise PlanError(f"{owner}: a post-norm residual stream has no coordinate without a source")
            value = Affine(moved.name(front_origin), (s.source,), s.factor * factor)
            if spec.part == "weight":
                value = gain(value.tensor, s.source, value.scale, arrow.offset)
            blocks.append(Block((s.target,), value))
        return tuple(blocks)
    if spec.part == "bias":
        return (Block(everything, Constant(0.0)),)
    return (Block(everything, Constant((1.0 if before_run else float(Root.sqrt(1 + eps))) - arrow.offset)),)
