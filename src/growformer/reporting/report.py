"""A report: one self-contained page about a growth, to be saved, or shown in a notebook."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from growformer.errors import OutputError
from growformer.reporting.page import page
from growformer.reporting.subject import Subject
from growformer.reporting.verified import Verified

if TYPE_CHECKING:
    from growformer.planning.plan import Plan


@dataclass(frozen=True)
class Report:
    """One page.

    Attributes:
        html: the page; it loads nothing from anywhere.
        notes: what the reader of the command line should know: which verification was used, and which was not.
        ok: whether nothing that was verified has failed.
    """

    html: str = field(repr=False)
    notes: tuple[str, ...] = ()
    ok: bool = True

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the page, whole or not at all, and return where it is.

        Args:
            path: a file that does not exist yet.
            force: whether one that exists is replaced.

        Raises:
            OutputError: it exists, or cannot be written.
        """
        file = Path(path)
        check_writable(file, force=force)
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            try:
                with unfinished.open("x", encoding="utf-8") as written:
                    written.write(self.html)
                if not force:
                    file.touch(exist_ok=False)  # nobody else's from here on
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{file}: cannot be written: {error.strerror or error}") from None
        return file

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, in which it keeps its style and its policy."""
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="growformer report" width="100%" height="800" '
            'sandbox="allow-scripts" style="border:0"></iframe>'
        )


def check_writable(file: Path, *, force: bool) -> None:
    """Refuse a file that exists, unless it is to be replaced, or one in a folder that does not.

    Raises:
        OutputError: so it is.
    """
    if file.is_dir() or (file.exists() and not force):
        hint = "is a folder; name a file" if file.is_dir() else "exists already; choose another name, or say --force"
        raise OutputError(f"{file}: {hint}")
    if not file.parent.is_dir():
        raise OutputError(f"{file}: its parent folder {file.parent} does not exist; create it first")


def report_on_plan(
    plan: Plan, *, source: str | None = None, grown: str = "", dtype: str | None = None, notes: tuple[str, ...] = ()
) -> Report:
    """Return the page about a growth that has not happened yet.

    Args:
        plan: what would happen.
        source: where the source is; by default as the plan says.
        grown: where the grown model will be.
        dtype: of the result, where it changes.
        notes: to be shown at the top.
    """
    subject = Subject.of_plan(plan, source=source, grown=grown, dtype=dtype)
    return Report(page(subject, Verified(notes=notes)), notes)


def report_on(subject: Subject, verified: Verified | None = None) -> Report:
    """Return the page about a growth.

    Args:
        subject: the growth.
        verified: what was found, and what is claimed; None: nothing was verified.
    """
    shown = verified or Verified()
    return Report(page(subject, shown), shown.notes, ok=shown.found is None or shown.found.ok)


__all__ = ["Report", "check_writable", "report_on", "report_on_plan"]
