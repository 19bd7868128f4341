"""Compares the shards of a grown checkpoint with the digests that were recorded while they were written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growformer.errors import SourceError
from growformer.execute.layout import bands
from growformer.execute.provenance import FILE, read_record
from growformer.storage import digests, disk
from growformer.storage.header import read_header
from growformer.storage.weights import WIDTH


@dataclass(frozen=True, slots=True)
class DigestsReport:
    """What became of every recorded shard.

    Attributes:
        files: file -> ``ok``, or what is wrong with it.
        num_bytes: how much was read.
    """

    files: dict[str, str]
    num_bytes: int

    @property
    def ok(self) -> bool:
        """Whether every shard is as it was written."""
        return all(found == "ok" for found in self.files.values())

    def __str__(self) -> str:
        wrong = {file: found for file, found in self.files.items() if found != "ok"}
        if not wrong:
            shards = "1 shard is as it was" if len(self.files) == 1 else f"{len(self.files)} shards are as they were"
            return f"{shards} written ({self.num_bytes:,} bytes)"
        return "; ".join(f"{file}: {found}" for file, found in wrong.items())

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"ok": self.ok, "files": self.files, "num_bytes": self.num_bytes}


def check_digests(checkpoint: str | Path, *, threads: int = 4) -> DigestsReport:
    """Read all shards of a grown checkpoint and compare them with growformer.json.

    Args:
        checkpoint: the folder.
        threads: how many read.

    Raises:
        SourceError: there is no record, or a file cannot be read.
    """
    folder = Path(checkpoint)
    recorded = read_record(folder / FILE).get("files", {}).get("weights")
    if not isinstance(recorded, dict) or not recorded:
        raise SourceError(f"{folder / FILE}: has no digests of shards")
    there = {path.name for path in folder.glob("*.safetensors")}
    found = dict.fromkeys(sorted(there - set(recorded)), "not in the record")
    total = 0
    with ThreadPoolExecutor(threads) as pool:
        for file, wanted in recorded.items():
            path = folder / file
            if Path(file).name != file or not path.is_file():
                found[file] = "missing"
                continue
            if not str(wanted).startswith(digests.NAME + ":"):
                found[file] = f"recorded by a method that this version does not know: {str(wanted)[:40]}"
                continue
            total += path.stat().st_size
            try:
                own = digest_of_shard(path, pool)
            except SourceError as error:
                found[file] = f"damaged: {error}"
                continue
            found[file] = "ok" if own == wanted else "other bytes than were written"
    return DigestsReport(found, total)


def digest_of_shard(path: Path, pool: Executor, seen: Callable[[int], None] = lambda num_bytes: None) -> str:
    """Return the digest of a shard, whose pieces are read in parallel.

    Args:
        path: the shard.
        pool: who reads.
        seen: called with the size of each piece, in order.

    Raises:
        SourceError: its header is broken, or it cannot be read.
    """
    pieces = list(_pieces(path))

    def one_by_one() -> Iterator[bytes]:
        for (_, num_bytes), digest in zip(pieces, pool.map(lambda piece: _digest(path, *piece), pieces), strict=True):
            seen(num_bytes)
            yield digest

    return digests.of_file(one_by_one())


def _pieces(path: Path) -> Iterator[tuple[int, int]]:
    """Yield start and length of every piece of a shard: the header, then the bands of its tensors."""
    entries = sorted(read_header(path).values(), key=lambda entry: (entry.start, entry.end))
    yield 0, entries[0].start if entries else path.stat().st_size
    for entry in entries:
        start = entry.start
        for _, num_bytes in bands(entry.shape, WIDTH[entry.dtype]):
            yield start, num_bytes
            start += num_bytes


def _digest(path: Path, start: int, num_bytes: int) -> bytes:
    piece = memoryview(bytearray(num_bytes))
    try:
        with path.open("rb", buffering=0) as file:
            count = disk.read_at(file.fileno(), piece, start)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None
    return digests.of_piece(piece[:count])


__all__ = ["DigestsReport", "check_digests", "digest_of_shard"]
