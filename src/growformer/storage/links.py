"""Which files of a model folder may be opened: regular ones, inside it or in the hub cache that it belongs to.

A folder that came from somewhere else may hold links to any file of this machine, and names that are no files at all:
pipes, which block whoever opens them, and devices. What this module does not let through is never opened.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from growformer.errors import SourceError

_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


def leads_outside(home: Path, file: Path) -> bool:
    """Tell whether a path, all links followed, ends outside of a folder and of the hub cache that the folder is in.

    The hub's cache keeps every file of ``models--OWNER--NAME/snapshots/COMMIT`` as a link into
    ``models--OWNER--NAME/blobs``; that folder of the same repository is the only one outside that counts as inside.
    """
    inside = Path(os.path.realpath(home))
    target = Path(os.path.realpath(file))
    if target.is_relative_to(inside):
        return False
    blobs = _blobs(inside)
    return blobs is None or not target.is_relative_to(blobs)


def commit_of(home: Path) -> str | None:
    """Return the commit that a folder in the hub's cache is a snapshot of; None for any other folder."""
    inside = Path(os.path.realpath(home))
    snapshot = inside.parent.name == "snapshots" and inside.parent.parent.name.startswith("models--")
    return inside.name if snapshot and is_commit(inside.name) else None


def is_commit(text: object) -> bool:
    """Tell whether a revision is a full commit, which never comes to mean something else."""
    return isinstance(text, str) and len(text) in (40, 64) and set(text) <= set("0123456789abcdef")


def open_inside(home: Path, file: Path) -> BinaryIO:
    """Open a regular file of a folder for reading.

    Raises:
        SourceError: it leads out of the folder, is not a regular file, or cannot be read.
    """
    try:
        outside = leads_outside(home, file)
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None
    if outside:
        raise SourceError(
            f"{file}: a link to {os.path.realpath(file)}, which is outside of the model's folder; expected a file "
            "inside it. Replace the link with the file that it stands for, if that is yours"
        )
    return open_regular(file)


def open_regular(file: Path) -> BinaryIO:
    """Open a regular file for reading; neither pipes nor devices are opened, so that this never waits.

    Raises:
        SourceError: it is not a regular file, or cannot be read.
    """
    try:
        _check_regular(file, os.stat(file))
        # Another process may put a pipe there in between: then this does not wait either.
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            _check_regular(file, os.fstat(handle))
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None


def _check_regular(file: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "not a regular file")
        raise SourceError(f"{file}: expected a file, found {kind}; nothing else in a model folder is opened")


def _unreadable(file: Path, error: OSError | ValueError) -> SourceError:
    """Return an error for what the operating system said (a ValueError: a name that no file can have)."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return SourceError(f"{file}: cannot be read: {reason}")


def _blobs(inside: Path) -> Path | None:
    """Return where the hub's cache keeps the files of a snapshot, or of a folder inside of one."""
    for folder in (inside, *inside.parents):
        if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
            return folder.parent.parent / "blobs"
    return None
