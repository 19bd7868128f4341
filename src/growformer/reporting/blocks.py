"""What every tensor of the target is made of: blocks that can be drawn and counted, alike instances together.

The blocks are what ``verification.requirements`` demands, and not what a planner says that it did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from growformer.architecture.declaration import TensorSpec, spaces_in
from growformer.verification.dimensions import WITHOUT_SPACE
from growformer.verification.recorded import Recorded
from growformer.verification.regions import Region, count, intersect
from growformer.verification.requirements import (
    Free,
    MeanOf,
    Must,
    Requirement,
    Scaled,
    TensorRequirements,
    Value,
    requirements,
)
from growformer.verification.structure import Index

KINDS = ("copy", "rescaled", "sum", "mean", "constant", "zero", "free")
"""In the order of legends: what holds the source first, what may hold anything last."""


@dataclass(frozen=True, slots=True)
class Block:
    """One region of a tensor.

    Attributes:
        kind: one of ``KINDS``.
        region: where it lies; it may be several copies apart from each other.
        note: its factor (``× 0.866025 = 1/2*sqrt(3)``), its constant, or nothing.
        short: the same in a few characters, to stand in the picture.
    """

    kind: str
    region: Region
    note: str = ""
    short: str = ""

    @property
    def num_entries(self) -> int:
        """How many values it has."""
        return count(self.region)


@dataclass(frozen=True, slots=True)
class Variant:
    """Instances of one kind of tensor that are made of the same blocks.

    Attributes:
        spec: the tensor's declaration.
        shape: of one instance in the target.
        source_shape: of the source's; None where all are new.
        blocks: they cover the tensor exactly once.
        instances: the target's instances, in order.
        is_new: whether they have no source.
        dtype: of the source's tensors.
    """

    spec: TensorSpec
    shape: tuple[int, ...]
    source_shape: tuple[int, ...] | None
    blocks: tuple[Block, ...]
    instances: tuple[Mapping[str, int], ...]
    is_new: bool
    dtype: str

    @property
    def size(self) -> int:
        """Values of one instance."""
        return prod(self.shape)

    @property
    def entries(self) -> Counter[str]:
        """Kind -> values of one instance."""
        found: Counter[str] = Counter()
        for block in self.blocks:
            found[block.kind] += block.num_entries
        return found

    @property
    def is_unchanged(self) -> bool:
        """Whether every instance is the source's, bit by bit."""
        return not self.is_new and {b.kind for b in self.blocks} <= {"copy"} and self.shape == self.source_shape


def variants(rec: Recorded, template: str) -> list[Variant]:
    """Return the different makings of one kind of tensor.

    Raises:
        PlanError: no values can meet what is recorded.
    """
    spec = rec.architecture.tensors[template]
    grouped: dict[Any, list[dict[str, int]]] = {}
    for index in rec.architecture.instances_of(spec, rec.target_config):
        grouped.setdefault(_depends_on(rec, spec, index), []).append(index)
    found: dict[Any, tuple[TensorRequirements, tuple[Block, ...], list[dict[str, int]]]] = {}
    names = _Names()
    for together in grouped.values():
        needed = requirements(rec, template, together[0])
        blocks = _as_one(tuple(_blocks(needed)), needed.shape)
        key = (needed.shape, rec.is_new(together[0]), tuple((b.kind, b.note, *map(names, b.region)) for b in blocks))
        found.setdefault(key, (needed, blocks, []))[2].extend(together)
    return [_variant(rec, spec, *parts) for parts in found.values()]


def all_variants(rec: Recorded) -> dict[str, list[Variant]]:
    """Return the makings of every kind of tensor that the target has, in order of declaration."""
    templates = [t for t in rec.architecture.tensors if t in rec.present]
    return {template: made for template in templates if (made := variants(rec, template))}


def _variant(
    rec: Recorded,
    spec: TensorSpec,
    needed: TensorRequirements,
    blocks: tuple[Block, ...],
    instances: list[dict[str, int]],
) -> Variant:
    order = rec.index_axes
    instances.sort(key=lambda index: [index[axis] for axis in order if axis in index])
    first = next((index for index in instances if not rec.is_new(index)), None)
    source = rec.tensors.get(spec.name(rec.origin(first))) if first is not None else None
    shape = source.shape if source is not None else None
    if source is None:
        source = next((t for i in rec.sources(spec.index) if (t := rec.tensors.get(spec.name(rec.origin(i))))), None)
    return Variant(
        spec, needed.shape, shape, blocks, tuple(instances), first is None, source.dtype if source is not None else ""
    )


def _depends_on(rec: Recorded, spec: TensorSpec, index: Index) -> Any:
    """Return all that the blocks of an instance follow from, so that those of alike ones are derived once.

    Norms may make good for each other, and a tied tensor has other uses: each of their instances is derived for itself.
    """
    arrow = rec.architecture.arrows[spec.owner]
    if arrow.kind in ("norm", "scale") or spec.template in rec.tied_heads.values():
        return tuple(index.values())
    if arrow.kind == "carried":
        return rec.is_new(index)
    axes = {a for dim in spec.dims if dim.role not in WITHOUT_SPACE for a in _axes(rec, spec, dim.term)}
    sizes = tuple(index[name] for axis in sorted(axes) for name in rec.size_indices[axis])
    spaces = [space for term in (arrow.source, arrow.target) for space in spaces_in(term)]
    return rec.outermost_new(index), sizes, tuple(rec.scale(space, index) for space in spaces)


def _axes(rec: Recorded, spec: TensorSpec, term: Any) -> frozenset[str]:
    from growformer.architecture.language import UNIT, term_axes

    known = ("report axes", spec.template, str(term))
    if known not in rec.cache:
        rec.cache[known] = frozenset(term_axes(term) - {UNIT})
    found: frozenset[str] = rec.cache[known]
    return found


class _Names:
    """Names positions by what they are; the arrays of alike tensors are one object, and are looked at once."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Any, Any]] = {}

    def __call__(self, along: Any) -> Any:
        if isinstance(along, slice):
            return along.start, along.stop
        if id(along) not in self.seen:
            self.seen[id(along)] = (along, along.tobytes())  # kept, so that no other object gets its id
        return self.seen[id(along)][1]


def _blocks(needed: TensorRequirements) -> Iterator[Block]:
    """Yield the blocks of a tensor; where one use leaves a region free, another may not."""
    together = [(r, region) for r in needed.uses[0] for region in r.copies]
    for use in needed.uses[1:]:
        other = [(r, region) for r in use for region in r.copies]
        together = [
            (b if isinstance(a.must, Free) else a, shared)
            for (a, first), (b, second) in product(together, other)
            if (shared := intersect(first, second)) is not None
        ]
    for requirement, region in together:
        kind, note, short = described(requirement)
        if count(region):
            yield Block(kind, region, note, short)


def _as_one(blocks: tuple[Block, ...], shape: tuple[int, ...]) -> tuple[Block, ...]:
    """Return one block for all where a tensor is zero, or free, from end to end: it has no parts to tell apart."""
    if len(blocks) < 2 or {block.kind for block in blocks} not in ({"zero"}, {"free"}):
        return blocks
    return (Block(blocks[0].kind, tuple(slice(0, size) for size in shape)),)


def described(requirement: Requirement) -> tuple[str, str, str]:
    """Return what must hold somewhere: its kind, its factor or constant, and that in a few characters."""
    must: Must = requirement.must
    if isinstance(must, Free):
        return "free", "", ""
    if isinstance(must, Value):
        if must.root.square == 0 and not must.offset:
            return "zero", "", ""
        return "constant", f"{float(must):.9g}", f"{float(must):.4g}"
    note = "" if must.scale.is_one() else f"× {float(must.scale):.6g}"
    exact = "" if must.scale.is_one() or str(must.scale) == f"{float(must.scale):.6g}" else f" = {must.scale}"
    if isinstance(must, Scaled) and must.offset and note:
        exact += f", of {must.offset} + the stored value"
    if len(requirement.copies) > 1:
        return "sum", f"{len(requirement.copies)} copies that add up to {note or 'the source'}{exact}", note
    if isinstance(must, MeanOf):
        return "mean", f"{note}{exact}", note
    return ("copy" if must.is_copy else "rescaled"), f"{note}{exact}", note.replace(" ", "\N{NO-BREAK SPACE}")


def instances_in_words(rec: Recorded, variant: Variant) -> str:
    """Return which instances they are: ``layers 0–3, 5``, ``layers 3–60, 256 experts each``; nothing for only one."""
    axes = variant.spec.index
    if not axes:
        return ""
    outer = list(dict.fromkeys(index[axes[0]] for index in variant.instances))
    words = f"{plural(axes[0], len(outer))} {ranges(outer)}"
    inner = len(variant.instances) // max(len(outer), 1)
    if len(axes) > 1:
        words += f", {inner} {plural(axes[-1], inner)} each" if inner * len(outer) == len(variant.instances) else ""
    return words


def plural(axis: str, number: int) -> str:
    """Return an axis in words."""
    word = axis.replace("_", " ")
    return word if number == 1 or word.endswith("s") else f"{word}s"


def ranges(numbers: list[int], limit: int = 12) -> str:
    """Return numbers in words: ``0–3, 5, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(a) if a == b else f"{a}–{b}" for a, b in runs]
    return ", ".join(shown) if len(shown) <= limit else f"{', '.join(shown[: limit - 1])}, … {shown[-1]}"


__all__ = [
    "KINDS", "Block", "Variant", "all_variants", "described", "instances_in_words", "plural", "ranges",
    "variants",
]  # fmt: skip
