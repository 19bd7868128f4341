"""The certificate of a verification: what was checked, of which bytes, by which versions, with which figures.

It is not signed. It says what somebody found; ``certificate_check`` tells whether the files here are those that it was
found of, and whether its verdict follows from its figures.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from growformer.errors import OutputError, SourceError
from growformer.execute.provenance import CERTIFICATE
from growformer.storage import disk
from growformer.storage.identity import Identity
from growformer.storage.links import commit_of
from growformer.storage.plain_json import MAX_BYTES, read_json
from growformer.verification.certificate_findings import Findings
from growformer.verification.deciding_files import Progress, deciding_files, digest_files

if TYPE_CHECKING:
    from growformer.storage.folder import ModelFolder
    from growformer.verification.verification import Verification

FORMAT = 1
_DIGEST = re.compile(r"[a-z0-9-]{1,40}:[0-9a-f]{64}")
_HUB = re.compile(r"models--([\w.-]+)--([\w.-]+)")
_MOST_FILES = 100_000


def _inside(name: str) -> str:
    """Let through names of files that cannot lead out of their folder."""
    parts = PurePosixPath(name).parts
    if not name or len(name) > 1000 or not name.isprintable() or set(name) & set("\\:"):
        raise ValueError(f"expected the name of a file, found {name[:80]!r}")
    if PurePosixPath(name).is_absolute() or ".." in parts or "/".join(parts) != name:
        raise ValueError(f"expected the name of a file inside the folder, found {name[:80]!r}")
    return name


def _digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"expected a digest such as blake3:<64 hexadecimal digits>, found {text[:80]!r}")
    return text


def _location(text: str) -> str:
    if not text or len(text) > 4000 or "\0" in text:
        raise ValueError(f"expected a folder or a hub id, found {text[:80]!r}")
    return text


class Side(BaseModel):
    """One of the two checkpoints.

    Attributes:
        location: where it was: relative to the certificate's folder where possible, or a hub id.
        revision: the commit of a hub model.
        files: name -> digest.
        num_bytes: name -> size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    location: Annotated[StrictStr, AfterValidator(_location)]
    revision: Annotated[StrictStr, Field(max_length=200)] | None = None
    files: dict[Annotated[StrictStr, AfterValidator(_inside)], Annotated[StrictStr, AfterValidator(_digest)]] = Field(
        min_length=1, max_length=_MOST_FILES
    )
    num_bytes: dict[StrictStr, Annotated[StrictInt, Field(ge=0)]]

    @model_validator(mode="after")
    def _every_file_has_a_size(self) -> Side:
        if self.files.keys() != self.num_bytes.keys():
            raise ValueError("files and num_bytes do not name the same files")
        if not any(name.endswith(".safetensors") for name in self.files):
            raise ValueError("no file with weights is among them")
        return self


class Certificate(BaseModel):
    """What ``growformer.verify.json`` holds.

    Attributes:
        format: of the file.
        verdict, ok: what was found.
        checked_at: when, in UTC.
        versions: of growformer, torch, transformers and Python.
        options: what was asked for.
        source, grown: the bytes that were checked.
        checks: all figures.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    verdict: Annotated[StrictStr, Field(max_length=10_000)]
    ok: StrictBool
    checked_at: Annotated[StrictStr, Field(max_length=40)]
    versions: dict[StrictStr, StrictStr] = Field(max_length=100)
    options: dict[StrictStr, Any] = Field(max_length=100)
    source: Side
    grown: Side
    checks: Findings

    def contradictions(self) -> list[str]:
        """Return where it does not agree with what it holds; an honest one has none."""
        found = self.checks.contradictions()
        if self.ok and self.checks.failures() and not found:
            found.append(f"it is said to pass, but {'; '.join(self.checks.failures()[:4])}")
        if self.ok != self.checks.ok:
            found.append(f"it says ok: {self.ok}, and of its checks ok: {self.checks.ok}")
        if self.verdict != self.checks.judged() and not found:
            found.append(f"its verdict is {self.verdict[:200]!r}, and that of its figures {self.checks.judged()!r}")
        return found


def write_certificate(
    found: Verification,
    source: str | Path,
    grown: str | Path,
    *,
    to: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    seen: tuple[Identity, Identity] | None = None,
    threads: int = 4,
    progress: Progress | None = None,
) -> Path:
    """Write the certificate of a verification; both checkpoints are read once, to digest them.

    It appears whole or not at all, and replaces an earlier certificate, but no other file.

    Args:
        found: what the checks found, whether they passed or not.
        source: the folder that was grown from.
        grown: the folder that was checked.
        to: the file; by default ``growformer.verify.json`` in the grown folder.
        options: what was asked for, as plain data.
        seen: both folders as they were before the checks (``identities``); if they have changed, nothing is written.
        threads: how many read.
        progress: told bytes read so far, bytes in all, and the file at hand.

    Returns:
        The file.

    Raises:
        OutputError: it cannot be written there: the folder is read-only or in the hub's cache, or another file is in
            the way.
        SourceError: a checkpoint cannot be read, or has changed since it was checked.
    """
    from growformer.storage.folder import open_folder

    folders = open_folder(source), open_folder(grown)
    file = Path(to) if to is not None else folders[1].path / CERTIFICATE
    if to is None and commit_of(folders[1].path) is not None:
        raise OutputError(f"{file}: lies in the hub's cache, which is not written to; name another file for it")
    check_free(file)
    sides = [_side(folder, file.parent, threads, progress) for folder in folders]
    for identity in seen or ():
        identity.check_unchanged()
    data = {
        "format": FORMAT,
        "verdict": found.verdict,
        "ok": found.ok,
        "checked_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": _versions(),
        "options": dict(options or {}),
        "source": sides[0],
        "grown": sides[1],
        "checks": found.to_json(),
    }
    text = (json.dumps(_finite(data), indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()
    if len(text) > MAX_BYTES:
        raise OutputError(
            f"{file}: the certificate would have {len(text):,} bytes; at most {MAX_BYTES:,} are read again"
        )
    try:
        disk.replace_file(file, text)
    except OSError as error:
        with suppress(OSError):
            disk.remove_file(file.with_name(file.name + ".new"))
        raise OutputError(f"{file}: cannot be written: {error.strerror or error}") from None
    return file


def identities(source: str | Path, grown: str | Path) -> tuple[Identity, Identity]:
    """Return what both folders look like, to tell afterwards whether they were at rest while they were checked.

    Raises:
        SourceError: a folder cannot be read.
    """
    from growformer.storage.folder import open_folder

    return Identity.of(open_folder(source)), Identity.of(open_folder(grown))


def read_certificate(file: str | Path) -> Certificate:
    """Read a certificate as what it is: text that anybody may have written. Nothing that it names is opened.

    Raises:
        SourceError: it is missing, or is no certificate of a format that this version knows; what is wrong is named.
    """
    path = Path(file)
    data = read_json(path, "growformer verify SOURCE GROWN writes one beside the grown weights", constants=False)
    if data.get("format") != FORMAT or isinstance(data.get("format"), bool):
        raise SourceError(
            f"{path}: not a certificate of growformer verify: expected format {FORMAT}, found "
            f"{data.get('format')!r:.40}"
        )
    try:
        return Certificate.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:80] for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise SourceError(f"{path}: not a certificate: {where}: {first['msg'][:300]}{more}") from None


def check_free(to: str | Path) -> None:
    """Refuse to replace what is not a certificate, and to begin what could not be written.

    Raises:
        OutputError: it says what is in the way.
    """
    file = Path(to)
    if not file.parent.is_dir():
        raise OutputError(f"{file}: there is no folder {file.parent}")
    if not os.access(file.parent, os.W_OK):
        raise OutputError(f"{file}: the folder is read-only; name another file for the certificate")
    if os.path.lexists(file):
        try:
            if file.is_symlink():
                raise OutputError(f"{file}: is a link, and not replaced; remove it, or name another file")
            read_certificate(file)
        except SourceError as error:
            raise OutputError(
                f"{file}: is in the way, and no certificate that could be replaced; remove it, or name another file "
                f"({error})"
            ) from None


def _side(folder: ModelFolder, beside: Path, threads: int, progress: Progress | None) -> dict[str, Any]:
    found = digest_files(folder.path, deciding_files(folder), threads=threads, progress=progress)
    return {
        "location": location_from(folder.path, beside),
        "revision": folder.revision,
        "files": {name: entry.digest for name, entry in found.items()},
        "num_bytes": {name: entry.num_bytes for name, entry in found.items()},
    }


def location_from(folder: Path, beside: Path) -> str:
    """Return how a certificate names a folder: a hub id, a relative path, or where there is neither, an absolute."""
    real, base = os.path.realpath(folder), os.path.realpath(beside)
    repository = _HUB.fullmatch(Path(real).parent.parent.name) if commit_of(folder) else None
    if repository is not None:
        return f"{repository[1]}/{repository[2]}"
    try:
        shared = os.path.commonpath([real, base])
    except ValueError:  # on other drives
        return Path(real).as_posix()
    return (
        Path(real).as_posix() if Path(shared) == Path(shared).parent else Path(os.path.relpath(real, base)).as_posix()
    )


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("growformer", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return {**found, "python": platform.python_version()}


def _finite(value: Any) -> Any:
    """Return data with None for what is not a number: JSON has no word for it, and such a figure passes nowhere."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


__all__ = [
    "CERTIFICATE", "Certificate", "Side", "check_free", "identities", "location_from", "read_certificate",
    "write_certificate",
]  # fmt: skip
