"""Reads regions of stored tensors as bits, by as many threads as want to, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from growformer.errors import SourceError
from growformer.storage import disk
from growformer.storage.header import DTYPES, Entry

Bits = npt.NDArray[Any]
Index = slice | npt.NDArray[np.int64]

WIDTH = dict(DTYPES.values())
"""Name of a dtype -> bytes of a value."""


class Scratch:
    """Memory of one thread that is used again and again: fresh pages are slower than the disk."""

    def __init__(self) -> None:
        self._memory = np.empty(1 << 20, dtype=np.uint8)
        self._used = 0

    def reset(self) -> None:
        """Give all arrays back."""
        self._used = 0

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Bits:
        """Return an array with arbitrary contents, valid until the next ``reset``."""
        size = prod(shape) * dtype.itemsize
        if self._used + size > self._memory.size:
            # Arrays that were handed out keep the old memory alive.
            self._memory, self._used = np.empty(max(size, self._memory.size), dtype=np.uint8), 0
        taken = self._memory[self._used : self._used + size]
        self._used += -(-size // 64) * 64
        return taken.view(dtype).reshape(shape)


class Weights:
    """The tensors of a model folder, open for reading.

    Args:
        entries: stored name -> where its bytes are.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries
        self._descriptors: dict[Path, int] = {}
        self._lock = Lock()

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    def read_bytes(self, entry: Entry, start: int, into: memoryview) -> None:
        """Fill a buffer with an entry's bytes from ``start`` on.

        Raises:
            SourceError: the file cannot be read, or has become shorter.
        """
        try:
            count = disk.read_at(self._descriptor(entry.file), into, entry.start + start)
        except OSError as error:
            raise SourceError(f"{entry.file}: cannot be read: {error.strerror or error}") from None
        if count != len(into):
            raise SourceError(f"{entry.file}: ended inside a tensor; the file changed while it was read")

    def _descriptor(self, file: Path) -> int:
        with self._lock:
            if file not in self._descriptors:
                self._descriptors[file] = disk.open_to_read(file)
            return self._descriptors[file]

    def region(self, name: str, region: tuple[Index, ...], scratch: Scratch) -> Bits:
        """Return the bits at a region of a tensor; rows of which a part is wanted are read whole.

        Args:
            name: stored name.
            region: per dimension a slice (of step 1 or more) or positions.
            scratch: gives the memory of the result.
        """
        entry = self.entries[name]
        shape, picks, start = list(entry.shape), list(region), 0
        dtype = np.dtype(f"u{WIDTH[entry.dtype]}")
        lead = 0
        while len(shape) > 1 and _count(picks[0]) == 1:
            start += _first(picks[0]) * prod(shape[1:]) * dtype.itemsize
            del shape[0], picks[0]
            lead += 1
        if not shape:
            rows = scratch.array((1,), dtype)
            self.read_bytes(entry, start, _memory(rows))
            return rows.reshape(())
        rows = self._rows(entry, start, picks[0], tuple(shape[1:]), dtype, scratch)
        for dim, pick in enumerate(picks[1:], start=1):
            rows = _picked(rows, pick, dim)
        return rows.reshape((1,) * lead + rows.shape) if lead else rows

    def _rows(
        self, entry: Entry, start: int, pick: Index, inner: tuple[int, ...], dtype: np.dtype[Any], scratch: Scratch
    ) -> Bits:
        size = prod(inner) * dtype.itemsize
        if isinstance(pick, slice):
            first, last = pick.start, pick.stop
            rows = scratch.array((last - first, *inner), dtype)
            self.read_bytes(entry, start + first * size, _memory(rows))
            return rows[:: pick.step or 1]
        is_sorted = bool((np.diff(pick) > 0).all())
        unique, back = (pick, None) if is_sorted else np.unique(pick, return_inverse=True)
        rows = scratch.array((unique.size, *inner), dtype)
        breaks = np.flatnonzero(np.diff(unique) != 1) + 1
        for run in np.split(np.arange(unique.size), breaks):
            if run.size:
                into = rows[run[0] : run[-1] + 1]
                self.read_bytes(entry, start + int(unique[run[0]]) * size, _memory(into))
        return rows if back is None else rows[back]

    def contiguous(self, name: str, region: tuple[Index, ...]) -> int | None:
        """Return the byte in a tensor at which a region starts, if it is one run of bytes; None if it is not."""
        entry = self.entries[name]
        start, size = 0, WIDTH[entry.dtype]
        whole = True  # all dimensions so far are taken as a whole
        for length, pick in zip(reversed(entry.shape), reversed(region), strict=True):
            if not isinstance(pick, slice) or (pick.step or 1) != 1:
                return None
            count = pick.stop - pick.start
            if not whole and count != 1:
                return None
            whole = whole and count == length
            start += pick.start * size
            size *= length
        return start

    def equal(self, one: str, other: str) -> bool:
        """Tell whether two tensors have the same dtype, shape and bytes."""
        first, second = self.entries[one], self.entries[other]
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            return False
        total = first.end - first.start
        buffers = [bytearray(min(total, _PIECE)) for _ in range(2)]
        for start in range(0, total, _PIECE):
            count = min(_PIECE, total - start)
            views = [memoryview(buffer)[:count] for buffer in buffers]
            self.read_bytes(first, start, views[0])
            self.read_bytes(second, start, views[1])
            if views[0] != views[1]:
                return False
        return True


_PIECE = 8 << 20


def _memory(array: Bits) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _picked(rows: Bits, index: Index, dim: int) -> Bits:
    if not isinstance(index, slice):
        return np.take(rows, index, axis=dim)
    picked: tuple[slice, ...] = (*[slice(None)] * dim, index)
    return rows[picked]


def _count(index: Index) -> int:
    return len(range(index.start, index.stop, index.step or 1)) if isinstance(index, slice) else int(index.size)


def _first(index: Index) -> int:
    return index.start if isinstance(index, slice) else int(index[0])


__all__ = ["WIDTH", "Scratch", "Weights"]
