"""Digests of files that many threads or ranks write at once, and that one pass checks again.

A file is digested piece by piece: BLAKE3 of each, and then BLAKE3 of those digests one after another. The pieces of a
shard are its header and the bands of its tensors (``execute.layout``), which follow from the header alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import blake3

NAME = "blake3-pieces"


def of_piece(data: memoryview | bytes) -> bytes:
    """Return the digest of one piece (32 bytes)."""
    return blake3.blake3(data).digest()


def of_file(pieces: Iterable[bytes]) -> str:
    """Return the digest of a file from those of its pieces in order, with the name of the method before it."""
    whole = blake3.blake3()
    for piece in pieces:
        whole.update(piece)
    return f"{NAME}:{whole.hexdigest()}"


__all__ = ["NAME", "of_file", "of_piece"]
