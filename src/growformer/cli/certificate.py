"""Certificates on the command line: written after ``growformer verify``, and checked by ``verify --certificate``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from growformer.cli import render
from growformer.errors import OutputError, RequestError, SourceError

if TYPE_CHECKING:
    from growformer.storage.identity import Identity
    from growformer.verification.certificate import Certificate
    from growformer.verification.verification import Verification

PANEL = "Certificate"
Checked = Annotated[
    str | None,
    typer.Option(
        "--certificate",
        metavar="FILE",
        rich_help_panel=PANEL,
        help="Check this certificate instead of the models: that the files are those that it was written of, and that "
        "its verdict follows from its figures. MODEL and OUT, where they are not where it says.",
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        "--certificate-to",
        metavar="FILE",
        rich_help_panel=PANEL,
        help="Write the certificate there. Default: growformer.verify.json in OUT.",
    ),
]
No = Annotated[bool, typer.Option("--no-certificate", rich_help_panel=PANEL, help="Write no certificate.")]


def check(file: str, model: str | None, out: str | None, *, json: bool) -> None:
    """Check a certificate, and end with 1 if a file differs or the verdict was not that all is preserved."""
    from growformer.verification.certificate_check import check_certificate

    if model is not None and out is None:
        model, out = None, model
    with render.progress(not json) as advance:
        found = check_certificate(file, model, out, progress=advance)
    if json:
        render.print_json(found.to_json())
    else:
        render.say(found.verdict)
        print()
        states = {"the same": "ok", "differs": "FAILED", "not checked": "not checked"}
        rows = [(name, states[side.state], side.where, str(side)) for name, side in found.sides().items()]
        render.table(("side", "", "where", "files"), rows)
        for title, lines in (
            ("It contradicts itself", found.contradictions),
            ("Found when it was checked", found.certificate.checks.failures()),
            ("Notes", found.certificate.checks.notes),
        ):
            if lines:
                render.heading(title)
                render.lines(list(lines))
    if found.failed:
        raise typer.Exit(1)


class Writer:
    """Writes the certificate of one run.

    Args:
        model, out: the folders.
        to: the file; None: beside the weights.
        wanted: whether one is written at all.
        shown: whether to show progress.

    Raises:
        RequestError: none is wanted, and a file is named for it.
        OutputError: the file that is named cannot be written.
    """

    def __init__(self, model: str, out: str, to: str | None, *, wanted: bool, shown: bool) -> None:
        if not wanted and to is not None:
            raise RequestError("--no-certificate and --certificate-to: leave one out")
        self.model, self.out, self.to, self.shown = model, out, to, shown
        self._seen: tuple[Identity, Identity] | None = None
        self._earlier: Certificate | None = None
        if wanted:
            from growformer.verification.certificate import CERTIFICATE, check_free, identities, read_certificate

            if to is not None:
                check_free(to)  # before the checks, which may take long
            self._seen = identities(model, out)
            file = Path(to) if to is not None else Path(out) / CERTIFICATE
            if file.is_file():
                with suppress(SourceError):  # what is in the way is said where it would be replaced
                    self._earlier = read_certificate(file)

    def write(self, found: Verification, options: Mapping[str, Any]) -> dict[str, str] | None:
        """Write it, and return where, or why not; a place that was asked for by name must do.

        Raises:
            OutputError: the file that is named cannot be written.
            SourceError: a checkpoint has changed while it was checked.
        """
        if self._seen is None:
            return None
        from growformer.verification.certificate import write_certificate

        try:
            with render.progress(self.shown) as advance:
                file = write_certificate(
                    found, self.model, self.out, to=self.to, options=options, seen=self._seen, progress=advance
                )
        except OutputError as error:
            if self.to is not None:
                raise
            return {"not_written": str(error)}
        less = [name for name in self._earlier.checks.made() if name not in found.reports()] if self._earlier else []
        return {"file": str(file), **({"replaced": ", ".join(less)} if less else {})}


def told(written: Mapping[str, str] | None) -> str | None:
    """Return a line that says where the certificate is, or why there is none."""
    if written is None:
        return None
    if "file" in written:
        earlier = written.get("replaced")
        more = f" (it replaces one that also had {earlier}; run those again to have them in it)" if earlier else ""
        return f"Certificate: {written['file']}{more}"
    return f"no certificate was written: {written['not_written']} (--certificate-to FILE writes it elsewhere)"


__all__ = ["Checked", "No", "To", "Writer", "check", "told"]
