"""Tells whether a source has changed while it was read: its files' sizes, times and headers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from growformer.errors import SourceError
from growformer.storage import digests, disk
from growformer.storage.folder import INDEX, ModelFolder

_MOST = 100_000_008
"""Bytes of the longest header that the format allows, with its length."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the config and the weights' files of a source looked like.

    Attributes:
        files: path -> size, time of the last change (ns), and digest of the header (of a JSON file: of all of it).
    """

    files: dict[Path, tuple[int, int, str]]

    @staticmethod
    def of(source: ModelFolder) -> Identity:
        """Look at a source.

        Raises:
            SourceError: a file cannot be read.
        """
        paths = [
            source.path / "config.json",
            source.path / INDEX,
            *{entry.file: None for entry in source.entries.values()},
        ]
        return Identity({path: _look(path) for path in paths if path.exists()})

    def check_unchanged(self) -> None:
        """Look again.

        Raises:
            SourceError: a file is not as it was.
        """
        for path, before in self.files.items():
            if _look(path) != before:
                raise SourceError(
                    f"{path}: changed while it was read; what was made of it is not kept. Run again when it is at rest"
                )

    def to_json(self) -> dict[str, list[int | str]]:
        """Return plain data, to compare with another run's."""
        return {str(path): list(found) for path, found in self.files.items()}


def _look(path: Path) -> tuple[int, int, str]:
    try:
        descriptor = disk.open_to_read(path)
        try:
            status = os.fstat(descriptor)
            length = status.st_size
            if path.suffix == ".safetensors":
                first = bytearray(8)
                disk.read_at(descriptor, memoryview(first), 0)
                length = min(status.st_size, 8 + int.from_bytes(first, "little"), _MOST)
            header = bytearray(length)
            disk.read_at(descriptor, memoryview(header), 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None
    return status.st_size, status.st_mtime_ns, digests.of_piece(memoryview(header)).hex()


__all__ = ["Identity"]
