"""The verdict that a certificate's own figures give, whatever it says about itself.

A certificate is text that anybody may have edited. Each figure is judged again, by the limits of this version and not
by those that it names, and what it claims must follow from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

CHECKS = ("constraints", "outputs", "trainability")

_EXACT = 1e-12
"""Below, a source's own error is none, and no ratio follows from it."""
Number = StrictFloat | StrictInt | None
"""None stands for what is not a number: such a figure does not pass."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class ConstraintsFigures(_Part):
    """What is judged of the constraints check."""

    ok: StrictBool
    tensors: StrictInt = Field(ge=0)
    checked: StrictInt = Field(ge=0)
    violations: list[dict[str, Any]]

    def failures(self) -> Iterator[str]:
        """Yield what does not pass."""
        if self.violations:
            yield f"constraints: {len(self.violations)} violations"
        elif not self.checked:
            yield "constraints: no value was compared"


class ComparisonFigures(_Part):
    """What is judged of one comparison of outputs."""

    ok: StrictBool = True
    dtype: StrictStr
    source_error: Number
    grown_error: Number
    ratio: Number
    limit: Number

    def failures(self) -> Iterator[str]:
        """Yield what does not pass."""
        from growformer.verification.outputs import RATIO_LIMIT

        limit = RATIO_LIMIT.get(self.dtype)
        if limit is None:
            yield f"outputs in {self.dtype}: no limit is known"
        elif self.ratio is None or self.limit is None or self.grown_error is None or self.source_error is None:
            yield f"outputs in {self.dtype}: a figure is missing"
        elif not self.ratio <= limit:
            yield f"outputs in {self.dtype}: ratio {self.ratio:.3g}, limit {limit:g}"
        elif self.limit > limit:
            yield f"outputs in {self.dtype}: judged by the limit {self.limit:g}, where {limit:g} is the largest"
        elif self.source_error > _EXACT and not math.isclose(
            self.ratio, self.grown_error / self.source_error, rel_tol=1e-2
        ):
            yield f"outputs in {self.dtype}: the ratio {self.ratio:.3g} is not that of the two errors"


class CacheFigures(_Part):
    """What is judged of decoding step by step."""

    ok: StrictBool


class OutputsFigures(_Part):
    """What is judged of the outputs check."""

    ok: StrictBool
    tokens: StrictInt = Field(ge=0)
    comparisons: list[ComparisonFigures]
    cache: CacheFigures | None = None
    cache_equal: StrictBool | None = None

    def failures(self) -> Iterator[str]:
        """Yield what does not pass."""
        if not self.comparisons or not self.tokens:
            yield "outputs: nothing was compared"
        for comparison in self.comparisons:
            yield from comparison.failures()
        if self.cache_equal is False or (self.cache is not None and not self.cache.ok):
            yield "outputs: decoding with a cache differs"


class ReachFigures(_Part):
    """What is judged of one new region."""

    tensor: StrictStr
    first_step: StrictInt | None
    dead_units: StrictInt = Field(ge=0)
    ratio: Number = None


class TrainabilityFigures(_Part):
    """What is judged of the trainability check."""

    ok: StrictBool
    regions: StrictInt = Field(ge=0)
    reach: list[ReachFigures]
    dead: list[dict[str, Any]]
    locked: list[dict[str, Any]]

    def failures(self) -> Iterator[str]:
        """Yield what does not pass."""
        from growformer.verification.trainability import SCALE_LIMIT

        dead = [r for r in self.reach if r.first_step is None or r.dead_units]
        large = [r for r in self.reach if r.ratio is not None and not r.ratio <= SCALE_LIMIT]
        if len(self.reach) != self.regions:
            yield f"trainability: {self.regions} regions, of which {len(self.reach)} are listed"
        if dead or self.dead:
            yield f"trainability: {max(len(dead), len(self.dead))} dead regions"
        if self.locked:
            yield f"trainability: locked units along {len(self.locked)} axes"
        if large:
            yield f"trainability: {len(large)} gradients out of scale"


class Findings(BaseModel):
    """The checks of a certificate, as ``Verification.to_json`` gives them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ok: StrictBool
    verdict: StrictStr = Field(max_length=10_000)
    constraints: ConstraintsFigures | None
    outputs: OutputsFigures | None
    trainability: TrainabilityFigures | None
    notes: list[StrictStr] = Field(max_length=1000)

    def made(self) -> dict[str, ConstraintsFigures | OutputsFigures | TrainabilityFigures]:
        """Return the checks that were made, by name."""
        found = dict(zip(CHECKS, (self.constraints, self.outputs, self.trainability), strict=True))
        return {name: part for name, part in found.items() if part is not None}

    def failures(self) -> list[str]:
        """Return what does not pass, by the figures or by its own word; nothing checked does not pass either."""
        found = []
        for name, part in self.made().items():
            found += list(part.failures()) or ([] if part.ok else [f"{name}: it was found to fail"])
        return found or ([] if self.made() else ["nothing was checked"])

    def contradictions(self) -> list[str]:
        """Return where it says of itself that it passes, and what it holds does not."""
        failed = {name: list(part.failures()) for name, part in self.made().items() if part.ok}
        found = [f"{name} is said to pass, but {'; '.join(why)}" for name, why in failed.items() if why]
        if self.outputs is not None and self.outputs.ok and not all(c.ok for c in self.outputs.comparisons):
            found.append("outputs are said to pass, but not every comparison is")
        if self.ok and self.failures():
            found.append(f"all is said to pass, but {'; '.join(self.failures()[:4])}")
        return found

    def judged(self) -> str:
        """Return the verdict that follows from the figures."""
        failed = {failure.split(":")[0].split(" ")[0] for failure in self.failures()}
        if not self.made():
            return "Nothing was checked"
        if failed:
            return f"NOT preserved: {', '.join(name for name in CHECKS if name in failed)} failed"
        return f"Preserved: {', '.join(self.made())}"


__all__ = ["Findings"]
