"""The output while it is being written: a hidden folder beside its final name, which it gets by one rename.

    .OUT.partial/
        .growformer.lock    held by the process that writes; removed last, after the rename
        journal.json        what is being written, and digest and size of every shard that is on the disk
        model-…             shards

What is there after a killed run is of use to the next one if it writes the same: it goes on after the last shard in the
journal, and otherwise starts clean. Nothing with this name is a model: there is no config in it until all else is.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from growformer.errors import GrowformerError, OutputError
from growformer.storage import disk

LOCK, JOURNAL = ".growformer.lock", "journal.json"


class OutputFolder:
    """A folder that is being written, and published or not.

    Args:
        out: its final name, which must not exist.
        fingerprint: of all that its bytes depend on; None: it cannot be told, so that nothing can be continued.

    Attributes:
        path: the hidden folder.
        finished: file -> digest of the shards that are on the disk.
        note: what was found of an earlier run, and what was made of it; empty if nothing was.
    """

    def __init__(self, out: Path, fingerprint: str | None) -> None:
        self.out = out
        self.path = out.with_name(f".{out.name}.partial")
        self.finished: dict[str, str] = {}
        self.note = ""
        self._fingerprint = fingerprint
        self._lock: int | None = None

    def __enter__(self) -> OutputFolder:
        """Make or take over the hidden folder, and lock it.

        Raises:
            OutputError: another run is writing it, or it cannot be made.
        """
        check_free(self.out)
        try:
            try:
                disk.make_folder(self.path)
                found = False
            except FileExistsError:
                found = True
            if self.path.is_symlink() or not self.path.is_dir():
                raise OutputError(f"{self.path}: is in the way; remove it first")
            self._take_lock()
            if found:
                self._continue()
            self._write_journal()
            disk.sync_path(self.out.parent)
        except OSError as error:
            if self._lock is not None and not self.finished:
                self.discard()
            self._release()
            raise OutputError(f"{self.out}: cannot be written: {_reason(error)}") from error
        except OutputError:
            self._release()
            raise
        return self

    def _take_lock(self) -> None:
        path = self.path / LOCK
        if path.is_symlink():
            raise OutputError(f"{path}: is a link; remove {self.path} first")
        descriptor = disk.open_to_write(path, fresh=False)
        if not disk.lock(descriptor):
            holder = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            raise OutputError(
                f"{self.out}: another run is writing it{f' ({holder})' if holder else ''}. Wait for it, or choose "
                "another name"
            )
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
            os.close(descriptor)
            raise OutputError(f"{self.out}: another run has just written it or given it up; try again")
        self._lock = descriptor
        os.ftruncate(self._lock, 0)
        disk.write_at(self._lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _continue(self) -> None:
        kept = self._usable()
        entries = [entry for entry in self.path.iterdir() if entry.name != LOCK]
        for entry in entries:
            if entry.name in kept:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                disk.remove_file(entry)
        self.finished = kept
        if kept:
            self.note = f"an earlier run had finished {len(kept)} of the shards, which were kept"
        elif entries:
            self.note = "an earlier run left an unfinished output, which was of no use and was removed"

    def _usable(self) -> dict[str, str]:
        """Return the shards that the journal says are on the disk, if it is of the same output and can be read."""
        kept: dict[str, str] = {}
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            journal = json.loads((self.path / JOURNAL).read_text(encoding="utf-8"))
            if self._fingerprint is None or journal["fingerprint"] != self._fingerprint:
                return {}
            for file, entry in journal["finished"].items():
                path = self.path / Path(file).name
                if path.is_file() and not path.is_symlink() and path.stat().st_size == entry["num_bytes"]:
                    kept[path.name] = str(entry["digest"])
        return kept

    def record(self, file: str, digest: str) -> None:
        """Note down that a shard is on the disk."""
        self.finished[file] = digest
        self._write_journal()

    def _write_journal(self) -> None:
        finished = {
            file: {"digest": digest, "num_bytes": (self.path / file).stat().st_size}
            for file, digest in self.finished.items()
        }
        text = json.dumps({"fingerprint": self._fingerprint, "finished": finished}, indent=1)
        disk.replace_file(self.path / JOURNAL, text.encode())

    def publish(self) -> None:
        """Give the folder its final name, once all that is in it is on the disk.

        Raises:
            OutputError: something with that name has appeared meanwhile.
        """
        if self.out.exists() or self.out.is_symlink():  # a rename would replace an empty folder
            raise OutputError(
                f"{self.out}: appeared while it was being written. Move it away and run again: what was made is kept"
            )
        disk.remove_file(self.path / JOURNAL)
        for folder, _, files in os.walk(self.path):
            for file in files:
                disk.sync_path(Path(folder) / file)
            disk.sync_path(Path(folder))
        try:
            disk.rename(self.path, self.out)
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be given its name: {_reason(error)}") from error
        with suppress(OSError):  # not before: without it another run could take the folder over
            disk.remove_file(self.out / LOCK)
        disk.sync_path(self.out.parent)

    def forget(self) -> None:
        """Let no later run continue: what was made is of no use."""
        self.finished.clear()

    def discard(self) -> None:
        """Remove the hidden folder and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go; after an error keep what the next run can continue, and nothing else."""
        if error is not None and self.path.is_dir():
            if self.finished and (self.path / JOURNAL).is_file():
                for entry in self.path.iterdir():
                    if entry.is_file() and entry.name not in (*self.finished, JOURNAL, LOCK):
                        entry.unlink(missing_ok=True)
                self._say_what_is_kept(error)
            else:
                self.discard()
        self._release()

    def _say_what_is_kept(self, error: BaseException) -> None:
        said = (
            f"the {len(self.finished)} shards that are finished stay in {self.path}: the same command goes on from "
            "there; remove that folder if you do not want to"
        )
        if isinstance(error, KeyboardInterrupt):
            error.args = (said,)
        elif isinstance(error, GrowformerError):
            error.args = (f"{error}; {said}",)
        elif isinstance(error, OSError) and error.strerror:
            error.strerror = f"{error.strerror}; {said}"

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def check_free(out: Path) -> None:
    """Refuse a name that exists, or a place that cannot be written to.

    Raises:
        OutputError: it exists, or its parent folder is missing, is a file, or is not ours to write to.
    """
    if out.exists() or out.is_symlink():
        raise OutputError(f"{out}: exists already, and is never overwritten. Choose another name, or remove it first")
    parent = out.parent
    if parent.exists() and not parent.is_dir():
        raise OutputError(f"{out}: {parent} is a file; expected a folder to write into")
    if not parent.is_dir():
        raise OutputError(f"{out}: its parent folder {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: no permission to write in {parent}; choose another place, or change its mode")


def check_room(out: Path, num_bytes: int) -> None:
    """Refuse an output that is larger than what is free on its disk.

    Raises:
        OutputError: it is.
    """
    free = shutil.disk_usage(out.parent).free
    if free < num_bytes:
        raise OutputError(f"{out}: needs {num_bytes:,} bytes, {free:,} are free on that disk")


def estimated_seconds(folder: Path, num_bytes: int) -> float:
    """Return how long writing takes by a short probe: 64 MB in a hidden file, synced."""
    probe = folder / f".growformer-probe-{os.getpid()}"
    size = 64_000_000
    piece = os.urandom(1 << 20) * 8
    start = time.perf_counter()
    try:
        descriptor = disk.open_to_write(probe, fresh=True)
        try:
            for offset in range(0, size, len(piece)):
                disk.write_at(descriptor, piece, offset)
            disk.sync(descriptor)
        finally:
            os.close(descriptor)
        return (time.perf_counter() - start) * num_bytes / size
    finally:
        disk.remove_file(probe)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


__all__ = ["OutputFolder", "check_free", "check_room", "estimated_seconds"]
