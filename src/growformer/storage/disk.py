"""The few system calls through which checkpoints are read and written: the place to inject faults in tests.

Reads are ``pread``: a file that shrinks ends early, where a memory map would kill the process. Every function raises
OSError with the file's name.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def _pread_into(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Do what ``os.preadv`` does for one buffer, where the system lacks it."""
    data = os.pread(descriptor, len(buffers[0]), offset)
    buffers[0][: len(data)] = data
    return len(data)


_open = os.open
_preadv = getattr(os, "preadv", None) or _pread_into
_pwrite = os.pwrite
_fsync = os.fsync
_rename = os.rename
_mkdir = os.mkdir
_unlink = os.unlink


def open_to_read(path: Path) -> int:
    """Open a file for reading and return its descriptor."""
    return _open(path, os.O_RDONLY | os.O_CLOEXEC)


def open_to_write(path: Path, *, fresh: bool) -> int:
    """Open a file for writing and return its descriptor; a fresh one must not exist."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if fresh else 0)
    return _open(path, flags, 0o666)


def read_at(descriptor: int, into: memoryview, offset: int) -> int:
    """Fill a buffer from an offset on, and return how many bytes there were: fewer at the file's end."""
    done = 0
    while done < len(into):
        count = _preadv(descriptor, [into[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def write_at(descriptor: int, data: memoryview | bytes, offset: int) -> None:
    """Write all of some data from an offset on."""
    view, done = memoryview(data), 0
    while done < len(view):
        done += _pwrite(descriptor, view[done:], offset + done)


def sync(descriptor: int) -> None:
    """Wait until a file's bytes are on the disk."""
    _fsync(descriptor)


def sync_path(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = _open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with named(path):
            _fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Write a new file, and wait until it is on the disk."""
    descriptor = open_to_write(path, fresh=True)
    try:
        with named(path):
            write_at(descriptor, data, 0)
            sync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in place of another one, so that at any time either is there as a whole."""
    beside = path.with_name(path.name + ".new")
    remove_file(beside)
    write_file(beside, data)
    rename(beside, path)
    sync_path(path.parent)


def remove_file(path: Path) -> None:
    """Remove a file, if there is one."""
    try:
        _unlink(path)
    except FileNotFoundError:
        return


def make_folder(path: Path) -> None:
    """Make a folder that must not exist."""
    _mkdir(path)


def rename(path: Path, to: Path) -> None:
    """Give a file or folder another name."""
    _rename(path, to)


def lock(descriptor: int) -> bool:
    """Lock a file until its descriptor is closed or the process ends; return False if another one holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Give errors of calls on a descriptor the file's name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
