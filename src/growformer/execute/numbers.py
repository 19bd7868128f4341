"""Stored bits to numbers and back, as torch converts them, in numpy: writing a checkpoint needs no torch.

Bits are unsigned integers of the dtype's width. Numbers are float32 or float64. A float64 is rounded to float32 first
and then to a 16-bit dtype, which is what ``tensor.to`` does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[Any]
Numbers = npt.NDArray[np.floating[Any]]

SPAN = 256
"""How many values ``ordered_mean`` adds up as a tree before it goes on in sequence."""

_NATIVE = {"float64": np.float64, "float32": np.float32, "float16": np.float16}


def bits_dtype(itemsize: int) -> np.dtype[Any]:
    """Return the unsigned integer dtype that holds values of some bytes."""
    return np.dtype(f"u{itemsize}")


def decode(bits: Bits, dtype: str) -> Numbers:
    """Return the numbers that bits of a floating-point dtype stand for: float64 of float64, else float32. Exact."""
    if dtype == "bfloat16":
        single: Numbers = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return single
    if dtype in _NATIVE:
        native = bits.view(_NATIVE[dtype])
        return native.astype(np.float32) if dtype == "float16" else native
    import torch

    flat = torch.from_numpy(np.ascontiguousarray(bits)).view(getattr(torch, dtype))
    decoded: Numbers = (flat.double() if flat.element_size() > 2 else flat.float()).numpy()
    return decoded


def encode(numbers: Numbers, dtype: str) -> Bits:
    """Return numbers as bits of a dtype, rounded to nearest even."""
    if dtype == "bfloat16":
        with np.errstate(over="ignore"):
            return _to_bfloat16(numbers.astype(np.float32, copy=False))
    if dtype in _NATIVE:
        with np.errstate(over="ignore"):
            if dtype == "float16":
                numbers = numbers.astype(np.float32, copy=False)
            native = np.asarray(numbers, dtype=_NATIVE[dtype], order="C")
        return native.view(bits_dtype(native.itemsize))
    import torch

    rounded = torch.from_numpy(np.ascontiguousarray(numbers)).to(getattr(torch, dtype))
    encoded: Bits = rounded.view(torch.uint8).numpy().view(bits_dtype(rounded.element_size())).reshape(numbers.shape)
    return encoded


def _to_bfloat16(numbers: Numbers) -> Bits:
    whole = np.array(numbers, dtype=np.float32, order="C").view(np.uint32)  # a copy, worked on in place
    not_numbers = np.isnan(numbers)
    odd = whole >> np.uint32(16)
    odd &= np.uint32(1)
    whole += np.uint32(0x7FFF)
    whole += odd
    whole >>= np.uint32(16)
    bits = whole.astype(np.uint16)
    if not_numbers.any():
        bits[not_numbers] = 0x7FC0
    return bits


class OrderedSum:
    """Adds up float64 rows in one fixed order, however many arrive at a time: spans as trees, then in sequence."""

    def __init__(self) -> None:
        self.total: npt.NDArray[np.float64] | None = None

    def add(self, rows: npt.NDArray[np.float64]) -> None:
        """Add rows along the first dimension; all calls but the last bring a multiple of ``SPAN``."""
        for start in range(0, rows.shape[0], SPAN):
            part = rows[start : start + SPAN]
            while part.shape[0] > 1:
                even = part.shape[0] // 2 * 2
                pairs = part[:even:2] + part[1:even:2]
                part = pairs if even == part.shape[0] else np.concatenate([pairs, part[-1:]])
            self.total = part[0] if self.total is None else self.total + part[0]


__all__ = ["SPAN", "OrderedSum", "bits_dtype", "decode", "encode"]
