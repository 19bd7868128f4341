"""One declared tensor under comparison: what it must hold, what was found wrong with it, and how that is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from growformer.architecture.source import spelled
from growformer.verification.comparing import Worst
from growformer.verification.recorded import Recorded
from growformer.verification.regions import Region, count, show
from growformer.verification.requirements import Free, MeanOf, Requirement, Scaled, TensorRequirements, Value
from growformer.verification.structure import Index
from growformer.verification.violations import Violation


@dataclass(slots=True)
class Part:
    """One declared tensor in a stored one.

    Attributes:
        needed: what it must hold.
        template, index: which it is.
        tests: its constrained regions, then its free ones.
        apart: numbers of the tests whose copies bands would part.
        found: one entry per test: what is wrong with it (of free ones: infinite, dead, other than the initialisation).
    """

    needed: TensorRequirements
    template: str
    index: Index
    tests: list[Requirement]
    apart: list[int] = field(default_factory=list)
    found: list[tuple[Worst, Worst, Worst]] = field(default_factory=list)
    means: dict[Any, Any] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)


def left_over(rec: Recorded, name: str) -> Violation:
    """Return what is wrong with a stored tensor that the target should not have."""
    tied = {spelled(rec.architecture, rec, head, {}): table for head, table in rec.tied_heads.items()}
    if name in tied:
        expected = f"none of its own, as the source's is tied: it shares {tied[name]}"
        return Violation(kind="tie", where=name, expected=expected, found="one with other values")
    return Violation(kind="left over", where=name, expected="no such tensor", found="one")


def said(
    needed: TensorRequirements,
    kind: str,
    expected: str,
    found: str,
    region: Region | None = None,
    deviation: float | None = None,
) -> Violation:
    """Return something that does not hold in a tensor."""
    at = show(region) if region is not None else ""
    where = str(needed.held)
    return Violation(kind=kind, where=where, expected=expected, found=found, region=at, deviation=deviation)


def violations(each: Part) -> Iterator[tuple[Requirement, Violation]]:
    """Yield what does not hold in a tensor, each with the region that it is about."""
    for test, (worst, dead, different) in zip(each.tests, each.found, strict=True):
        needed, region = each.needed, test.copies[0]
        if not isinstance(test.must, Free):
            if worst.count:
                more = f" and {worst.count - 1} more" if worst.count > 1 else ""
                kind, says = describe(test)
                expected = f"{says}, {worst.expected!r} at {list(worst.at)}{more}"
                yield test, said(needed, kind, expected, repr(worst.found), region, worst.deviation)
            continue
        if worst.count:
            yield (
                test,
                said(needed, "free", "values that cannot overflow", f"{worst.found!r} at {list(worst.at)}", region),
            )
        if dead.count and dead.count == count(region):  # single ones may have been copied from the source
            yield test, said(needed, "dead", "gains that can learn", f"{dead.found!r} everywhere: never", region)
        if different.count:
            expected = f"{different.expected!r} at {list(different.at)}, as the initialisation gives"
            yield test, said(needed, "free", expected, repr(different.found), region, different.deviation)


def describe(requirement: Requirement) -> tuple[str, str]:
    """Return the kind of values in a region, and in words what they must be."""
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


__all__ = ["Part", "describe", "left_over", "said", "violations"]
