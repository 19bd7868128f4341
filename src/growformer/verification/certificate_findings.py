"""The verdict that a certificate's own figures give, whatever it says about itself.

A certificate is text that anybody may have edited. Each figure is judged again, by the limits of this version and not
by those that it names, and what it claims must follow from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from growformer.verification.rows import verdict_of

CHECKS = ("constraints", "outputs", "trainability")

_EXACT = 1e-12
"""Below, a source's own error is none, and no ratio follows from it."""
_FLOOR = 1e-13
"""What an error counts as at least, where ratios are taken."""
_LARGEST_EPSILON = 1e-4
"""The most that new post-norm layers are allowed to be off by: the largest epsilon that norms have."""
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


class LayerFigures(_Part):
    """What is judged of the stream after one layer."""

    source_error: Number
    grown_error: Number

    @property
    def ratio(self) -> float | None:
        """The grown model's error relative to the source's."""
        if self.source_error is None or self.grown_error is None:
            return None
        return self.grown_error / max(self.source_error, _FLOOR)


class PositionFigures(_Part):
    """What is judged of some positions."""

    grown_largest: Number


class _Compared(_Part):
    """Figures of one dtype against the source's own."""

    ok: StrictBool
    dtype: StrictStr
    source_error: Number
    grown_error: Number
    ratio: Number
    limit: Number
    allowance: Number = 0.0

    def fits(self, ratio: float | None, error: float | None) -> bool:
        """Tell whether an error passes: by its ratio, or as what new post-norm layers are allowed."""
        from growformer.verification.outputs import RATIO_LIMIT

        by_ratio = ratio is not None and ratio <= RATIO_LIMIT.get(self.dtype, 0.0)
        return by_ratio or (error is not None and self.allowance is not None and error <= self.allowance)

    def failures_as(self, name: str) -> Iterator[str]:
        """Yield what does not pass of the figures of everything together."""
        from growformer.verification.outputs import RATIO_LIMIT

        name, limit = f"{name} in {self.dtype}", RATIO_LIMIT.get(self.dtype)
        if limit is None:
            yield f"{name}: no limit is known"
        elif None in (self.ratio, self.limit, self.grown_error, self.source_error, self.allowance):
            yield f"{name}: a figure is missing"
        elif (self.limit or 0) > limit:
            yield f"{name}: judged by the limit {self.limit:g}, where {limit:g} is the largest"
        elif not 0 <= (self.allowance or 0) <= _LARGEST_EPSILON:
            yield f"{name}: an error of {self.allowance:g} was allowed, where {_LARGEST_EPSILON:g} is the most"
        elif not self.fits(self.ratio, self.grown_error):
            yield f"{name}: ratio {self.ratio:.3g}, limit {limit:g}"
        elif (self.source_error or 0) > _EXACT and not math.isclose(
            self.ratio or 0, (self.grown_error or 0) / (self.source_error or 1), rel_tol=1e-2
        ):
            yield f"{name}: the ratio {self.ratio:.3g} is not that of the two errors"


class ComparisonFigures(_Compared):
    """What is judged of one comparison of outputs."""

    position_ratio: Number = 0.0
    position_limit: Number = None
    by_position: list[PositionFigures] = []
    by_layer: list[LayerFigures] = []

    def failures(self) -> Iterator[str]:
        """Yield what does not pass."""
        yield from self.failures_as("outputs")
        largest = [part.grown_largest for part in self.by_position]
        allowed = None if None in largest else max((x for x in largest if x is not None), default=0.0)
        if self.by_position and self.position_limit is None:
            yield f"outputs in {self.dtype}: no limit of positions is named"
        elif self.position_limit is not None and not (
            (self.position_ratio is not None and self.position_ratio <= self.position_limit)
            or (allowed is not None and allowed <= (self.allowance or 0))
        ):
            yield f"outputs in {self.dtype}: a position is off by more than rounding"
        wrong = sum(not self.fits(layer.ratio, layer.grown_error) for layer in self.by_layer)
        if wrong:
            yield f"outputs in {self.dtype}: {wrong} layers are off"


class CacheFigures(_Compared):
    """What is judged of decoding step by step."""

    def failures(self) -> Iterator[str]:
        """Yield what does not pass."""
        yield from self.failures_as("outputs: decoding with a cache")


class OutputsFigures(_Part):
    """What is judged of the outputs check."""

    ok: StrictBool
    tokens: StrictInt = Field(ge=0)
    comparisons: list[ComparisonFigures]
    cache: CacheFigures | None

    def failures(self) -> Iterator[str]:
        """Yield what does not pass."""
        if not self.comparisons or not self.tokens:
            yield "outputs: nothing was compared"
        for comparison in self.comparisons:
            yield from comparison.failures()
        if self.cache is not None:
            yield from self.cache.failures()


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
        failed = [name for name, part in self.made().items() if not part.ok or list(part.failures())]
        return verdict_of(self.made(), failed)


__all__ = ["Findings"]
