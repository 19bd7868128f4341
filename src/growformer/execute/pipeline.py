"""Threads that make, digest and write the bands of all shards, while the finished ones reach the disk.

Each thread takes the next band, whatever shard it is in, makes it in a buffer that it keeps, and writes it to its place
in the file. All heavy calls release the interpreter, so reading, making and writing overlap.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from growformer.execute import layout
from growformer.execute.fill import BandFiller
from growformer.execute.layout import Band, Shard
from growformer.storage import digests, disk
from growformer.storage.weights import WIDTH, Scratch

Digests = dict[int, bytes]
"""Number of a piece in its file -> its digest; the header is piece 0."""

_DIRTY = 256 << 20
"""Bytes after which a file is synced in the background, so that the last sync is short and Ctrl-C is quick."""


@dataclass(slots=True)
class _Open:
    """A shard that is being written."""

    number: int
    shard: Shard
    descriptor: int
    left: int
    pieces: Digests = field(default_factory=dict)
    dirty: int = 0


class Pipeline:
    """Writes shards into a folder.

    Args:
        filler: makes bands.
        folder: where the files go.
        threads: how many make bands.
        share: of how many processes that write together, this is which: (0, 1) when alone. Bands are dealt out in runs.
    """

    def __init__(self, filler: BandFiller, folder: Path, threads: int, share: tuple[int, int] = (0, 1)) -> None:
        self._filler = filler
        self._folder = folder
        self._threads = threads
        self._share = share
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._open: dict[int, _Open] = {}
        self._events: queue.SimpleQueue[Band | _Open | BaseException] = queue.SimpleQueue()
        self._syncs: queue.SimpleQueue[tuple[_Open, bool] | None] = queue.SimpleQueue()

    def run(self, shards: Sequence[tuple[int, Shard]], wrote: Callable[[Band], None]) -> Iterator[tuple[int, Digests]]:
        """Write shards, and yield the number and the pieces' digests of each one that is on the disk, in order.

        Args:
            shards: with their numbers.
            wrote: called after every band, in the calling thread.

        Raises:
            The first error of any thread. Whether it ends, fails or is interrupted, no thread goes on.
        """
        if not shards:
            return
        work = self._work(shards)
        makers = [threading.Thread(target=self._make, args=(work,), daemon=True) for _ in range(self._threads)]
        syncer = threading.Thread(target=self._sync, daemon=True)
        try:
            for thread in (*makers, syncer):
                thread.start()
            waiting = [number for number, _ in shards]
            synced: dict[int, Digests] = {}
            while waiting:
                event = self._events.get()
                if isinstance(event, BaseException):
                    raise event
                if isinstance(event, Band):
                    wrote(event)
                else:
                    synced[event.number] = event.pieces
                while waiting and waiting[0] in synced:
                    number = waiting.pop(0)
                    yield number, synced.pop(number)
        finally:
            self._stop.set()
            self._syncs.put(None)
            for thread in (*makers, syncer):
                if thread.ident is not None:  # an interrupt may come before all are started
                    thread.join()
            for opened in self._open.values():
                os.close(opened.descriptor)
            self._open.clear()

    def _work(self, shards: Sequence[tuple[int, Shard]]) -> Iterator[tuple[_Open, int, Band]]:
        """Yield this process's bands; called under the lock only. The first one of a shard opens its file."""
        rank, size = self._share
        for number, shard in shards:
            every = list(shard.bands())
            own = range(len(every) * rank // size, len(every) * (rank + 1) // size)
            path = self._folder / shard.file
            with disk.named(path):
                descriptor = disk.open_to_write(path, fresh=size == 1)
                opened = _Open(number, shard, descriptor, len(own))
                self._open[number] = opened
                if rank == 0:
                    disk.write_at(descriptor, shard.header, 0)
                    opened.pieces[0] = digests.of_piece(shard.header)
            if not own:
                self._syncs.put((opened, True))
            for place in own:
                yield opened, place + 1, every[place]

    def _make(self, work: Iterator[tuple[_Open, int, Band]]) -> None:
        buffer, scratch = np.empty(layout.BAND_BYTES, dtype=np.uint8), Scratch()
        try:
            while not self._stop.is_set():
                with self._lock:
                    opened, piece, band = next(work, (None, 0, None))
                if opened is None or band is None:
                    return
                memory = buffer[: band.num_bytes]
                shape = tuple(along.stop - along.start for along in band.bounds)
                bits = memory.view(f"u{WIDTH[band.stored.dtype]}").reshape(shape)
                self._filler.fill(band, bits, scratch)
                digest = digests.of_piece(memory.data)
                with disk.named(self._folder / opened.shard.file):
                    disk.write_at(opened.descriptor, memory.data, band.start)
                self._written(opened, piece, digest, band)
        except BaseException as error:
            self._stop.set()
            self._events.put(error)

    def _written(self, opened: _Open, piece: int, digest: bytes, band: Band) -> None:
        self._events.put(band)
        with self._lock:
            opened.pieces[piece] = digest
            opened.left -= 1
            opened.dirty += band.num_bytes
            last, flush = opened.left == 0, opened.dirty >= _DIRTY
            if flush:
                opened.dirty = 0
        if last or flush:
            self._syncs.put((opened, last))

    def _sync(self) -> None:
        try:
            while (task := self._syncs.get()) is not None and not self._stop.is_set():
                opened, last = task
                with disk.named(self._folder / opened.shard.file):
                    disk.sync(opened.descriptor)
                if last:
                    with self._lock:
                        del self._open[opened.number]
                    os.close(opened.descriptor)
                    self._events.put(opened)
        except BaseException as error:
            self._stop.set()
            self._events.put(error)


__all__ = ["Digests", "Pipeline"]
