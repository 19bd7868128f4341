"""Numbers as a reader wants them: three digits and a unit in the text, all of them where one looks closer."""

from __future__ import annotations

import math

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(value: float) -> str:
    """Return a number of things: ``134.5M``."""
    for unit, name in _UNITS:
        if abs(value) >= unit * 0.99995:
            return f"{value / unit:.1f}{name}"
    return f"{value:g}"


def num_bytes(value: float) -> str:
    """Return a size in decimal units, as disks and hubs count: ``538.1 MB``."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:.1f} {name}"
    return f"{value:g} bytes"


def whole(value: int) -> str:
    """Return a whole number with all its digits."""
    return f"{value:,}"


def times(before: float, after: float) -> str:
    """Return how many times as much there is."""
    if not before:
        return "–"
    return "unchanged" if after == before else f"× {after / before:.2f}"


def share(part: float, total: float) -> str:
    """Return a share in percent, never rounded to none or all unless it is."""
    if not total or part in (0, total):
        return "100%" if total and part == total else "0%"
    percent = 100 * part / total
    if percent < 0.1:
        return "< 0.1%"
    return "> 99.9%" if percent > 99.9 else f"{percent:.1f}%"


def scientific(value: float | None) -> str:
    """Return an error: ``1.9 × 10⁻⁶``."""
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if 0.01 <= abs(value) < 10_000:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def power(exponent: int) -> str:
    """Return a power of ten for an axis."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


__all__ = ["count", "num_bytes", "power", "scientific", "share", "times", "whole"]
