"""Safetensors headers, read and checked without torch: where each tensor's bytes are. No tensor is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

from growformer.errors import SourceError

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
