"""Safetensors files: the header that a file begins with, and one tensor read at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO

from growformer.errors import SourceError
from growformer.storage.header import DTYPES, Entry

if TYPE_CHECKING:
    import torch

_CODES = {name: (code, width) for code, (name, width) in DTYPES.items()}


def header_bytes(tensors: Mapping[str, tuple[tuple[int, ...], str]]) -> bytes:
    """Return what a file begins with: the header's length, and the header.

    Args:
        tensors: name -> shape and dtype name, in the order in which their bytes follow.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in tensors.items():
        code, width = _CODES[dtype]
        size = prod(shape) * width
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def read_tensor(entry: Entry, file: BinaryIO) -> torch.Tensor:
    """Read one tensor into memory of its own.

    Raises:
        SourceError: the file ends before the tensor does.
    """
    import torch

    tensor = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
    file.seek(entry.start)
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    if entry.end > entry.start and file.readinto(memoryview(array)) != entry.end - entry.start:  # type: ignore[attr-defined]
        raise SourceError(f"{entry.file}: ended inside a tensor; the file changed while it was read")
    return tensor


__all__ = ["header_bytes", "read_tensor"]
