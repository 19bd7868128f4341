"""What a verification found, read from its JSON: what is missing there was not checked, and is shown as that.

The JSON may come from a file that somebody else made: types are checked here, and texts are escaped where they are
shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from growformer.errors import SourceError


class _Found(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class FoundViolation(_Found):
    """A block that does not hold what it must."""

    kind: str
    where: str
    region: str = ""
    expected: str = ""
    found: str = ""
    deviation: float | None = None


class FoundConstraints(_Found):
    """Block by block, without running a model."""

    ok: bool
    verdict: str = ""
    tensors: int = 0
    checked: int = 0
    regenerated: int = 0
    free: int = 0
    values: dict[str, int] = Field(default_factory=dict)
    record: str = ""
    strict: bool = False
    roundings: tuple[str, ...] = ()
    num_bytes: int | None = None
    seconds: float | None = None
    violations: tuple[FoundViolation, ...] = ()
    notes: tuple[str, ...] = ()


class FoundBin(_Found):
    """Errors of some positions."""

    start: int
    stop: int
    source_error: float
    grown_error: float


class FoundLayer(_Found):
    """Errors of the hidden states after one layer."""

    layer: int
    grown_layer: int
    source_error: float
    grown_error: float


class FoundWorst(_Found):
    """The position with the largest error."""

    position: int
    sequence: int = 0
    token: int | None = None
    text: str | None = None
    output: str = ""
    source_error: float | None = None
    grown_error: float | None = None


class FoundComparison(_Found):
    """Both models on the same inputs, in one dtype."""

    dtype: str
    source_error: float
    grown_error: float
    ratio: float
    limit: float
    ok: bool
    length: int | None = None
    inputs: str = ""
    largest: float | None = None
    greedy_equal: float | None = None
    worst: FoundWorst | None = None
    by_position: tuple[FoundBin, ...] = ()
    by_layer: tuple[FoundLayer, ...] = ()

    @property
    def name(self) -> str:
        """What was compared."""
        long = f", {self.length} tokens" if self.length is not None else ""
        return f"{self.dtype}{long}{f', {self.inputs}' if self.inputs else ''}"


class FoundCache(_Found):
    """Decoding step by step."""

    tokens: int
    same: bool
    ok: bool
    dtype: str = ""
    ratio: float | None = None
    source_error: float | None = None
    grown_error: float | None = None


class FoundOutputs(_Found):
    """Both models run."""

    ok: bool
    tokens: int = 0
    comparisons: tuple[FoundComparison, ...] = ()
    cache: FoundCache | None = None
    notes: tuple[str, ...] = ()


class FoundReach(_Found):
    """When one new region gets its first gradient."""

    tensor: str
    region: Any = ""
    first_step: int | None = None
    dead_units: int = 0
    gradient: tuple[float, ...] = ()
    source_gradient: tuple[float, ...] = ()
    ratio: float | None = None


class FoundLocked(_Found):
    """New units that stay equal."""

    tensor: str
    region: Any = ""
    units: tuple[tuple[int, ...], ...] = ()


class FoundActivation(_Found):
    """How large new and old coordinates are."""

    module: str
    source_rms: float
    new_rms: float
    step: int = 0


class FoundTrainability(_Found):
    """What learns."""

    ok: bool
    steps: int = 0
    regions: int = 0
    by_first_step: dict[str, int] = Field(default_factory=dict)
    reach: tuple[FoundReach, ...] = ()
    dead: tuple[FoundReach, ...] = ()
    locked: tuple[FoundLocked, ...] = ()
    out_of_scale: tuple[FoundReach, ...] = ()
    activations: tuple[FoundActivation, ...] = ()
    notes: tuple[str, ...] = ()


class Findings(_Found):
    """A verification: its three checks, None where one was not run."""

    ok: bool
    verdict: str = ""
    constraints: FoundConstraints | None = None
    outputs: FoundOutputs | None = None
    trainability: FoundTrainability | None = None
    notes: tuple[str, ...] = ()

    @property
    def was_run(self) -> bool:
        """Whether any check was run."""
        return any(c is not None for c in (self.constraints, self.outputs, self.trainability))


def read_findings(data: Mapping[str, Any], where: str = "the verification") -> Findings:
    """Read ``Verification.to_json()``, or a certificate that holds one.

    Args:
        data: plain data.
        where: its name in messages.

    Raises:
        SourceError: it is neither.
    """
    checks = data.get("checks", data)
    try:
        return Findings.model_validate(checks)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise SourceError(
            f"{where}: not what growformer verify --json prints, nor a certificate: {place}: {first['msg']}"
        ) from None


class Reached(_Found):
    """Alike regions of all layers together.

    Attributes:
        name: the tensor, ``*`` for numbers.
        regions: how many there are.
        first_step: the last of their first steps; None where one never learns.
        gradient: per step, the median of new regions.
        source_gradient: per step, the median of the tensors' source parts.
        low, high: per step, the smallest and the largest of new regions.
    """

    name: str
    regions: int
    first_step: int | None
    gradient: tuple[float, ...]
    source_gradient: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def alike(name: str) -> str:
    """Return a name with ``*`` for every number."""
    return re.sub(r"\d+", "*", name)


def reached(found: Iterable[FoundReach]) -> list[Reached]:
    """Return gradients by kind of tensor and first step, in order of appearance."""
    groups: dict[tuple[str, int | None], list[FoundReach]] = {}
    for one in found:
        groups.setdefault((alike(one.tensor), one.first_step), []).append(one)
    made = []
    for (name, step), members in groups.items():
        new = list(zip(*(m.gradient for m in members if m.gradient), strict=False))
        old = list(zip(*(m.source_gradient for m in members if m.source_gradient), strict=False))
        made.append(
            Reached(
                name=name,
                regions=len(members),
                first_step=step,
                gradient=tuple(map(median, new)),
                source_gradient=tuple(map(median, old)),
                low=tuple(map(min, new)),
                high=tuple(map(max, new)),
            )
        )
    return made


class Activity(_Found):
    """The last measured activations of alike modules: medians."""

    name: str
    modules: int
    step: int
    source_rms: float
    new_rms: float


def activity(found: Iterable[FoundActivation]) -> list[Activity]:
    """Return activations by kind of module, after the last step that was measured."""
    groups: dict[str, list[FoundActivation]] = {}
    for one in found:
        groups.setdefault(alike(one.module), []).append(one)
    made = []
    for name, members in groups.items():
        last = max(m.step for m in members)
        members = [m for m in members if m.step == last]
        old, new = median(m.source_rms for m in members), median(m.new_rms for m in members)
        made.append(Activity(name=name, modules=len(members), step=last, source_rms=old, new_rms=new))
    return made


__all__ = ["Activity", "Findings", "Reached", "activity", "alike", "reached", "read_findings"]
