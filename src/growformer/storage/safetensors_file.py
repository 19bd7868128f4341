"""Reads tensors of safetensors files, and writes such files tensor by tensor; the library's own wants a whole shard."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from growformer.errors import OutputError, SourceError
from growformer.storage.header import DTYPES as DTYPES
from growformer.storage.header import Entry

if TYPE_CHECKING:
    import torch

_CODES = {name: code for code, (name, _) in DTYPES.items()}


def read_tensor(entry: Entry, file: BinaryIO) -> torch.Tensor:
    """Read one tensor into memory of its own.

    Raises:
        SourceError: the file ends before the tensor does.
    """
    import torch

    dtype = getattr(torch, entry.dtype)
    tensor = torch.empty(entry.shape, dtype=dtype)
    file.seek(entry.start)
    view = _bytes(tensor)
    if entry.end > entry.start and file.readinto(view) != entry.end - entry.start:  # type: ignore[attr-defined]
        raise SourceError(f"{entry.file}: ended inside a tensor; the file changed while it was read")
    return tensor


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a contiguous tensor."""
    import torch

    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


class ShardWriter:
    """Writes one safetensors file tensor by tensor; the header is fixed first."""

    def __init__(self, path: Path, tensors: dict[str, tuple[tuple[int, ...], str]]) -> None:
        """Open ``path`` for ``tensors`` (name -> shape, dtype name), which must then arrive in this order."""
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, (shape, dtype) in tensors.items():
            code = _CODES[dtype]
            size = prod(shape) * DTYPES[code][1]
            header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        self.path = path
        self.expected = list(tensors)
        self._digest = hashlib.sha256()
        self._hashing = ThreadPoolExecutor(1)  # hashing releases the interpreter, and so overlaps with writing
        self._hashed: Future[None] | None = None
        self._file = path.open("xb")
        self._write(len(raw).to_bytes(8, "little") + raw)

    def _write(self, data: bytes | memoryview) -> None:
        if self._hashed is not None:
            self._hashed.result()
        self._hashed = self._hashing.submit(self._digest.update, data)
        self._file.write(data)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Append the next tensor."""
        if not self.expected or self.expected[0] != name:
            raise OutputError(f"{self.path}: got {name}, expected {self.expected[:1]}")
        self.expected.pop(0)
        if tensor.numel():
            self._write(_bytes(tensor.detach().cpu().contiguous()))

    def close(self) -> str:
        """Flush to the disk and return ``sha256:`` and the digest of the file's bytes.

        Raises:
            OutputError: tensors are missing.
        """
        if self.expected:
            raise OutputError(f"{self.path}: {len(self.expected)} tensors were never written: {self.expected[:3]}")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._hashing.shutdown()
        return "sha256:" + self._digest.hexdigest()

    def abort(self) -> None:
        """Close without finishing; after ``close`` this does nothing."""
        self._hashing.shutdown()
        self._file.close()
