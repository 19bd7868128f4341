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

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from growformer.architecture.declaration import Arrow, TensorSpec, space_of
from growformer.architecture.exact import ONE, Root
from growformer.architecture.language import Leaf, Term, leaves
from growformer.errors import PlanError
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
    renamed,
)
from growformer.planning.spaces import averaged_axes, norm_axes

if TYPE_CHECKING:
    from growformer.planning.plan import Plan

_STATUSES: tuple[Status, ...] = ("source", "live", "silent", "mean", "fresh")


@dataclass(frozen=True, slots=True)
class _Table:
    """One dimension, coordinate by coordinate."""

    source: npt.NDArray[np.int64]
    status: npt.NDArray[np.int64]
    factor: npt.NDArray[np.int64]
    slope: npt.NDArray[np.int64]
    copy: npt.NDArray[np.int64]
    factors: list[Root]
    group: npt.NDArray[np.int64]
    groups: list[npt.NDArray[np.int64]]
    copies: npt.NDArray[np.int64]
    source_size: int


def _empty_table(size: int, source_size: int) -> _Table:
    def column(value: int) -> npt.NDArray[np.int64]:
        return np.full(size, value, dtype=np.int64)

    return _Table(
        column(NEW), column(0), column(0), column(0), column(0), [ONE], column(NEW), [], column(1), source_size
    )


def tensor_plan(plan: Plan, spec: TensorSpec, index: Mapping[str, int]) -> TensorPlan:
    """Return the blocks of one instance of a tensor. Instances that are treated alike share the work."""
    name = spec.name(index)
    origin = plan.origin(index)
    if origin is not None and spec.name(origin) not in plan.source.tensors:
        origin = None  # the layer that a new one copies has no such tensor
    # A layer that is new and random has no source; its dtype comes from any instance.
    source = plan.dtype_from(spec, index)
    key = (spec.template, origin is None, plan.outermost_new(index), _sizes_and_scales(plan, spec, index))
    blocks = plan.made.get(key)
    if blocks is None:
        blocks = tuple(_blocks(plan, spec, index, origin, source))
        if not _is_post_norm(plan, plan.architecture.arrows[spec.owner]):  # what these hold depends on their neighbours
            plan.made[key] = blocks
    else:
        blocks = tuple(renamed(block, name, source) for block in blocks)
    shape = tuple(plan.term_size(dim.term, index) for dim in spec.dims)
    return TensorPlan(name, spec.template, tuple(index.items()), shape, source, blocks)


def _sizes_and_scales(plan: Plan, spec: TensorSpec, index: Mapping[str, int]) -> tuple[Hashable, ...]:
    """Return what the blocks of an instance follow from: the maps of the axes and the scales of the spaces it has."""
    axes, spaces = plan.reach(spec)
    return (*(plan.axis_map(axis, index) for axis in axes), *(plan.space_scale(space, index) for space in spaces))


def _blocks(
    plan: Plan, spec: TensorSpec, index: Mapping[str, int], origin: Mapping[str, int] | None, source: str
) -> Iterable[Block]:
    """Return what an instance of a tensor is made of.

    Args:
        plan: the plan.
        spec: the tensor.
        index: its instance in the target.
        origin: the source instance that it comes from or copies, if there is one.
        source: the source tensor that gives it its dtype.
    """
    arrow = plan.architecture.arrows[spec.owner]
    name = spec.name(index)
    fresh = plan.is_new(index)
    everything = tuple(slice(0, plan.term_size(dim.term, index)) for dim in spec.dims)
    if spec.template in plan.source.zeros:
        return (Block(everything, Constant(0.0)),)
    if arrow.kind == "carried":
        return (Block(everything, Affine(source, everything)),)
    tables = [_table(plan, dim.term, dim.role, index, origin, fresh) for dim in spec.dims]
    if _is_post_norm(plan, arrow):
        shifted = _post_norm(plan, spec, arrow, index, origin, tables)
        if shifted is not None:
            return shifted
    if fresh and not _is_local(plan, spec, index):
        value: Value = Constant(float(-arrow.offset) if spec.dims[0].role == "gain" else 0.0)
        return (Block(everything, value),)
    if arrow.kind in ("norm", "scale"):
        return _norm_blocks(plan, spec, arrow, index, origin, name, source, tables[0])
    noisy = spec.template not in plan.tied_templates and arrow.kind != "embedding"
    return _weight_blocks(spec, name, source, tables, noisy)


def arrow_is_on_the_residual_path(plan: Plan, arrow: Arrow) -> bool:
    """Tell whether a norm's output is added to what it reads: post-norm, where a zero layer is not the identity."""
    ends = (space_of(arrow.target), space_of(arrow.source))
    return any((add.source, add.target) == ends for add in plan.architecture.adds)


def _is_post_norm(plan: Plan, arrow: Arrow) -> bool:
    return arrow.kind == "norm" and arrow_is_on_the_residual_path(plan, arrow)


def _is_local(plan: Plan, spec: TensorSpec, index: Mapping[str, int]) -> bool:
    """Tell whether a tensor of a new instance writes only to spaces of that instance."""
    target = plan.architecture.arrows[spec.owner].target
    outermost = plan.outermost_new(index)
    reached = list(dict.fromkeys(_labels(plan, target)))
    for space in reached:
        reached += [a.target for a in plan.architecture.adds if a.source == space and a.target not in reached]
    if outermost is None:
        return True
    sums = {space_of(a.source) for a in plan.architecture.arrows.values() if _is_post_norm(plan, a)}
    return not sums & set(reached) and all(outermost in plan.architecture.spaces[space].index for space in reached)


def _labels(plan: Plan, term: Term) -> Iterable[str]:
    return [leaf.space for leaf in leaves(plan.architecture.expand(term), lambda _: 1)[1] if leaf.space]


def _table(
    plan: Plan, term: Term, role: str, index: Mapping[str, int], origin: Mapping[str, int] | None, fresh: bool
) -> _Table:
    size, target_leaves = leaves(term, lambda axis: plan.axis_map(axis, index).target_size)
    source_size, source_leaves = leaves(term, lambda axis: plan.axis_map(axis, index).source_size)
    table = _empty_table(size, source_size if origin is not None else 0)
    for target_leaf, source_leaf in zip(target_leaves, source_leaves, strict=True):
        _fill_leaf(plan, table, target_leaf, source_leaf, role, index, origin, fresh)
    return table


def _fill_leaf(
    plan: Plan,
    table: _Table,
    leaf: Leaf,
    source_leaf: Leaf,
    role: str,
    index: Mapping[str, int],
    origin: Mapping[str, int] | None,
    fresh: bool,
) -> None:
    """Fill in the coordinates of one space."""
    state = plan.spaces.get(leaf.space) if leaf.space else None
    scale = plan.space_scale(leaf.space, index) if state is not None and leaf.space and role != "gain" else ONE
    shape = leaf.positions.shape
    source = np.zeros(shape, dtype=np.int64)
    status = np.zeros(shape, dtype=np.int64)
    factor = np.zeros(shape, dtype=np.int64)
    slope = np.zeros(shape, dtype=np.int64)
    copy = np.zeros(shape, dtype=np.int64)
    known = source_leaf.positions.size > 0 and origin is not None
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
    # What is written carries scale, each of its copies passes on its share of the gradient; readers undo both.
    shared = ONE / (scale * Fraction(copies))
    if role in ("write", "offset"):
        base, along_gradient = scale, shared
    elif role == "read":
        base, along_gradient = shared, scale
    else:
        base, along_gradient = ONE, ONE
    if axis_factors:
        combined = np.empty(shape, dtype=np.int64)
        flat = [codes.reshape(-1) for codes in axis_factors]
        for position, along_axes in enumerate(zip(*flat, strict=True)):
            product = base
            for code in along_axes:
                product = product * table.factors[int(code)]
            combined.reshape(-1)[position] = _intern(table.factors, product)
        factor = combined
        # The two sides of a product both carry a split coordinate's factor: what one side passes back has the other's.
        for code in np.unique(combined).tolist():
            share = table.factors[code] / base
            slope[combined == code] = _intern(table.factors, share * along_gradient)
    else:
        factor[...] = _intern(table.factors, base)
        slope[...] = _intern(table.factors, along_gradient)
    if origin is None:
        status = np.full(shape, _STATUSES.index("fresh"), dtype=np.int64)
    at = leaf.positions
    if known and leaf.space and (status == _STATUSES.index("mean")).any():
        table.group[at] = _groups(plan, table, leaf.space, leaf.axes, source_leaf, coordinates)
    table.source[at] = source if known else NEW
    table.status[at] = status
    table.factor[at] = factor
    table.slope[at] = slope
    table.copy[at] = copy
    table.copies[at] = copies


def _groups(
    plan: Plan,
    table: _Table,
    space: str,
    axes: tuple[str, ...],
    source: Leaf,
    coordinates: list[npt.NDArray[np.int64]],
) -> npt.NDArray[np.int64]:
    """Return for every coordinate the code of the source positions whose mean stands in for it: a LayerNorm's span."""
    averaged = averaged_axes(plan.architecture, space) or set(axes)
    kept = [d for d, axis in enumerate(axes) if axis not in averaged]
    order = [*kept, *(d for d in range(len(axes)) if d not in kept)]
    spans = source.positions.transpose(order).reshape(prod(source.positions.shape[d] for d in kept), -1)
    code = np.zeros(coordinates[0].shape, dtype=np.int64)
    for d in kept:
        code = code * source.positions.shape[d] + coordinates[d]
    first = len(table.groups)
    table.groups.extend(np.sort(span) for span in spans)
    return code + first


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
    is_mean = table.status == _STATUSES.index("mean")
    codes = (table.status * len(table.factors) + table.factor) * len(table.factors) + table.slope
    codes = codes * (int(table.copy.max(initial=0)) + 1) + table.copy
    codes = codes * (int(table.copies.max(initial=0)) + 1) + table.copies
    codes = codes * (len(table.groups) + 1) + np.where(is_mean, table.group + 1, 0)
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
                int(table.copies[first]),
                compact(table.groups[table.group[first]]) if is_mean[first] and table.group[first] >= 0 else None,
                table.factors[table.slope[first]],
            )
        )
    return sorted(found, key=lambda s: int(s.target.start if isinstance(s.target, slice) else s.target[0]))


def _weight_blocks(spec: TensorSpec, name: str, source: str, tables: list[_Table], noisy: bool) -> Iterable[Block]:
    kind: FillKind = "bias" if spec.part == "bias" else "weight"
    write = next(d for d, dim in enumerate(spec.dims) if dim.role == "write")
    reads = [d for d, dim in enumerate(spec.dims) if dim.role == "read"]
    for segments in product(*(_segments(table) for table in tables)):
        value = _value(name, source, segments, write, reads, kind, noisy)
        yield Block(tuple(s.target for s in segments), value)


def _value(
    name: str,
    source: str,
    segments: tuple[Segment, ...],
    written: int,
    reads: list[int],
    kind: FillKind,
    noisy: bool,
) -> Value:
    """The table at the head of this file."""
    write, read = segments[written], [segments[d] for d in reads]
    known = tuple(s.source for s in segments if s.source is not None)
    complete = len(known) == len(segments)
    scale, slope = write.factor, write.slope
    for segment in read:
        scale, slope = scale * segment.factor, slope * segment.slope
    if all(s.status == "source" for s in (write, *read)):
        if not complete:
            raise PlanError(f"{name}: a block that should come from the source has none")
        affine = Affine(source, known, scale, slope=slope)
        repeated = next((s for s in read if s.copies > 1), None)
        if repeated is not None and noisy:
            return Sum((affine, Noise(name, known, repeated.copy, repeated.copies)))
        return affine
    if write.status in ("live", "fresh") or any(s.status in ("silent", "fresh") for s in read):
        template = (source, known) if complete else None
        return Fill(name, tuple(s.target for s in segments), kind, template)
    if any(s.status in ("live", "mean") for s in read) or write.status == "silent":
        return Constant(0.0)
    if write.averaged is None:
        raise PlanError(f"{name}: a mean is needed of what has no source")
    region = tuple(write.averaged if d == written else r for d, r in enumerate(known))
    return Mean(source, region, written, scale)


def _norm_blocks(
    plan: Plan,
    spec: TensorSpec,
    arrow: Arrow,
    index: Mapping[str, int],
    origin: Mapping[str, int] | None,
    name: str,
    source: str,
    table: _Table,
) -> Iterable[Block]:
    reads, writes = space_of(arrow.source), space_of(arrow.target)
    if spec.dims[0].role == "offset":
        target = _for_space(plan, arrow, writes, index, origin, "offset")
        for s in _segments(target):
            if s.status in ("live", "fresh"):
                template = (source, (s.source,)) if s.source is not None else None
                yield Block((s.target,), Fill(name, (s.target,), "bias", template))
            elif s.status == "source" and s.source is not None:
                yield Block((s.target,), Affine(source, (s.source,), s.factor, slope=s.slope))
            else:
                yield Block((s.target,), Constant(0.0))
        return
    before = _for_space(plan, arrow, reads, index, origin, "write")
    after = _for_space(plan, arrow, writes, index, origin, "write")
    rho = plan.norm_rho(spec.owner, index)
    # Gain factor per coordinate: sqrt(rho) * (scale written) / (scale read); free where the output is new.
    count = len(after.factors)
    codes = ((after.status * len(before.factors) + before.factor) * count + after.factor) * count + after.slope
    for code in np.unique(codes):
        where = np.flatnonzero(codes == code)
        first = where[0]
        status = _STATUSES[after.status[first]]
        if status == "source":
            read, written = before.factors[before.factor[first]], after.factors[after.factor[first]]
            factor, slope = Root.sqrt(rho) * written / read, after.factors[after.slope[first]] * read / Root.sqrt(rho)
            yield Block((compact(where),), gain(source, compact(after.source[where]), factor, arrow.offset, slope))
        else:
            known = after.source_size > 0 and after.source[first] != NEW
            template = (source, (compact(after.source[where]),)) if known else None
            yield Block((compact(where),), Fill(name, (compact(where),), "gain", template, arrow.offset))


def gain(source: str, region: slice | npt.NDArray[np.int64], factor: Root, offset: int, slope: Root = ONE) -> Affine:
    """Return ``factor * (offset + g) - offset`` for stored gains g."""
    shift = 0.0 if not offset or factor.is_one() else (float(factor) - 1.0) * offset
    return Affine(source, (region,), factor, shift, slope)


def _for_space(
    plan: Plan, arrow: Arrow, space: str, index: Mapping[str, int], origin: Mapping[str, int] | None, role: str
) -> _Table:
    """Return the table of a norm's stored dimension with the states of one of its two spaces."""
    axes = plan.architecture.spaces[space].axes
    reduced = norm_axes(plan.architecture, arrow)
    term = plan.architecture.expand(arrow.over or arrow.target)
    wanted = [a for a in axes if a in reduced]
    size, found = leaves(term, lambda axis: plan.axis_map(axis, index).target_size)
    source_size, source_found = leaves(term, lambda axis: plan.axis_map(axis, index).source_size)
    if len(found) != 1 or sorted(found[0].axes) != sorted(wanted):
        raise PlanError(f"the norm {arrow} must store one gain per coordinate of {wanted}")
    table = _empty_table(size, source_size if origin is not None else 0)
    leaf = Leaf(space, found[0].axes, found[0].positions)
    _fill_leaf(plan, table, leaf, source_found[0], role, index, origin, plan.is_new(index))
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
        factor = Root.sqrt(1 + eps) if spec.part == "weight" else ONE
        blocks = []
        table = _table(plan, moved.dims[0].term, "offset", dict(front_index), front_origin, False)
        for s in _segments(table):
            if s.source is None:
                raise PlanError(f"{owner}: a post-norm residual stream has no coordinate without a source")
            value = Affine(moved.name(front_origin), (s.source,), s.factor * factor, slope=s.slope / factor)
            if spec.part == "weight":
                value = gain(value.tensor, s.source, value.scale, arrow.offset, value.slope)
            blocks.append(Block((s.target,), value))
        return tuple(blocks)
    if spec.part == "bias":
        return (Block(everything, Constant(0.0)),)
    return (Block(everything, Constant((1.0 if before_run else float(Root.sqrt(1 + eps))) - arrow.offset)),)
