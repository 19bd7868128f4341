"""The public function for reports: a page about a growth that has happened, or about a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.errors import RequestError
from growformer.planning.plan import Plan
from growformer.reporting.findings import Findings
from growformer.reporting.report import Report, report_on, report_on_plan
from growformer.reporting.subject import Subject

if TYPE_CHECKING:
    from growformer.verification.recorded import Recorded
    from growformer.verification.verification import Verification


def report(
    source: Any,
    grown: Any = None,
    out: str | Path | None = None,
    *,
    verification: Verification | Mapping[str, Any] | str | Path | None = None,
    verify: bool = True,
    plan: Plan | None = None,
    force: bool = False,
    revision: str | None = None,
) -> Report:
    """Return one self-contained page about a growth: what changed, every weight's blocks, and what was verified.

    The page loads nothing from anywhere. In a notebook it shows itself.

    Args:
        source: a plan, and then nothing else: the page says what would happen. Else a folder, a hub id, a live model.
        grown: the grown folder, or live model.
        out: where to save it: a file that does not exist yet.
        verification: what ``growformer.verify`` returned, its JSON, or a certificate; or the path of either.
        verify: where there is none, use the certificate beside the grown folder if its digests agree, or else check
            the constraints. False: show nothing verified.
        plan: how a live model was grown.
        force: replace ``out`` if it exists.
        revision: of a source on the hub.

    Raises:
        SourceError: a checkpoint or its record cannot be read, or the verification is none.
        RequestError: a live model without its plan.
        OutputError: ``out`` exists, or cannot be written.
    """
    if out is not None:
        from growformer.reporting.report import check_writable

        check_writable(Path(out), force=force)
    made = _made(source, grown, verification, verify, plan, revision)
    if out is not None:
        made.save(out, force=force)
    return made


def _made(source: Any, grown: Any, verification: Any, verify: bool, plan: Plan | None, revision: str | None) -> Report:
    if isinstance(source, Plan):
        if grown is not None:
            raise RequestError("a plan is reported by itself: give two checkpoints, or a plan")
        return report_on_plan(source)
    if grown is None:
        raise RequestError("expected the grown checkpoint too, as in report(SOURCE, GROWN), or a plan alone")
    from growformer.reporting.folders import certificate_beside, read_verification, subject_of_folders
    from growformer.verification.growth import in_a_folder

    grown = in_a_folder(grown)
    is_folder = isinstance(grown, (str, Path))
    if is_folder and plan is None:
        subject = subject_of_folders(str(source), str(grown), revision, inferred=_inferred(source, grown))
    elif plan is not None:
        subject = _live(source, grown, plan)
    else:
        raise RequestError("a live model does not know how it was grown: add plan=..., the plan that it was grown by")
    notes: tuple[str, ...] = ()
    found = verification
    if isinstance(verification, (str, Path)):
        found = read_verification(verification)
        notes = (f"verified by {Path(verification).name}, as it was given",)
    elif verification is None and verify:
        if is_folder:
            found, said = certificate_beside(str(source), str(grown))
            notes = (said,) if said else ()
        if found is None:
            from growformer.api import verify as check

            found = check(source, grown, checks=["constraints"], plan=plan)
            notes = (*notes, "constraints were checked for this page")
    data: Findings | Mapping[str, Any] | None = found
    if found is not None and not isinstance(found, (Findings, Mapping)):
        data = json.loads(json.dumps(found.to_json()))
    return report_on(subject, data, notes)


def _inferred(source: Any, grown: Any) -> Recorded | None:
    """Return what two folders show of a growth that nothing records; None where it is recorded."""
    from growformer.verification.growth import find_growth, has_record

    return None if has_record(grown) else find_growth(source, grown).recorded()


def _live(source: Any, grown: Any, plan: Plan) -> Subject:
    places = [str(m) if isinstance(m, (str, Path)) else type(m).__name__ for m in (source, grown)]
    return Subject.of_plan(plan, source=places[0], grown=places[1])


__all__ = ["report"]
