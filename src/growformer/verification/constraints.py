"""Compares two checkpoints block by block: is every value of the target what preservation asks of it?

No model runs and no planner is imported: what must hold is derived from the architecture and the recorded axis maps
and spaces alone, so that a planner's mistake cannot hide. Tensors are read one at a time, and compared in bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from growformer.errors import PlanError, SourceError
from growformer.verification.conditions import local_conditions
from growformer.verification.held import ShapeError, Shelf
from growformer.verification.recorded import Recorded
from growformer.verification.regions import Positions, Region, compact, count, show, spread
from growformer.verification.requirements import (
    Free,
    MeanOf,
    Requirement,
    Scaled,
    TensorRequirements,
    Value,
    requirements,
)
from growformer.verification.rows import Row
from growformer.verification.violations import Violation

Read = Callable[[str], torch.Tensor]
"""Stored name -> tensor."""
Regenerate = Callable[[str, Region], torch.Tensor]
"""Canonical name in the target, and a region that nothing constrains -> what the initialisation puts there."""

BAND = 1 << 22
"""How many values are compared at a time (32 MiB in float64)."""
ROUNDING = 2.0**-53
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintsReport:
    """What the comparison found.

    Attributes:
        violations: everything that does not hold.
        tensors: how many tensors of the target were compared.
        checked: how many of their values are constrained, and were compared with the source.
        regenerated: how many free values were compared with the initialisation.
        free: how many free values were looked at for infinities only.
    """

    violations: tuple[Violation, ...] = field(default=())
    tensors: int = 0
    checked: int = 0
    regenerated: int = 0
    free: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.violations

    def __str__(self) -> str:
        looked = f"{self.tensors} tensors, {self.checked:,} values constrained"
        if self.regenerated:
            looked += f", {self.regenerated:,} regenerated"
        if self.free or not self.regenerated:
            looked += f", {self.free:,} free and unchecked"
        if self.ok:
            return f"all constraints hold ({looked})"
        more = f", and {len(self.violations) - 1} more" if len(self.violations) > 1 else ""
        return f"constraints do NOT hold ({looked}): {self.violations[0]}{more}"

    def rows(self) -> list[Row]:
        """Return one row per finding: check, what was compared, result, whether it passed."""
        return [("constraints", "blocks against the source", str(self), self.ok)]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "ok": self.ok,
            "verdict": str(self),
            "tensors": self.tensors,
            "checked": self.checked,
            "regenerated": self.regenerated,
            "free": self.free,
            "violations": [violation.to_json() for violation in self.violations],
        }


def compare_checkpoints(
    data: Mapping[str, Any] | Recorded,
    read_source: Read,
    read_target: Read,
    *,
    target_names: Iterable[str] | None = None,
    regenerate: Regenerate | None = None,
) -> ConstraintsReport:
    """Compare the tensors of a grown checkpoint with the source's, region by region.

    Copies must agree bit by bit (after one rounding where the target has another dtype), zeros must be zero; rescaled
    values and means, computed in float64, may be off by one unit in the last place of the target's dtype; copies that
    must sum to something may be off by one unit of the largest for each of them.

    Args:
        data: the record: a plan's JSON, or what growformer.json holds under ``plan``.
        read_source: gives one tensor of the source by its stored name; KeyError or SourceError where it is missing.
        read_target: likewise of the target. Tensors are not changed; at most two of the source and one of the target
            are held at a time. One that holds several declared tensors is read once for all that follow each other.
        target_names: stored names of all tensors in the target, to find what is left over.
        regenerate: gives the initialisation's values; without it free regions are counted, not checked.

    Raises:
        PlanError: the data is not a record of a growth.
    """
    rec = Recorded.read(data)
    violations = local_conditions(rec)
    if any(v.kind == "axis map" for v in violations):
        return ConstraintsReport(violations=tuple(violations))
    report = ConstraintsReport()
    source, grown = Shelf(read_source), Shelf(read_target)
    left = set(target_names) if target_names is not None else set()
    for spec, index in rec.specs():
        held = rec.target_held(spec, index)
        left.discard(held.stored)
        try:
            needed = requirements(rec, spec.template, index)
        except PlanError as error:
            violations.append(
                Violation(kind="space", where=str(held), expected="values that preserve", found=str(error))
            )
            continue
        comparison = _Comparison(rec, needed, source, grown, regenerate)
        violations += comparison.run()
        report = replace(
            report,
            tensors=report.tensors + 1,
            checked=report.checked + comparison.checked,
            regenerated=report.regenerated + comparison.regenerated,
            free=report.free + comparison.free,
        )
    violations += [
        Violation(kind="left over", where=name, expected="no such tensor", found="one") for name in sorted(left)
    ]
    return replace(report, violations=tuple(violations))


@dataclass(slots=True)
class _Comparison:
    """One tensor of the target against what it must hold."""

    rec: Recorded
    needed: TensorRequirements
    source: Shelf
    grown: Shelf
    regenerate: Regenerate | None
    sources: dict[str, torch.Tensor] = field(default_factory=dict)
    checked: int = 0
    regenerated: int = 0
    free: int = 0

    def run(self) -> Iterator[Violation]:
        """Compare; counts are right once all is yielded."""
        needed = self.needed
        try:
            target = self.grown.tensor(needed.held)
        except (KeyError, SourceError) as error:
            yield self._wrong("missing", "a tensor", f"none ({error})")
            return
        except ShapeError as error:
            yield self._wrong("shape", str(list(error.expected)), str(list(error.found)))
            return
        if tuple(target.shape) != needed.shape:
            yield self._wrong("shape", str(list(needed.shape)), str(list(target.shape)))
            return
        for use in needed.uses:
            for requirement in use:
                if not isinstance(requirement.must, Free):
                    yield from self._constrained(target, requirement)
        free = needed.free_regions()
        for region, must in free:
            yield from self._free(target, region, must)
        freed = sum(count(region) for region, _ in free)
        self.checked = target.numel() - freed
        if self.regenerate is None:
            self.free = freed
        else:
            self.regenerated = freed

    def _wrong(
        self, kind: str, expected: str, found: str, region: Region | None = None, deviation: float | None = None
    ) -> Violation:
        at = show(region) if region is not None else ""
        return Violation(
            kind=kind, where=str(self.needed.held), expected=expected, found=found, region=at, deviation=deviation
        )

    def _source(self, name: str) -> torch.Tensor:
        if name not in self.sources:
            self.sources[name] = self.source.tensor(self.rec.source_held(name))
        return self.sources[name]

    def _constrained(self, target: torch.Tensor, requirement: Requirement) -> Iterator[Violation]:
        worst = _Worst()
        try:
            for band in _bands(requirement):
                copies = [_select(target, region) for region in band.copies]
                self._compare(copies, band, worst)
        except (KeyError, SourceError) as error:
            yield self._wrong("missing", "a tensor in the source", f"none ({error})", requirement.copies[0])
            return
        except (IndexError, RuntimeError, ShapeError) as error:
            yield self._wrong("shape", "the source's shape as its config says", str(error), requirement.copies[0])
            return
        if worst.count:
            more = f" and {worst.count - 1} more" if worst.count > 1 else ""
            kind, says = _describe(requirement)
            yield self._wrong(
                kind,
                f"{says}, {worst.expected!r} at {list(worst.at)}{more}",
                repr(worst.found),
                requirement.copies[0],
                worst.deviation,
            )

    def _compare(self, copies: list[torch.Tensor], band: Requirement, worst: _Worst) -> None:
        must, dtype = band.must, copies[0].dtype
        if isinstance(must, Scaled) and must.is_copy and len(copies) == 1:
            source = _select(self._source(must.tensor), must.region)
            expected = source.to(dtype)
            bad = _bits(copies[0]) != _bits(expected)
            if bad.any():
                worst.add(bad, copies[0].double(), expected.double(), band.copies[0])
            return
        found, largest = copies[0].double(), copies[0].double().abs()
        for copy in copies[1:]:
            found = found + copy.double()
            largest = torch.maximum(largest, copy.double().abs())
        wanted, slack = self._expected(must)
        wanted = wanted.expand_as(found)
        off = (found - wanted).abs()
        if len(copies) > 1:
            # Every copy has been rounded once, by half a unit in its last place, and in float64 its sum with noise too.
            allowed = len(copies) * torch.where(largest > 0, _unit(largest, dtype), 0)
        elif isinstance(must, Value) and must.is_exact:
            allowed = torch.zeros(())
        else:
            allowed = _unit(wanted, dtype)
        good = (off <= allowed + slack) | (found == wanted.to(dtype).double()) | (found.isnan() & wanted.isnan())
        if not good.all():
            worst.add(~good, found, wanted, band.copies[0])

    def _expected(self, must: Scaled | MeanOf | Value | Free) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values in float64, and how far another order of the same float64 operations may be from them."""
        if isinstance(must, Scaled):
            source = _select(self._source(must.tensor), must.region).double()
            wanted = float(must.scale) * (source + must.offset) - must.offset
            # A rounded factor, one product, and with an offset two sums, in whichever order.
            return wanted, 4 * ROUNDING * (float(must.scale) * (source.abs() + must.offset) + must.offset)
        if isinstance(must, MeanOf):
            source = _select(self._source(must.tensor), must.region).double()
            wanted = source.mean(dim=must.dim, keepdim=True) * float(must.scale)
            # Summing n values in any order errs by at most n - 1 roundings of the sum of their sizes.
            size = source.abs().mean(dim=must.dim, keepdim=True) * float(must.scale)
            return wanted, (source.shape[must.dim] + 4) * ROUNDING * size
        assert isinstance(must, Value)
        return torch.tensor(float(must), dtype=torch.float64), torch.zeros((), dtype=torch.float64)

    def _free(self, target: torch.Tensor, region: Region, must: Free) -> Iterator[Violation]:
        infinite, dead, different = _Worst(), _Worst(), _Worst()
        for band in _bands(Requirement((region,), must)):
            found = _select(target, band.copies[0])
            values = found.double()
            bad = ~values.isfinite()
            if bad.any():
                infinite.add(bad, values, torch.zeros_like(values), band.copies[0])
            if must.forbidden is not None and (values == must.forbidden).any():
                dead.add(values == must.forbidden, values, values, band.copies[0])
            if self.regenerate is not None:
                expected = self.regenerate(self.needed.name, band.copies[0]).detach().cpu().to(found.dtype)
                changed = _bits(found) != _bits(expected.expand_as(found))
                if changed.any():
                    different.add(changed, values, expected.double().expand_as(values), band.copies[0])
        if infinite.count:
            yield self._wrong("free", "finite values", f"{infinite.found!r} at {list(infinite.at)}", region)
        if dead.count == count(region):  # single ones may have been copied from the source
            yield self._wrong("dead", "gains that can learn", f"{dead.found!r} everywhere: never", region)
        if different.count:
            yield self._wrong(
                "free",
                f"{different.expected!r} at {list(different.at)}, as the initialisation gives",
                repr(different.found),
                region,
                different.deviation,
            )


@dataclass(slots=True)
class _Worst:
    """The largest deviation so far."""

    count: int = 0
    deviation: float = 0.0
    expected: float = 0.0
    found: float = 0.0
    at: tuple[int, ...] = ()

    def add(self, bad: torch.Tensor, found: torch.Tensor, expected: torch.Tensor, region: Region) -> None:
        """Count the entries that are bad, and keep the worst of them."""
        off = torch.where(bad, (found - expected).abs().nan_to_num(math.inf, math.inf, math.inf), -1.0)
        flat = int(off.argmax())
        if not self.count or float(off.flatten()[flat]) > self.deviation:
            self.deviation = float(off.flatten()[flat])
            self.expected, self.found = float(expected.flatten()[flat]), float(found.flatten()[flat])
            where = np.unravel_index(flat, tuple(bad.shape))
            self.at = tuple(int(spread(along)[i]) for along, i in zip(region, where, strict=True))
        self.count += int(bad.sum())


def _describe(requirement: Requirement) -> tuple[str, str]:
    must = requirement.must
    if isinstance(must, Scaled):
        kind = "copy" if must.is_copy else "rescaled"
        moved = f" of the gain, with its offset {must.offset}" if must.offset else ""
        says = f"{'' if must.is_copy else f'{must.scale} * '}source {must.tensor}{show(must.region)}{moved}"
    elif isinstance(must, MeanOf):
        kind = "mean"
        times = "" if must.scale.is_one() else f"{must.scale} * "
        says = f"{times}the mean of source {must.tensor}{show(must.region)} over dimension {must.dim}"
    else:
        kind = "zero" if isinstance(must, Value) and must.root.square == 0 and not must.offset else "constant"
        says = "zero" if kind == "zero" else "the constant"
    if len(requirement.copies) > 1:
        return "sum", f"{len(requirement.copies)} copies that sum to {says}"
    return kind, says


def _bands(requirement: Requirement) -> Iterator[Requirement]:
    """Cut a region along its longest dimension that is not averaged over."""
    must, first = requirement.must, requirement.copies[0]
    averaged = must.dim if isinstance(must, MeanOf) else None
    lengths = [spread(along).size for along in first]
    cut = max((d for d in range(len(first)) if d != averaged), key=lambda d: lengths[d], default=None)
    weight = count(must.region) if isinstance(must, (Scaled, MeanOf)) else 0
    total = max(count(first) * len(requirement.copies), weight)
    if cut is None or total <= BAND:
        yield requirement
        return
    step = max(1, lengths[cut] * BAND // total)
    for start in range(0, lengths[cut], step):
        part = slice(start, start + step)
        copies = tuple(_cut(region, cut, part) for region in requirement.copies)
        if isinstance(must, (Scaled, MeanOf)):
            yield Requirement(copies, replace(must, region=_cut(must.region, cut, part)))
        else:
            yield Requirement(copies, must)


def _cut(region: Region, dim: int, part: slice) -> Region:
    return tuple(compact(spread(along)[part]) if d == dim else along for d, along in enumerate(region))


def _select(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    for dim, along in enumerate(region):
        tensor = _along(tensor, dim, along)
    return tensor


def _along(tensor: torch.Tensor, dim: int, along: Positions) -> torch.Tensor:
    if isinstance(along, slice):
        return tensor.narrow(dim, along.start, along.stop - along.start)
    return tensor.index_select(dim, torch.from_numpy(along))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(_BITS[tensor.element_size()])


def _unit(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return one unit in the last place of each value in a dtype (float64)."""
    info = torch.finfo(dtype)
    exponent = torch.where(values == 0, -math.inf, torch.frexp(values.abs()).exponent.double() - 1)
    return torch.clamp(torch.exp2(exponent) * info.eps, min=info.smallest_normal * info.eps)


__all__ = ["ConstraintsReport", "Read", "Regenerate", "compare_checkpoints"]
