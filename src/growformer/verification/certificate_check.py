"""Checks a certificate: whether the files here are those that it was written of, and its verdict follows from it.

What it names is not trusted. Only files inside the two folders are opened, none of another size than it says, and the
grown folder is looked for beside the certificate alone, unless the user names it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from growformer.errors import SourceError
from growformer.verification.certificate import Certificate, Side, read_certificate
from growformer.verification.deciding_files import METHODS, Progress, deciding_files, iterate_digests

State = Literal["the same", "differs", "not checked"]
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


@dataclass(frozen=True, slots=True)
class SideCheck:
    """What became of the files of one side.

    Attributes:
        location: as the certificate names it.
        folder: where it was found; None if it was not.
        files: file -> ``ok``, or what is wrong with it.
        num_bytes: how much was read.
        why: why it was not checked.
        is_named: whether the user named the folder.
    """

    location: str
    folder: Path | None
    files: dict[str, str]
    num_bytes: int = 0
    why: str = ""
    is_named: bool = False

    @property
    def where(self) -> str:
        """Where it was looked for: as the certificate says, or as the user did."""
        return str(self.folder) if self.is_named else self.location

    @property
    def state(self) -> State:
        """Whether the files are those of the certificate; a side that is not here is neither."""
        if self.folder is None:
            return "not checked"
        return "the same" if all(found == "ok" for found in self.files.values()) else "differs"

    def __str__(self) -> str:
        if self.folder is None:
            return f"not checked: {self.why}"
        wrong = {name: found for name, found in self.files.items() if found != "ok"}
        if wrong:
            return "; ".join(f"{name}: {found}" for name, found in list(wrong.items())[:8])
        files = "1 file is" if len(self.files) == 1 else f"{len(self.files)} files are"
        return f"{files} as checked ({self.num_bytes:,} bytes)"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "location": self.location,
            "folder": str(self.folder) if self.folder is not None else None,
            "state": self.state,
            "files": self.files,
            "num_bytes": self.num_bytes,
            "why": self.why or None,
        }


@dataclass(frozen=True, slots=True)
class CertificateCheck:
    """What a certificate is worth here.

    Attributes:
        file: where it is.
        certificate: what it says.
        source, grown: what became of its files.
        contradictions: where what it says does not follow from what it holds.
    """

    file: Path
    certificate: Certificate
    source: SideCheck
    grown: SideCheck
    contradictions: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether a file differs, the verdict was a failure, or the certificate contradicts itself."""
        differs = "differs" in (self.source.state, self.grown.state)
        return (
            differs or bool(self.contradictions) or not self.certificate.ok or bool(self.certificate.checks.failures())
        )

    @property
    def ok(self) -> bool:
        """Whether it passed and all files of both sides are here, and are the ones that were checked."""
        return not self.failed and self.source.state == "the same" == self.grown.state

    @property
    def verdict(self) -> str:
        """One line."""
        judged = self.certificate.checks.judged()
        if self.contradictions:
            return f"Not a valid certificate: {self.contradictions[0]}"
        changed = [name for name, side in self.sides().items() if side.state == "differs"]
        if changed:
            return f"The certificate is of other files: {' and '.join(changed)} differ from what was checked"
        if self.failed:
            return f"{judged}, when it was checked at {self.certificate.checked_at}"
        if not self.ok:
            missing = " and ".join(name for name, side in self.sides().items() if side.state == "not checked")
            return f"{judged}, as far as can be told here: {missing} not checked"
        return f"{judged} (checked at {self.certificate.checked_at}; both sides are the files that were checked)"

    def sides(self) -> dict[str, SideCheck]:
        """Return both sides by name."""
        return {"source": self.source, "grown": self.grown}

    def to_json(self) -> dict[str, Any]:
        """Return plain data; ``ok`` is None where nothing is wrong and a side was not checked."""
        return {
            "ok": True if self.ok else False if self.failed else None,
            "verdict": self.verdict,
            "certificate": str(self.file),
            "contradictions": list(self.contradictions),
            "checked_at": self.certificate.checked_at,
            "versions": self.certificate.versions,
            "source": self.source.to_json(),
            "grown": self.grown.to_json(),
        }


def check_certificate(
    file: str | Path,
    source: str | Path | None = None,
    grown: str | Path | None = None,
    *,
    threads: int = 4,
    progress: Progress | None = None,
) -> CertificateCheck:
    """Digest both sides of a certificate again, and judge its figures again.

    Args:
        file: the certificate, or a folder that has one.
        source: its folder, where that is not where the certificate says. Nothing is downloaded.
        grown: likewise.
        threads: how many read.
        progress: told bytes read so far, bytes in all, and the file at hand.

    Raises:
        SourceError: it is no certificate, or a folder that was named, or the grown one, is not there.
    """
    from growformer.execute.provenance import CERTIFICATE

    path = Path(file)
    path = path / CERTIFICATE if path.is_dir() else path
    certificate = read_certificate(path)
    found_grown = _named(grown) if grown is not None else _beside(path, certificate.grown)
    if found_grown is None:
        raise SourceError(
            f"{path}: its grown checkpoint ({certificate.grown.location[:200]!r}) is not in its folder; name both: "
            "growformer verify --certificate FILE SOURCE GROWN"
        )
    found_source = _named(source) if source is not None else _source(path, certificate.source)
    return CertificateCheck(
        path,
        certificate,
        replace(_check(certificate.source, found_source, threads, progress), is_named=source is not None),
        replace(_check(certificate.grown, found_grown, threads, progress), is_named=grown is not None),
        tuple(certificate.contradictions()),
    )


def _named(folder: str | Path) -> Path:
    if not os.path.isdir(folder):
        raise SourceError(f"{folder}: no such folder; a certificate is checked against files that are here")
    return Path(folder)


def _beside(path: Path, side: Side) -> Path | None:
    """Return the grown folder where it lies in the certificate's own folder."""
    folder = path.parent / side.location
    inside = Path(os.path.realpath(path.parent))
    if os.path.isabs(side.location) or not Path(os.path.realpath(folder)).is_relative_to(inside):
        return None
    return folder if (folder / "config.json").is_file() else None


def _source(path: Path, side: Side) -> Path | None:
    """Return the source's folder where the certificate says, or in the hub's cache; nothing is downloaded."""
    folder = path.parent / side.location
    try:
        if (folder / "config.json").is_file():
            return folder
    except (OSError, ValueError):
        return None
    if side.revision is None or not _HUB_ID.fullmatch(side.location):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(side.location, "config.json", revision=side.revision)
    except Exception:  # an id or a revision that the hub's library does not take
        return None
    return Path(found).parent if isinstance(found, str) else None


def _check(side: Side, folder: Path | None, threads: int, progress: Progress | None) -> SideCheck:
    if folder is None:
        where = f"{side.location} at {side.revision}" if side.revision else side.location
        return SideCheck(side.location, None, {}, why=f"{where[:300]} is not on this machine")
    known = {name: digest for name, digest in side.files.items() if digest.split(":")[0] in METHODS}
    files = {name: "recorded by a method that this version does not know" for name in side.files if name not in known}
    num_bytes = 0
    for name, found in iterate_digests(
        folder, list(known), expected=side.num_bytes, threads=threads, progress=progress
    ):
        if isinstance(found, SourceError):
            files[name] = "missing" if not os.path.lexists(folder / name) else str(found)
        elif found.num_bytes != side.num_bytes[name]:
            files[name] = f"{found.num_bytes:,} bytes, where {side.num_bytes[name]:,} were checked"
        else:
            num_bytes += found.num_bytes
            files[name] = "ok" if found.digest == known[name] else "other bytes than were checked"
    files |= _added(folder, side)
    return SideCheck(side.location, folder, dict(sorted(files.items())), num_bytes)


def _added(folder: Path, side: Side) -> dict[str, str]:
    from growformer.storage.folder import open_folder

    try:
        names = deciding_files(open_folder(folder))
    except SourceError as error:
        return {"the folder": f"is none that could be checked: {error}"}
    return {name: "was not there when it was checked" for name in names if name not in side.files}


__all__ = ["CertificateCheck", "SideCheck", "check_certificate"]
