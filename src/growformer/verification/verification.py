"""One verdict from three checks: constraints (block by block), outputs (both run), trainability (what learns)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.errors import GrowformerError, RequestError, SourceError, VerificationError, did_you_mean
from growformer.verification.rows import Row, verdict_of

if TYPE_CHECKING:
    import torch

    from growformer.planning.plan import Plan
    from growformer.verification.constraints import ConstraintsReport
    from growformer.verification.growth import Growth
    from growformer.verification.outputs import OutputsReport
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
        return verdict_of(self.reports(), [name for name, report in self.reports().items() if not report.ok])

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
            "notes": self.all_notes(),
        }

    def raise_if_failed(self) -> None:
        """Raise VerificationError with what does not pass, unless every check passed."""
        if not self.ok:
            wrong = [f"  {c}: {what}: {result}" for c, what, result, ok in self.rows() if not ok]
            raise VerificationError("\n".join([self.verdict, *wrong]))


def verify(
    source: Any,
    grown: Any,
    *,
    checks: Sequence[str] | str | None = None,
    plan: Plan | None = None,
    dtypes: Sequence[str] | str | None = None,
    inputs: Mapping[str, torch.Tensor] | None = None,
    input_files: Sequence[str | Path] = (),
    prompt: str | None = None,
    seed: int = 0,
    lengths: Sequence[int | str] | None = None,
    generate: int | None = None,
    frequencies: bool | None = None,
    from_disk: bool | None = None,
    progress: Callable[[str], None] | None = None,
    strict: bool = False,
    record: str | Path | None = None,
) -> Verification:
    """Check that a grown model computes what its source computes.

    Args:
        source: model folder, or live model.
        grown: likewise. A folder's growformer.json says how it was grown.
        checks: any of ``constraints``, ``outputs``, ``trainability``; by default all three, of live models without a
            plan the second. What is not asked for and does not fit in memory is left out, and a note says so; so is
            what cannot be run of a grown model whose constraints do not hold.
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
        strict: constraints demand equal bits wherever mathematics gives them; outputs demand nothing more.
        record: how constraints know what became of what: ``inferred``, or a file with a record; by default
            growformer.json, or inferred where there is none.

    Raises:
        RequestError: an unknown check or dtype, or inputs that cannot be used.
        SourceError: a model cannot be read, or the record of the growth is missing.
    """
    for model in (source, grown):
        if not _is_folder(model) and not hasattr(model, "state_dict"):
            raise SourceError(f"expected a model folder, a hub id or a live model, got {type(model).__name__}")
    wanted = [checks] if isinstance(checks, str) else checks
    dtypes = [dtypes] if isinstance(dtypes, str) else dtypes
    if wanted is None:
        wanted = CHECKS if plan is not None or _is_folder(grown) else ("outputs",)
    for name in wanted:
        if name not in CHECKS:
            raise RequestError(f"unknown check {name!r}: expected {', '.join(CHECKS)}{did_you_mean(name, CHECKS)}")
    from growformer.verification.growth import in_a_folder

    grown = in_a_folder(grown)
    notes: list[str] = []
    grew = _how_it_grew(source, grown, plan, record, set(wanted), notes, required=checks is not None)
    if grew is None:
        wanted = [name for name in wanted if name == "outputs"]
    constraints, outputs, trainability = None, None, None
    if grew is not None and "constraints" in wanted:
        from growformer.verification.run_constraints import run_constraints

        constraints = run_constraints(source, grown, grew, strict=strict)
    if "outputs" in wanted:
        from growformer.verification.run_outputs import OutputsRequest, outputs_or_why_not

        request = OutputsRequest(
            dtypes=dtypes, inputs=inputs, files=input_files, prompt=prompt, seed=seed, lengths=lengths,
            generate=generate, frequencies=frequencies, from_disk=from_disk, progress=progress,
        )  # fmt: skip
        recorded = grew.recorded() if grew is not None else None
        with _unless_failed(constraints, "outputs were not compared", notes):
            outputs, left = outputs_or_why_not(source, grown, request, recorded, required=checks is not None)
            notes += left
    if grew is not None and "trainability" in wanted:
        trusted = constraints is None or constraints.ok or grew.plan is not None
        with _unless_failed(constraints, "trainability was not checked", notes):
            trainability, left = _trainability(
                source, grown, grew, inputs, seed, trusted=trusted, required=checks is not None
            )
            notes += left
    from growformer.verification.unchecked_files import not_compared

    try:
        notes += not_compared(source, grown)
    except SourceError as error:  # takes nothing from what was found
        notes.append(f"what no check compares was not looked at: {error}")
    return Verification(constraints, outputs, trainability, tuple(notes))


@contextlib.contextmanager
def _unless_failed(constraints: ConstraintsReport | None, what: str, notes: list[str]) -> Iterator[None]:
    """Turn what keeps a model from running into a note, where its constraints have failed: that verdict must stand.

    Raises:
        RequestError: the request is wrong, whatever the constraints.
        Exception: what kept it from running, where nothing has failed yet.
    """
    try:
        yield
    except RequestError:
        raise
    except (GrowformerError, MemoryError, RuntimeError) as error:
        if constraints is None or constraints.ok:
            raise
        notes.append(f"{what}: {next(iter(str(error).splitlines()), type(error).__name__)}")


def _how_it_grew(
    source: Any,
    grown: Any,
    plan: Plan | None,
    record: str | Path | None,
    wanted: set[str],
    notes: list[str],
    *,
    required: bool,
) -> Growth | None:
    """Return what is recorded or inferred of the growth; None where only outputs can be, or are to be, compared.

    Raises:
        GrowformerError: a check needs it, and it cannot be read or inferred.
    """
    from growformer.verification.growth import find_growth, has_record

    if wanted == {"outputs"} and plan is None and record is None and not has_record(grown):
        return None
    try:
        return find_growth(source, grown, plan, record)
    except RequestError:
        raise
    except GrowformerError as error:
        if required or record is not None or has_record(grown):
            raise
        notes.append(f"constraints and trainability were not checked: {error}")
        return None


def _trainability(
    source: Any,
    grown: Any,
    grew: Growth,
    inputs: Mapping[str, torch.Tensor] | None,
    seed: int,
    *,
    trusted: bool,
    required: bool,
) -> tuple[TrainabilityReport | None, list[str]]:
    """Run the trainability check; where it is not required and says nothing or does not fit in memory, say why not."""
    from growformer.verification.model_inputs import random_inputs
    from growformer.verification.outputs import said_of
    from growformer.verification.run_outputs import load_model
    from growformer.verification.run_trainability import run_trainability, why_not

    if not required:
        if not trusted:
            why = "what is new is inferred, and what was inferred does not hold"
        elif grew.plan is not None and grew.plan.init.name == "zero":
            why = "what is new was filled with zeros, as padding is, and is not meant to learn"
        else:
            why = why_not(grown, grew.recorded(), TRAINED_ON, in_place=_is_folder(grown)) or ""
        if why:
            return None, [f"trainability was not checked: {why}; --checks trainability does it all the same"]
    with said_of("training steps of the grown model"):
        model = load_model(grown, source)
        run_on = dict(inputs) if inputs is not None else dict(random_inputs(model, seed=seed).batches[0])
        return run_trainability(model, grew.recorded(), run_on, seed=seed, in_place=_is_folder(grown)), []


def _is_folder(model: Any) -> bool:
    return isinstance(model, (str, Path))
