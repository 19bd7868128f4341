"""One verdict from three checks: constraints (block by block), outputs (both run), trainability (what learns)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.errors import RequestError, SourceError, VerificationError, did_you_mean

if TYPE_CHECKING:
    import torch

    from growformer.planning.plan import Plan
    from growformer.verification.constraints import ConstraintsReport
    from growformer.verification.outputs import OutputsReport
    from growformer.verification.rows import Row
    from growformer.verification.trainability import TrainabilityReport

CHECKS = ("constraints", "outputs", "trainability")
TRAINED_ON = 128
"""Positions of the random inputs that the trainability check runs on."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What the checks found; those that were not asked for are None."""

    constraints: ConstraintsReport | None = None
    outputs: OutputsReport | None = None
    trainability: TrainabilityReport | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(report.ok for report in self.reports().values())

    @property
    def verdict(self) -> str:
        """One line."""
        failed = [name for name, what, result, ok in self.rows() if not ok]
        if failed:
            return f"NOT preserved: {', '.join(dict.fromkeys(failed))} failed"
        return "Preserved: " + ", ".join(dict.fromkeys(name for name, *_ in self.rows()))

    def reports(self) -> dict[str, ConstraintsReport | OutputsReport | TrainabilityReport]:
        """Return the reports of the checks that were run, by their names."""
        found = dict(zip(CHECKS, (self.constraints, self.outputs, self.trainability), strict=True))
        return {name: report for name, report in found.items() if report is not None}

    def rows(self) -> list[Row]:
        """Return one row per finding: check, what was compared, result, whether it passed."""
        return [row for report in self.reports().values() for row in report.rows()]

    def all_notes(self) -> list[str]:
        """Return what was not checked, or checked with a reservation, and why: of the whole, and of each report."""
        own = [note for report in self.reports().values() for note in getattr(report, "notes", ())]
        return list(dict.fromkeys([*self.notes, *own]))

    def __str__(self) -> str:
        return "\n".join([self.verdict, *(f"  {c}: {what}: {result}" for c, what, result, _ in self.rows())])

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            **dict.fromkeys(CHECKS),
            **{name: report.to_json() for name, report in self.reports().items()},
            "notes": list(self.notes),
        }

    def raise_if_failed(self) -> None:
        """Raise VerificationError with the findings unless every check passed."""
        if not self.ok:
            raise VerificationError(str(self))


def verify(
    source: Any,
    grown: Any,
    *,
    checks: Sequence[str] | None = None,
    plan: Plan | None = None,
    dtypes: Sequence[str] | None = None,
    inputs: Mapping[str, torch.Tensor] | None = None,
    input_files: Sequence[str | Path] = (),
    prompt: str | None = None,
    seed: int = 0,
    lengths: Sequence[int | str] | None = None,
    generate: int | None = None,
    frequencies: bool | None = None,
    from_disk: bool | None = None,
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Check that a grown model computes what its source computes.

    Args:
        source: model folder, or live model.
        grown: likewise. A folder's growformer.json says how it was grown.
        checks: any of ``constraints``, ``outputs``, ``trainability``; by default all three, of live models without a
            plan the second. What is not asked for and does not fit in memory is left out, and a note says so.
        plan: how a live model was grown; folders bring their own.
        dtypes: in which outputs are compared; by default float32 and the dtype of the checkpoint, only the grown
            model's where that is another.
        inputs: what both models are run on, instead of random inputs.
        input_files: the user's own inputs, in addition: texts, token ids, arrays, images.
        prompt: a text to run both on, in addition, with the source folder's tokenizer.
        seed: of random inputs.
        lengths: how many random tokens per sequence, several numbers or ``"max"``; by default 64, and up to the model's
            longest where rotary frequencies or positions changed.
        generate: how many tokens a decoder continues with a KV cache; by default 16, from disk 2.
        frequencies: compare with the source's rotary frequencies in the grown model; by default where head_dim has
            grown by other than a factor of two, whose float32 rounding is stated apart.
        from_disk: run models layer by layer from their folders; by default where they do not fit in memory.
        progress: told what is being checked.

    Raises:
        RequestError: an unknown check or dtype, or inputs that cannot be used.
        SourceError: a model cannot be read, or the record of the growth is missing.
    """
    wanted = checks
    if wanted is None:
        wanted = CHECKS if plan is not None or _is_folder(grown) else ("outputs",)
    for name in wanted:
        if name not in CHECKS:
            raise RequestError(f"unknown check {name!r}: expected {', '.join(CHECKS)}{did_you_mean(name, CHECKS)}")
    made = plan
    if made is None and _is_folder(grown):
        made = _plan_of(grown, required="constraints" in wanted or "trainability" in wanted)
    if made is None and ("constraints" in wanted or "trainability" in wanted):
        raise SourceError("constraints and trainability of live models need plan=..., the plan that they were grown by")
    constraints, outputs, trainability = None, None, None
    notes: list[str] = []
    if made is not None and "constraints" in wanted:
        from growformer.verification.run_constraints import run_constraints

        constraints = run_constraints(source, grown, made)
    if "outputs" in wanted:
        from growformer.verification.run_outputs import OutputsRequest, outputs_or_why_not

        request = OutputsRequest(
            dtypes=dtypes, inputs=inputs, files=input_files, prompt=prompt, seed=seed, lengths=lengths,
            generate=generate, frequencies=frequencies, from_disk=from_disk, progress=progress,
        )  # fmt: skip
        outputs, left = outputs_or_why_not(source, grown, request, made, required=checks is not None)
        notes += left
    if "trainability" in wanted and made is not None:
        trainability, left = _trainability(grown, made, inputs, seed, required=checks is not None)
        notes += left
    return Verification(constraints, outputs, trainability, tuple(notes))


def _plan_of(grown: Any, *, required: bool) -> Plan | None:
    """Return the plan that a folder records; None where there is none and none is needed.

    Raises:
        SourceError: there is none, and it is needed; or it cannot be read.
    """
    from growformer.execute.provenance import load_provenance

    if not required and not (Path(grown) / "growformer.json").exists():
        return None
    return load_provenance(grown).plan


def _trainability(
    grown: Any, plan: Plan, inputs: Mapping[str, torch.Tensor] | None, seed: int, *, required: bool
) -> tuple[TrainabilityReport | None, list[str]]:
    """Run the trainability check; where it is not required and says nothing or does not fit in memory, say why not."""
    from growformer.verification.model_inputs import random_inputs
    from growformer.verification.run_outputs import load_model
    from growformer.verification.run_trainability import run_trainability, why_not

    if not required:
        why = "what is new was filled with zeros, as padding is, and is not meant to learn"
        if plan.init.name != "zero":
            why = why_not(grown, plan, TRAINED_ON, in_place=_is_folder(grown)) or ""
        if why:
            return None, [f"trainability was not checked: {why}; --checks trainability does it all the same"]
    model = load_model(grown)
    run_on = dict(inputs) if inputs is not None else dict(random_inputs(model, seed=seed).batches[0])
    return run_trainability(model, plan, run_on, seed=seed, in_place=_is_folder(grown)), []


def _is_folder(model: Any) -> bool:
    return isinstance(model, (str, Path))
