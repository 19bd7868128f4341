"""One verdict from three checks: constraints (block by block), outputs (both run), trainability (what learns)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def __str__(self) -> str:
        return "\n".join([self.verdict, *(f"  {c}: {what}: {result}" for c, what, result, _ in self.rows())])

    def _repr_html_(self) -> str:
        """Return the verification for a notebook."""
        from growformer.reporting.notebook import verification_html

        return verification_html(self)

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
    dtypes: Sequence[str] = ("float32",),
    inputs: Mapping[str, torch.Tensor] | None = None,
    prompt: str | None = None,
    seed: int = 0,
    length: int = 64,
    generate: int | None = None,
    frequencies: bool | None = None,
) -> Verification:
    """Check that a grown model computes what its source computes.

    Args:
        source: model folder, or live model.
        grown: likewise. A folder's growformer.json says how it was grown.
        checks: any of ``constraints``, ``outputs``, ``trainability``; by default the first two, of live models
            without a plan the second.
        plan: how a live model was grown; folders bring their own.
        dtypes: in which outputs are compared.
        inputs: what both models are run on; by default random tokens.
        prompt: a text to run both on, with the source folder's tokenizer.
        seed: of random tokens.
        length: how many random tokens per sequence.
        generate: how many tokens a decoder continues with a KV cache; by default 16.
        frequencies: compare with the source's rotary frequencies in the grown model; by default where head_dim has
            grown by other than a factor of two, whose float32 rounding is stated apart.

    Raises:
        RequestError: an unknown check or dtype.
        SourceError: a model cannot be read, or the record of the growth is missing.
    """
    if checks is None:
        checks = ("constraints", "outputs") if plan is not None or _is_folder(grown) else ("outputs",)
    for name in checks:
        if name not in CHECKS:
            raise RequestError(f"unknown check {name!r}: expected {', '.join(CHECKS)}{did_you_mean(name, CHECKS)}")
    made = plan
    if made is None and _is_folder(grown) and ("constraints" in checks or "trainability" in checks):
        from growformer.execute.provenance import load_provenance

        made = load_provenance(grown).plan
    if made is None and ("constraints" in checks or "trainability" in checks):
        raise SourceError("constraints and trainability of live models need plan=..., the plan that they were grown by")
    constraints = None
    if made is not None and "constraints" in checks:
        from growformer.verification.run_constraints import run_constraints

        constraints = run_constraints(source, grown, made)
    outputs, trainability, notes = None, None, []
    if "outputs" in checks or "trainability" in checks:
        from growformer.verification.run_outputs import (
            default_inputs,
            generates,
            load_model,
            rotary_ratio,
            stored_dtypes,
        )

        models = [load_model(m) for m in (source, grown)]
        run_on = dict(inputs) if inputs is not None else default_inputs(source, models[0], prompt, seed, length)
        if "outputs" in checks:
            notes += stored_dtypes(source, grown, dtypes)
            from growformer.verification.outputs import RATIO_LIMIT, compare_outputs

            for dtype in dtypes:
                if dtype not in RATIO_LIMIT:
                    raise RequestError(f"unknown dtype {dtype!r}: expected {', '.join(RATIO_LIMIT)}")
            rotated = rotary_ratio(models)
            if frequencies is None:
                frequencies = rotated is not None and rotated not in (1, 2, 4, 8)
            if frequencies:
                notes.append(f"outputs are compared with the source's rotary frequencies: head_dim grew by {rotated:g}")
            count = generate if generate is not None else (16 if generates(models) else 0)
            outputs = compare_outputs(models[0], models[1], run_on, dtypes, generate=count, frequencies=frequencies)
        if "trainability" in checks and made is not None:
            from growformer.verification.run_trainability import run_trainability

            model = models.pop()
            models.clear()  # a source that was loaded here is not needed any more
            trainability = run_trainability(model, made, run_on, seed=seed, in_place=_is_folder(grown))
    return Verification(constraints, outputs, trainability, tuple(notes))


def _is_folder(model: Any) -> bool:
    return isinstance(model, (str, Path))
