"""Real text that installs as a package, as bytes: English (Python's documentation) or code (Python's library).

``english``: the reStructuredText sources of Debian's and Ubuntu's ``python3.11-doc``, 11 MB.
``code``: the standard library of the Python that runs this.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from examples.debian import folder_of

VALIDATION = 0.1


@dataclass(frozen=True, slots=True)
class Corpus:
    """Bytes to train on, and bytes that are only looked at.

    Attributes:
        train: [N] uint8.
        validation: [M] uint8: every tenth piece of 64 KiB, so that both come from all over the text.
        digest: SHA-256 of the whole text, for the record.
    """

    train: torch.Tensor
    validation: torch.Tensor
    digest: str

    def batch(self, step: int, seed: int, sequences: int, length: int) -> torch.Tensor:
        """Return [sequences, length + 1] tokens that depend on step and seed alone."""
        numbers = torch.Generator().manual_seed(seed * 1_000_003 + step)
        starts = torch.randint(len(self.train) - length - 1, (sequences,), generator=numbers)
        return torch.stack([self.train[s : s + length + 1] for s in starts.tolist()]).long()

    def held_out(self, sequences: int, length: int) -> torch.Tensor:
        """Return [sequences, length + 1] tokens spread evenly over the validation text."""
        starts = torch.linspace(0, len(self.validation) - length - 2, sequences).long()
        return torch.stack([self.validation[s : s + length + 1] for s in starts.tolist()]).long()


def load(name: str) -> Corpus:
    """Return a corpus by its name.

    Raises:
        SystemExit: it is not there, and cannot be fetched.
    """
    if name not in SOURCES:
        raise SystemExit(f"unknown corpus {name!r}: expected {' or '.join(SOURCES)}")
    text = SOURCES[name]()
    piece = 1 << 16
    pieces = [text[start : start + piece] for start in range(0, len(text), piece)]
    every = round(1 / VALIDATION)
    held = b"".join(p for number, p in enumerate(pieces) if number % every == every - 1)
    rest = b"".join(p for number, p in enumerate(pieces) if number % every != every - 1)
    tensors = (torch.frombuffer(bytearray(part), dtype=torch.uint8) for part in (rest, held))
    return Corpus(*tensors, hashlib.sha256(text).hexdigest())


def english() -> bytes:
    """Return the sources of Python's documentation, in the order of their names."""
    folder = folder_of(
        "python3.11-doc", "/usr/share/doc/python3.11/html/_sources", "; take Python's own library: --corpus code"
    )
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*.rst.txt")))


def code() -> bytes:
    """Return Python's standard library, in the order of the files' names; tests and packages are left out."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
    files = [p for p in sorted(folder.rglob("*.py")) if not left_out & set(p.relative_to(folder).parts)]
    return b"\n".join(path.read_bytes() for path in files)


SOURCES: dict[str, Callable[[], bytes]] = {"english": english, "code": code}
