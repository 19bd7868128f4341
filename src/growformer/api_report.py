"""The public function for reports: a page about a growth that has happened, or about a plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.errors import RequestError
from growformer.planning.plan import Plan
from growformer.reporting.report import Report, report_on, report_on_plan
from growformer.reporting.subject import Subject

if TYPE_CHECKING:
    from growformer.reporting.verified import Verified
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
        verification: what ``growformer.verify`` returned; or its JSON, a certificate, or the path of either, which are
            shown as claims.
        verify: where there is none, check the constraints, and show what else the certificate beside the grown folder
            claims if its digests agree. False: show nothing verified.
        plan: how a live model was grown.
        force: replace ``out`` if it exists.
        revision: of a source on the hub.

    Raises:
        SourceError: a checkpoint or its record cannot be read, or the verification is none, or of other files.
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
    from growformer.reporting.folders import subject_of_folders
    from growformer.verification.growth import in_a_folder

    grown = in_a_folder(grown)
    is_folder = isinstance(grown, (str, Path))
    if is_folder and plan is None:
        subject = subject_of_folders(str(source), str(grown), revision, inferred=_inferred(source, grown))
    elif plan is not None:
        subject = _live(source, grown, plan)
    else:
        raise RequestError("a live model does not know how it was grown: add plan=..., the plan that it was grown by")
    return report_on(subject, _verified(source, grown, verification, verify, plan))


def _verified(source: Any, grown: Any, verification: Any, verify: bool, plan: Plan | None) -> Verified:
    """Return what the page shows as found, and as claimed."""
    from growformer.reporting import verified

    folders = [str(m) if isinstance(m, (str, Path)) else None for m in (source, grown)]
    if verification is None and not verify:
        return verified.Verified()
    if verification is None:
        from growformer.api import verify as check

        claims = verified.Verified()
        if folders[0] is not None and folders[1] is not None:
            claims = verified.beside(folders[0], folders[1])
        return claims.with_constraints(check(source, grown, checks=["constraints"], plan=plan))
    if isinstance(verification, (str, Path, Mapping)):
        return verified.as_given(verification, folders[0], folders[1])
    return verified.found_here(verification)


def _inferred(source: Any, grown: Any) -> Recorded | None:
    """Return what two folders show of a growth that nothing records; None where it is recorded."""
    from growformer.verification.growth import find_growth, has_record

    return None if has_record(grown) else find_growth(source, grown).recorded()


def _live(source: Any, grown: Any, plan: Plan) -> Subject:
    places = [str(m) if isinstance(m, (str, Path)) else type(m).__name__ for m in (source, grown)]
    return Subject.of_plan(plan, source=places[0], grown=places[1])


__all__ = ["report"]
