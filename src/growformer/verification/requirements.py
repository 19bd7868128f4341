r"""What every tensor of the target must hold, derived from the recorded spaces.

A weight maps what it reads, x, to what it writes, y. Source coordinates of y must come out as their factor times the
source's, whatever x is; from that follows, for a target coordinate t of y and u of x,

    y \ x            source u                    silent u (zero)   live u (anything), mean u
    source t        factor * source weight      free              0
    mean t          mean over y of the source   free              0
    silent t        0                           free              0
    live t          free                        free              free

where the copies of one u must *sum* to what is said, and "free" is any finite value. In a layer (or head) that is new,
spaces of its own are live, and what it writes to others must be zero. A tied tensor must meet all its uses. A carried
tensor has no spaces, and stays as it is; nor have a convolution's window and dimensions of size one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from typing import Any

from growformer.architecture.declaration import Arrow, TensorSpec, space_of
from growformer.architecture.exact import ONE, Root
from growformer.errors import PlanError
from growformer.verification.dimensions import Segment, alike, dimension_segments, norm_table, term_size
from growformer.verification.held import Held
from growformer.verification.recorded import LIVE, MEAN, SILENT, SOURCE, Recorded
from growformer.verification.regions import Region, compact, intersect
from growformer.verification.structure import Index


@dataclass(frozen=True, slots=True)
class Scaled:
    """``scale * (offset + tensor[region]) - offset`` of the source; bit by bit where the scale is one."""

    tensor: str
    region: Region
    scale: Root = ONE
    offset: int = 0

    @property
    def is_copy(self) -> bool:
        """Whether values must be equal bit by bit."""
        return self.scale.is_one()


@dataclass(frozen=True, slots=True)
class MeanOf:
    """``scale * mean(tensor[region], dim)`` of the source."""

    tensor: str
    region: Region
    dim: int
    scale: Root = ONE


@dataclass(frozen=True, slots=True)
class Value:
    """``root - offset`` everywhere."""

    root: Root
    offset: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether the value is a whole number, and so exact in every dtype."""
        try:
            return self.root.rational().denominator == 1
        except ValueError:
            return False

    def __float__(self) -> float:
        return float(self.root) - self.offset


@dataclass(frozen=True, slots=True)
class Free:
    """Any finite value, but not this one everywhere (gains that are zero in effect would never learn)."""

    forbidden: float | None = None


Must = Scaled | MeanOf | Value | Free
ZERO = Value(Root(Fraction(0)))


@dataclass(frozen=True, slots=True)
class Requirement:
    """What must hold in a region of the target.

    Attributes:
        copies: one region; or several of equal shape, whose values must add up to what is said.
        must: what they must hold.
    """

    copies: tuple[Region, ...]
    must: Must


@dataclass(frozen=True, slots=True)
class TensorRequirements:
    """What must hold for one tensor of the target.

    Attributes:
        name: its canonical name.
        held: where it is stored.
        shape: its shape.
        uses: one list of requirements per use (a tied tensor has several); each list covers the tensor exactly once.
    """

    name: str
    held: Held
    shape: tuple[int, ...]
    uses: tuple[tuple[Requirement, ...], ...]

    @property
    def stored(self) -> str:
        """The name of the stored tensor that holds it."""
        return self.held.stored

    def free_regions(self) -> list[tuple[Region, Free]]:
        """Return the regions that no use constrains; they do not overlap."""
        found: list[tuple[Region, Free]] = [(tuple(slice(0, size) for size in self.shape), Free())]
        for use in self.uses:
            free = [(r.copies[0], r.must) for r in use if isinstance(r.must, Free)]
            found = [
                (shared, Free(a.forbidden if a.forbidden is not None else b.forbidden))
                for (first, a), (second, b) in product(found, free)
                if (shared := intersect(first, second)) is not None
            ]
        return found


def requirements(data: Mapping[str, Any] | Recorded, template: str, index: Index) -> TensorRequirements:
    """Return what one tensor of the target must hold.

    Args:
        data: a plan's JSON that meets its ``local_conditions``.
        template: the tensor's template in the architecture.
        index: its instance in the target.

    Raises:
        PlanError: the data is no record of a growth, or no values can meet it here.
    """
    rec = Recorded.read(data)
    architecture = rec.architecture
    if template not in architecture.tensors:
        raise PlanError(f"the architecture {architecture.name} has no tensor {template!r}")
    spec = architecture.tensors[template]
    name = spec.name(index)
    shape = tuple(term_size(rec, dim, index) for dim in spec.dims)
    if template in rec.zeros:
        everything: Region = tuple(slice(0, size) for size in shape)
        return TensorRequirements(name, rec.target_held(spec, index), shape, ((Requirement((everything,), ZERO),),))
    specs = [spec, *(architecture.tensors[head] for head, table in rec.tied_heads.items() if table == template)]
    uses = []
    for use in specs:
        found = tuple(_of_use(rec, use, index, spec.name(_origin(rec, index))))
        uses.append(found)
    return TensorRequirements(name, rec.target_held(spec, index), shape, tuple(uses))


def first_rounded(rec: Recorded) -> str | None:
    """Return the name of a tensor that holds source values rounded to its dtype; None if all are there bit by bit.

    Rounded are values times a factor that is no power of two, means, shares of copies, and irrational constants.

    Raises:
        PlanError: no values can meet what is recorded.
    """
    for spec, index in rec.specs():
        needed = requirements(rec, spec.template, index)
        if any(_is_rounded(requirement) for use in needed.uses for requirement in use):
            return needed.name
    return None


def _is_rounded(requirement: Requirement) -> bool:
    must = requirement.must
    if isinstance(must, Scaled):
        exact = must.is_copy or (_is_power_of_two(must.scale) and not must.offset)
        return len(requirement.copies) > 1 or not exact
    return isinstance(must, MeanOf) or (isinstance(must, Value) and not must.is_exact)


def _is_power_of_two(scale: Root) -> bool:
    parts = (scale.square.numerator, scale.square.denominator)
    return all(part & (part - 1) == 0 and part.bit_length() % 2 for part in parts)


def _origin(rec: Recorded, index: Index) -> dict[str, int]:
    """Return the source instance, or where there is none (a new one), the target's: nothing is taken from it."""
    return dict(index) if rec.is_new(index) else rec.origin(index)


def _of_use(rec: Recorded, spec: TensorSpec, index: Index, source: str) -> Iterator[Requirement]:
    arrow = rec.architecture.arrows[spec.owner]
    if arrow.kind in ("norm", "scale"):
        yield from _norm(rec, spec, arrow, index, source)
        return
    if arrow.kind == "carried":
        everything = tuple(slice(0, term_size(rec, dim, index)) for dim in spec.dims)
        yield Requirement((everything,), Free() if rec.is_new(index) else Scaled(source, everything))
        return
    new = rec.is_new(index)
    dims = []
    for number, dim in enumerate(spec.dims):
        is_lookup = arrow.kind == "embedding" and dim.role == "read"
        dims.append(dimension_segments(rec, spec, number, index, is_lookup=is_lookup))
    written = next(d for d, dim in enumerate(spec.dims) if dim.role == "write")
    for parts in product(*dims):
        must = _weight(parts, written, new, source)
        regions = tuple(product(*(part.copies for part in parts)))
        if isinstance(must, Free):
            yield from (Requirement((region,), must) for region in regions)
        else:
            yield Requirement(regions, must)


def _weight(parts: tuple[Segment, ...], written: int, new: bool, source: str) -> Must:
    """Return what one block must hold: the table at the head of this file."""
    write, reads = parts[written], [part for d, part in enumerate(parts) if d != written]
    if write.status == LIVE or any(read.status == SILENT for read in reads):
        return Free()
    if new or write.status == SILENT or any(read.status in (LIVE, MEAN) for read in reads):
        return ZERO
    scale = write.factor
    for read in reads:
        scale = scale / read.factor
    region = tuple(part.source for part in parts)
    return MeanOf(source, region, written, scale) if write.status == MEAN else Scaled(source, region, scale)


def _norm(rec: Recorded, spec: TensorSpec, arrow: Arrow, index: Index, source: str) -> Iterator[Requirement]:
    """A gain makes what it reads into what it writes; where it writes zero or what is ignored, it is free.

    That of a norm also makes good for what the mean square has changed by; a LayerScale has no other part.
    """
    is_gain = spec.dims[0].role == "gain"
    writes = space_of(arrow.target)
    new = rec.outermost_new(index)
    if new is not None and rec.is_local(writes, new):
        everything: Region = (slice(0, term_size(rec, spec.dims[0], index)),)
        yield Requirement((everything,), _free(arrow, is_gain))
        return
    if rec.residual(arrow) is not None:
        moved = _post_norm(rec, spec, arrow, index)
        if moved is not None:
            yield from moved
            return
    before, after = (norm_table(rec, arrow, space_of(end), index) for end in (arrow.source, arrow.target))
    ratio = ONE
    if new is None and arrow.kind == "norm":
        ratio = Root.sqrt(rec.mean_square_ratio(arrow, index))
    for (status, reads, wrote), where in alike(after.status, before.factor, after.factor):
        writing = after.factors[wrote]
        must: Must
        if status == LIVE or (status == SILENT and is_gain and new is None):
            must = _free(arrow, is_gain)
        elif new is not None or status != SOURCE:
            must = replace(ZERO, offset=arrow.offset if is_gain else 0)
        elif is_gain:
            must = Scaled(
                source, (compact(after.source[where]),), ratio * writing / before.factors[reads], arrow.offset
            )
        else:
            must = Scaled(source, (compact(after.source[where]),), writing)
        yield Requirement(((compact(where),),), must)


def _free(arrow: Arrow, is_gain: bool) -> Free:
    return Free(float(-arrow.offset)) if is_gain else Free()


def _post_norm(rec: Recorded, spec: TensorSpec, arrow: Arrow, index: Index) -> list[Requirement] | None:
    """A run of new post-norm layers computes LN(LN(..x..)), which must be the norm in front of the run alone.

    The norm in front gets gain 1 and bias 0, so that its output has variance var / (var + eps), about 1; each new norm
    divides by sqrt(1 + eps), which its gain makes good; the last one has the front norm's own affine as well.

    Returns None for a norm that no new layer follows and that is not new.
    """
    chain = rec.chain(arrow)
    here = chain.index((spec.owner, dict(index)))
    is_new = [rec.is_new(i) for _, i in chain] + [False]
    if not is_new[here] and not is_new[here + 1]:
        return None
    front = here
    while is_new[front]:
        front -= 1
        if front < 0:
            raise PlanError(f"no norm stands in front of {spec.name(index)}")
    is_last = is_new[here] and not is_new[here + 1]
    owner, at = chain[front]
    first = rec.architecture.arrows[owner]
    is_gain = spec.dims[0].role == "gain"
    before, after = (norm_table(rec, first, space_of(end), at) for end in (first.source, first.target))
    renorm = ONE
    if is_new[here]:
        eps = rec.target_config[arrow.eps] if isinstance(arrow.eps, str) else arrow.eps
        renorm = Root.sqrt(1 + Fraction(eps))
    moved = f"{owner}.{spec.part}"
    found = []
    for (status, reads, wrote), where in alike(after.status, before.factor, after.factor):
        reading, writing = before.factors[reads], after.factors[wrote]
        region: Region = (compact(after.source[where]),)
        must: Must
        if status == LIVE or (status == SILENT and is_gain):
            must = _free(arrow, is_gain)
        elif status != SOURCE:
            must = ZERO
        elif is_last and moved in rec.present:
            name = rec.architecture.tensors[moved].name(rec.origin(at))
            scale = Root.sqrt(rec.mean_square_ratio(first, at)) * writing / reading * renorm if is_gain else writing
            must = Scaled(name, region, scale, arrow.offset if is_gain else 0)
        else:
            must = Value(renorm, arrow.offset) if is_gain else ZERO
        found.append(Requirement(((compact(where),),), must))
    return found


__all__ = ["Free", "MeanOf", "Must", "Requirement", "Scaled", "TensorRequirements", "Value", "requirements"]
