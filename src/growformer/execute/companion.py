"""What grows with the weights and lies beside them, such as the state of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Companion(Protocol):
    """Files that are grown with a checkpoint. The executor asks in this order, on the first rank alone.

    Attributes:
        files: names of the files, of the source and of the output, that it answers for.
        notes: what the user should know, once it is prepared.
    """

    files: frozenset[str]
    notes: tuple[str, ...]

    def prepare(self) -> int:
        """Read and check everything, before anything is written.

        Returns:
            How many bytes it takes on the disk while it is written.

        Raises:
            GrowformerError: it cannot be grown.
        """

    def check_unchanged(self) -> None:
        """Look at the source's files again.

        Raises:
            SourceError: one is not as it was.
        """

    def write(self, folder: Path) -> dict[str, str]:
        """Write the files into the output, and return what became of each."""


__all__ = ["Companion"]
