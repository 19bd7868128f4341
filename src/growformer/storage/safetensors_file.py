"""Safetensors headers without torch, and a writer that streams; the library's own wants a whole shard in memory."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from growformer.errors import OutputError, SourceError

if TYPE_CHECKING:
    import torch

DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
}
_CODES = {name: code for code, (name, _) in DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a safetensors file.

    Attributes:
        file: the file.
        shape: its shape.
        dtype: torch's name of its dtype.
        start, end: byte range in the file.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    start: int
    end: int

    def part(self, at: int) -> Entry:
        """Return what lies at one position along the first dimension."""
        size = (self.end - self.start) // self.shape[0]
        start = self.start + at * size
        return Entry(self.file, self.shape[1:], self.dtype, start, start + size)


def read_header(path: Path) -> dict[str, Entry]:
    """Read and check the header of a safetensors file.

    Raises:
        SourceError: the file is cut short, or its header is not one.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise SourceError(f"{path}: not a safetensors file, or cut short: header of {length} in {size} bytes")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        entries = {
            name: _entry(path, name, value, 8 + length) for name, value in header.items() if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path}: the safetensors header is broken: {error}") from None
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
        if entry.start != end:
            raise SourceError(f"{path}: {name} starts at byte {entry.start}, expected {end}: overlap or hole")
        end = entry.end
    if end != size:
        raise SourceError(f"{path}: holds {size} bytes, its header describes {end}: incomplete or altered")
    return entries


def _entry(path: Path, name: str, value: dict[str, object], base: int) -> Entry:
    code = str(value["dtype"])
    if code not in DTYPES:
        raise ValueError(f"{name} has the unknown dtype {code!r}")
    shape = value["shape"]
    offsets = value["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(isinstance(n, int) for n in offsets):
        raise ValueError(f"{name} has the offsets {offsets!r}")
    start, end = offsets
    if not isinstance(shape, list) or any(not isinstance(n, int) or n < 0 for n in shape):
        raise ValueError(f"{name} has the shape {shape!r}")
    dtype, width = DTYPES[code]
    if not 0 <= start <= end or end - start != prod(shape) * width:
        raise ValueError(f"{name}: {end - start} bytes for shape {shape} of {dtype}")
    return Entry(path, tuple(shape), dtype, base + start, base + end)


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
