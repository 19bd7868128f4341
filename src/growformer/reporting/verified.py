"""What a page shows as verified: what was found for it, and what a file only says that somebody found.

A certificate holds digests, so that it can be told whether it is about these very files; that its figures were
measured, nothing in it can show. So constraints are checked again rather than believed, and the rest is called a claim.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from growformer.errors import RequestError, SourceError
from growformer.execute.provenance import CERTIFICATE
from growformer.reporting.findings import Findings, read_findings
from growformer.storage.plain_json import read_json
from growformer.verification import certificate_findings
from growformer.verification.certificate_check import CertificateCheck, check_certificate

if TYPE_CHECKING:
    from growformer.verification.verification import Verification

CHECKS = ("constraints", "outputs", "trainability")


@dataclass(frozen=True, slots=True)
class Verified:
    """What is shown.

    Attributes:
        found: all figures; None where nothing was verified.
        claimed: check -> who says what it found, where that was not found for this page.
        notes: what the reader should know of where it comes from.
    """

    found: Findings | None = None
    claimed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def with_constraints(self, own: Verification) -> Verified:
        """Return this with constraints as they were found for this page, whatever was claimed of them."""
        mine = read_findings(json.loads(json.dumps(own.to_json())))
        found = mine
        if self.found is not None:
            others = [self.found.outputs, self.found.trainability]
            ok = mine.ok and all(check is None or check.ok for check in others)
            notes = (*mine.notes, *(n for n in self.found.notes if n not in mine.notes))
            found = self.found.model_copy(update={"constraints": mine.constraints, "ok": ok, "notes": notes})
        return Verified(
            found,
            {name: who for name, who in self.claimed.items() if name != "constraints"},
            (*self.notes, "constraints were checked for this page"),
        )


def found_here(own: Verification | Findings) -> Verified:
    """Return what the caller's own verification found."""
    return Verified(own if isinstance(own, Findings) else read_findings(json.loads(json.dumps(own.to_json()))))


def as_given(given: Mapping[str, Any] | str | Path, source: str | None = None, grown: str | None = None) -> Verified:
    """Return what a file or its data says: a certificate, or what ``growformer verify --json`` printed.

    Args:
        given: a path, or plain data.
        source: a folder, where it is one.
        grown: likewise; of both, the digests in a certificate are compared.

    Raises:
        RequestError: there is no such file.
        SourceError: it is neither, it contradicts itself, or it is a certificate of other files.
    """
    if isinstance(given, Mapping):
        return _claimed(given, "the verification that was given", "verified elsewhere, as it was given")
    file = Path(given)
    if not file.is_file():
        raise RequestError(f"{file}: no such file; make one with growformer verify MODEL OUT --json > {file}")
    data = read_json(file, "make one with growformer verify MODEL OUT --json")
    if "checks" not in data or grown is None:
        return _claimed(data, file.name, f"verified by {file.name}, as it was given: it names no files to compare")
    checked = check_certificate(file, source if source is not None and Path(source).is_dir() else None, grown)
    wrong = _why_not(checked)
    if wrong is not None:
        raise SourceError(f"{file}: {wrong}; growformer verify MODEL OUT checks these")
    return _claimed(_held(checked), file.name, f"verified by {file.name}: {checked.verdict}")


def beside(source: str, grown: str) -> Verified:
    """Return what the certificate beside a grown checkpoint says, if it is about these very files.

    Reads all weights, to compare their digests; without a certificate, nothing. One that says that a check failed is
    used as well; one that contradicts itself is not, and a note says so.

    Raises:
        SourceError: a folder cannot be read.
    """
    file = Path(grown) / CERTIFICATE
    if not file.is_file():
        return Verified()
    try:
        checked = check_certificate(file, source if Path(source).is_dir() else None, grown)
    except SourceError as error:
        return Verified(notes=(f"{CERTIFICATE} was not used: {error}",))
    wrong = _why_not(checked)
    if wrong is not None:
        return Verified(notes=(f"{CERTIFICATE} was not used: {wrong}",))
    return _claimed(_held(checked), CERTIFICATE, f"{CERTIFICATE}, which anybody can write, says: {checked.verdict}")


def _why_not(checked: CertificateCheck) -> str | None:
    differs = "differs" in (checked.source.state, checked.grown.state)
    return checked.verdict if checked.contradictions or differs else None


def _claimed(data: Mapping[str, Any], who: str, note: str) -> Verified:
    found = read_findings(data, who)
    try:
        checks = data.get("checks", data)
        judged = certificate_findings.Findings.model_validate(
            {name: checks.get(name) for name in ("ok", "verdict", *CHECKS)} | {"notes": list(found.notes)}
        )
    except ValidationError:  # an older form, which is shown as far as it goes
        pass
    else:
        if judged.contradictions():
            raise SourceError(f"{who}: contradicts itself: {judged.contradictions()[0]}")
    made = {name: who for name in CHECKS if getattr(found, name) is not None}
    return replace(Verified(found, made), notes=(note,))


def _held(checked: CertificateCheck) -> dict[str, Any]:
    """Return the figures of the very certificate that was checked; its file may be another one by now."""
    return checked.certificate.checks.model_dump()


__all__ = ["Verified", "as_given", "beside", "found_here"]
