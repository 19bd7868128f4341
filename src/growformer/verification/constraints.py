"""Compares two checkpoints block by block: is every value of the target what preservation asks of it?

No model runs and no planner is imported: what must hold is derived from the architecture and the recorded axis maps
and spaces alone, so that a planner's mistake cannot hide. Tensors of the target are read band by band, once, in the
order in which they lie, with the rows of the source that each band needs; memory does not depend on any size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from math import prod
from threading import local
from typing import Any

import torch

from growformer.architecture.packing import declared_bounds, stored_region
from growformer.errors import PlanError, SourceError
from growformer.verification.bands import (
    Bounds,
    bands,
    inside,
    is_cut_by_bands,
    pieces_of,
    seen_from,
)
from growformer.verification.comparing import (
    SPAN,
    Worst,
    compare_copy,
    compare_free,
    compare_mean,
    compare_scaled,
    compare_sum,
    compare_value,
    expected_sum,
    mean_of,
)
from growformer.verification.conditions import local_conditions
from growformer.verification.constraints_report import KINDS, ConstraintsReport
from growformer.verification.diagnosis import diagnose
from growformer.verification.held import Held, undo
from growformer.verification.parts import Part, describe, left_over, said
from growformer.verification.parts import violations as violations_of
from growformer.verification.recorded import Recorded
from growformer.verification.regions import Region, count, intersect, part, select, show, size
from growformer.verification.requirements import (
    Free,
    MeanOf,
    Requirement,
    Scaled,
    TensorRequirements,
    Value,
    requirements,
)
from growformer.verification.structure import Index
from growformer.verification.tensors import Read, Reader, Tensors, as_tensors
from growformer.verification.violations import Violation

Regenerate = Callable[[str, Region], torch.Tensor]
"""Canonical name in the target, and a region that nothing constrains -> what the initialisation puts there."""
INFERRED_ULPS = 4
"""Units in the last place that a rescaled value may be off where no record says in how many growths it was rounded."""
EXPLAINED = 8
"""Of how many violations it is looked up what stands there instead."""
Select = Callable[[str, Index], bool]
"""Template and instance in the target -> whether to compare that tensor."""


def compare_checkpoints(
    data: Mapping[str, Any] | Recorded,
    read_source: Read | Tensors,
    read_target: Read | Tensors,
    *,
    target_names: Iterable[str] | None = None,
    regenerate: Regenerate | None = None,
    strict: bool = False,
    threads: int = 1,
    record: str = "growformer.json",
    only: Select | None = None,
    sample: bool = False,
) -> ConstraintsReport:
    """Compare the tensors of a grown checkpoint with the source's, region by region.

    Copies must agree bit by bit (after one rounding where the target has another dtype), zeros must be zero; rescaled
    values and means, computed in float64, may be off by one unit in the last place of the target's dtype; copies that
    must sum to something may be off by one unit of the largest for each of them. With an inferred record, which does
    not tell one growth from several in sequence, four units each.

    Args:
        data: the record: a plan's JSON, or what growformer.json holds under ``plan``.
        read_source: gives one tensor of the source by its stored name, or regions of them; KeyError or SourceError
            where it is missing.
        read_target: likewise of the target. Tensors are not changed.
        target_names: stored names of all tensors in the target, to find what is left over.
        regenerate: gives the initialisation's values, in any thread; without it free regions are counted, not checked.
        strict: rescaled values, means and constants must be the float64 result in the stated order, rounded once, bit
            by bit; zeros must be positive; copies must add up to within half a unit of each. See ``comparing``.
        threads: how many compare; each holds a band of both sides.
        record: how the report names the record.
        only: compares the tensors that it selects, and none other.
        sample: of every tensor the first, the middle and the last band only, to see whether a record may be right.

    Raises:
        PlanError: the data is not a record of a growth.
    """
    start = time.perf_counter()
    rec = Recorded.read(data)
    violations = local_conditions(rec)
    values, tensors, num_bytes = dict.fromkeys(KINDS, 0), 0, 0
    roundings: tuple[str, ...] = ()
    ulps = 0 if strict else INFERRED_ULPS if record == "inferred" else 1
    if not any(v.kind == "axis map" for v in violations):
        left = set(target_names) if target_names is not None else set()
        comparison = _Comparison(rec, as_tensors(read_source), as_tensors(read_target), regenerate, ulps, sample)
        stored: dict[str, list[tuple[str, Index]]] = {}
        for spec, index in rec.specs():
            held = rec.target_held(spec, index)
            left.discard(held.stored)
            if only is None or only(spec.template, index):
                stored.setdefault(held.stored, []).append((spec.template, index))
        violations += comparison.run(stored, threads)
        violations += [left_over(rec, name) for name in sorted(left)]
        values, tensors, num_bytes = comparison.values, comparison.tensors, comparison.num_bytes
        roundings = tuple(sorted(comparison.roundings))
    return ConstraintsReport(
        violations=tuple(violations),
        tensors=tensors,
        values=values,
        record=record,
        strict=strict,
        roundings=roundings,
        num_bytes=num_bytes,
        seconds=round(time.perf_counter() - start, 3),
    )


_Found = list[tuple[Part, int, tuple[Worst, Worst, Worst]]]
"""Tensor, number of the test -> what is wrong."""
_Task = Callable[[], _Found]


@dataclass(slots=True)
class _Comparison:
    """The target's stored tensors against what they must hold."""

    rec: Recorded
    source: Tensors
    target: Tensors
    regenerate: Regenerate | None
    ulps: int
    sample: bool = False
    values: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    tensors: int = 0
    num_bytes: int = 0
    explained: int = 0
    roundings: set[str] = field(default_factory=set)
    _read: set[str] = field(default_factory=set)
    _threads: local = field(default_factory=local)

    def run(self, stored: Mapping[str, list[tuple[str, Index]]], threads: int) -> list[Violation]:
        """Compare all of them, and return what does not hold."""
        violations: list[Violation] = []
        waiting: list[tuple[Future[_Found], list[Part]]] = []

        def collect(found: _Found, done: list[Part]) -> None:
            """Take in what one task found; after the last one of a tensor, say it, and let go of what it must hold."""
            for each, number, worst in found:
                for total, more in zip(each.found[number], worst, strict=True):
                    total.merge(more)
            for each in done:
                violations.extend(self._said(each))

        with ThreadPoolExecutor(threads) as pool:
            try:
                for name in sorted(stored, key=self.target.place):
                    parts, wrong = self._prepare(stored[name])
                    violations += wrong
                    tasks = list(self._tasks(name, parts))
                    for number, task in enumerate(tasks, start=1):
                        done = parts if number == len(tasks) else []
                        if threads == 1:
                            collect(task(), done)
                            continue
                        waiting.append((pool.submit(task), done))
                        while len(waiting) > 2 * threads:
                            future, done = waiting.pop(0)
                            collect(future.result(), done)
                for future, done in waiting:
                    collect(future.result(), done)
            finally:
                pool.shutdown(cancel_futures=True)
        return violations

    def _said(self, each: Part) -> Iterator[Violation]:
        """Yield what does not hold in a tensor, of the first few with what stands there instead."""
        for test, violation in violations_of(each):
            if violation.kind in ("copy", "rescaled") and self.explained < EXPLAINED and not self.sample:
                self.explained += 1
                why = diagnose(self.rec, each.needed, test, each.template, each.index, self.source, self.target)
                violation = replace(violation, explanation=why)
            yield violation

    # Before anything is compared.

    def _prepare(self, instances: list[tuple[str, Index]]) -> tuple[list[Part], list[Violation]]:
        """Return the declared tensors in a stored one, and what can be said against them without their values."""
        parts: list[Part] = []
        violations: list[Violation] = []
        for template, index in instances:
            self.tensors += 1
            try:
                needed = requirements(self.rec, template, index)
            except PlanError as error:
                held = self.rec.target_held(self.rec.architecture.tensors[template], index)
                violations.append(
                    Violation(kind="space", where=str(held), expected="values that preserve", found=str(error))
                )
                continue
            wrong = self._fits(needed)
            if wrong is not None:
                violations.append(wrong)
                continue
            made = Part(needed, template, index, [])
            for use in needed.uses:
                for requirement in use:
                    if isinstance(requirement.must, Free):
                        continue
                    missing = self._missing(needed, requirement)
                    if missing is None:
                        made.tests.append(requirement)
                    else:
                        violations.append(missing)
            made.tests += [Requirement((region,), must) for region, must in needed.free_regions()]
            made.found = [(Worst(), Worst(), Worst()) for _ in made.tests]
            self._count(needed)
            parts.append(made)
        return parts, violations

    def _fits(self, needed: TensorRequirements) -> Violation | None:
        held = needed.held
        expected = needed.shape if held.piece is None else held.shape
        try:
            found = self.target.shape(held.stored)
        except (KeyError, SourceError) as error:
            return said(needed, "missing", "a tensor", f"none ({error})")
        if found != expected:
            return said(needed, "shape", str(list(expected)), str(list(found)))
        return None

    def _missing(self, needed: TensorRequirements, requirement: Requirement) -> Violation | None:
        """Return what is wrong with the source tensor that a requirement compares with."""
        if not isinstance(requirement.must, (Scaled, MeanOf)):
            return None
        canonical = requirement.must.tensor
        try:
            held = self.rec.source_held(canonical)
            found = self.source.shape(held.stored)
        except (KeyError, SourceError) as error:
            return said(needed, "missing", "a tensor in the source", f"none ({error})", requirement.copies[0])
        expected = self.rec.tensors[canonical].shape if held.piece is None else held.shape
        if found != expected:
            says = f"the source's shape as its config says: {list(expected)}"
            return said(needed, "shape", says, str(list(found)), requirement.copies[0])
        before, after = self.source.dtype(held.stored), self.target.dtype(needed.stored)
        if before.is_floating_point and not (after.is_floating_point and after.itemsize > 1):
            says, there = (str(dtype).removeprefix("torch.") for dtype in (before, after))
            return said(
                needed, "copy", f"values in floating point, as the source's {says}", there, requirement.copies[0]
            )
        if before != after and torch.promote_types(before, after) != after:
            self.roundings.add(" to ".join(str(dtype).removeprefix("torch.") for dtype in (before, after)))
        if held.stored not in self._read:
            self._read.add(held.stored)
            self.num_bytes += prod(found) * self.source.dtype(held.stored).itemsize
        return None

    def _count(self, needed: TensorRequirements) -> None:
        """Count every value once, by the first of its uses that constrains it."""
        free: list[Region] = [tuple(slice(0, n) for n in needed.shape)]
        for use in needed.uses:
            for requirement in use:
                if isinstance(requirement.must, Free):
                    continue
                for copy in requirement.copies:
                    shared = (intersect(copy, region) for region in free)
                    self.values[describe(requirement)[0]] += sum(count(r) for r in shared if r is not None)
            regions = [r.copies[0] for r in use if isinstance(r.must, Free)]
            free = [r for a in free for b in regions if (r := intersect(a, b)) is not None]
        kind = "unchecked" if self.regenerate is None else "regenerated"
        self.values[kind] += sum(map(count, free))

    # Bands.

    def _tasks(self, name: str, parts: list[Part]) -> Iterator[_Task]:
        """Yield what compares one band, or a part of copies that bands would part."""
        if not parts:
            return
        shape, width = self.target.shape(name), self.target.dtype(name).itemsize
        self.num_bytes += prod(shape) * width
        for each in parts:
            whole = tuple(slice(0, n) for n in each.needed.shape)
            piece = each.needed.held.piece
            each.apart = [
                number for number, test in enumerate(each.tests) if is_cut_by_bands(test, whole, piece, shape, width)
            ]
        cut = list(bands(shape, width))
        for bounds in [cut[at] for at in sorted({0, len(cut) // 2, len(cut) - 1})] if self.sample else cut:
            yield lambda bounds=bounds: self._band(name, parts, bounds)  # type: ignore[misc]
        for each in parts:
            for number in each.apart:
                smaller_ones = pieces_of(each.tests[number], width)
                for smaller in islice(smaller_ones, 1 if self.sample else None):
                    yield lambda each=each, number=number, smaller=smaller: self._apart(each, number, smaller)  # type: ignore[misc]

    def _band(self, name: str, parts: list[Part], bounds: Bounds) -> _Found:
        found: _Found = []
        source, target = self._readers()
        band = target.region(name, bounds)
        for each in parts:
            piece = each.needed.held.piece
            within = declared_bounds(piece, bounds)
            if within is None:
                continue
            place = stored_region(piece, within)
            here = undo(piece, select(band, seen_from(place, bounds)))
            for number, test in enumerate(each.tests):
                if number in each.apart:
                    continue
                asked = inside(test, within, each.needed.shape)
                if asked is None:
                    continue
                copies = [select(here, seen_from(copy, within)) for copy in asked.copies]
                worst = self._compare(each, number, asked, copies, source)
                if worst is not None:
                    found.append((each, number, worst))
        source.reset()
        target.reset()
        return found

    def _apart(self, each: Part, number: int, test: Requirement) -> _Found:
        source, target = self._readers()
        held = each.needed.held
        copies = [_values(target, held, copy) for copy in test.copies]
        worst = self._compare(each, number, test, copies, source)
        source.reset()
        target.reset()
        return [] if worst is None else [(each, number, worst)]

    def _readers(self) -> tuple[Reader, Reader]:
        if not hasattr(self._threads, "readers"):
            self._threads.readers = self.source.reader(), self.target.reader()
        source, target = self._threads.readers
        source.reset()
        target.reset()
        return source, target

    def _compare(
        self, each: Part, number: int, test: Requirement, copies: list[torch.Tensor], source: Reader
    ) -> tuple[Worst, Worst, Worst] | None:
        """Return what is wrong in one region, or None."""
        must, at = test.must, test.copies[0]
        worst, dead, different = Worst(), Worst(), Worst()
        if isinstance(must, Free):
            values = copies[0]
            expected = None if self.regenerate is None else self.regenerate(each.needed.name, at)
            if expected is not None:
                expected = expected.detach().cpu().to(values.dtype).expand_as(values)
            compare_free(values, expected, at, worst, different)
            if must.forbidden is not None and (values == must.forbidden).any():
                dead.add(values == must.forbidden, values, values, at)
        elif not copies[0].numel():
            return None
        else:
            read = _values(source, self.rec.source_held(must.tensor), must.region) if isinstance(must, Scaled) else None
            mean = self._mean(each, number, must, source) if isinstance(must, MeanOf) else None
            if len(copies) > 1:
                compare_sum(copies, expected_sum(must, read, mean), at, worst, ulps=self.ulps)
            elif isinstance(must, Value):
                compare_value(copies[0], must, at, worst, ulps=self.ulps)
            elif isinstance(must, MeanOf) and mean is not None:
                compare_mean(copies[0], mean, must.dim, at, worst, ulps=self.ulps)
            elif isinstance(must, Scaled) and read is not None:
                if must.is_copy:
                    compare_copy(copies[0], read, at, worst)
                else:
                    compare_scaled(copies[0], read, must, at, worst, ulps=self.ulps)
        return (worst, dead, different) if worst.count or dead.count or different.count else None

    def _mean(self, each: Part, number: int, must: MeanOf, source: Reader) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a mean over the source; where bands share it, for all of them together."""
        held = self.rec.source_held(must.tensor)
        along, last = must.region[must.dim], size(must.region[must.dim])
        others = max(1, count(must.region) // max(1, last))
        turned = held.piece is not None and held.piece.transposed
        by_rows = (must.dim == 0) != turned and len(must.region) > 1

        def read(reader: Reader) -> Iterator[torch.Tensor]:
            step = max(1, (1 << 20) // others // SPAN) * SPAN
            for first in range(0, last, step):
                chosen = part(along, slice(first, min(first + step, last)))
                yield _values(reader, held, (*must.region[: must.dim], chosen, *must.region[must.dim + 1 :]))
                if by_rows:
                    reader.reset()

        if not by_rows:
            return mean_of(read(source), must.dim, last, float(must.scale))
        key = (number, show(must.region))
        with each.lock:
            if key not in each.means:
                each.means[key] = mean_of(read(self.source.reader()), must.dim, last, float(must.scale))
            found: tuple[torch.Tensor, torch.Tensor] = each.means[key]
            return found


def _values(reader: Reader, held: Held, region: Region) -> torch.Tensor:
    """Return the values of a declared tensor at a region."""
    return undo(held.piece, reader.region(held.stored, stored_region(held.piece, region)))


__all__ = ["ConstraintsReport", "Read", "Regenerate", "compare_checkpoints"]
