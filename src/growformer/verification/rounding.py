"""Rounding to a dtype, exactly: to the nearest number that it holds, ties to the even one."""

from __future__ import annotations

from fractions import Fraction

from growformer.architecture.exact import Root
from growformer.errors import ArchitectureError

# dtype -> (digits of the significand, exponent of the smallest number above zero)
_FORMATS = {"float64": (53, -1074), "float32": (24, -149), "bfloat16": (8, -133), "float16": (11, -24)}


def rounded(value: Root, dtype: str) -> Fraction:
    """Return a factor as a class holds it that computes it in Python, keeps it in float32, and casts it to a dtype.

    A model in float64 keeps the float32 value.

    Raises:
        ArchitectureError: the dtype is none that models are computed in.
    """
    if dtype not in _FORMATS:
        raise ArchitectureError(f"cannot round a factor to {dtype!r}; known: {', '.join(_FORMATS)}")
    kept = _nearest(Fraction(float(value)), "float32")
    return _nearest(kept, dtype)


def _nearest(value: Fraction, dtype: str) -> Fraction:
    if not value:
        return value
    digits, smallest = _FORMATS[dtype]
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - digits + 1, smallest)
    return round(value / unit) * unit


__all__ = ["rounded"]
