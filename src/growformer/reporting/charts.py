"""Small charts with logarithmic axes: lines, bars against a limit, and dots in pairs; every mark says its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from growformer.reporting.numbers import power, scientific
from growformer.reporting.svg import element, mark, number, picture, text

WIDTH, HEIGHT = 360.0, 216.0
_LEFT, _TOP, _RIGHT, _BOTTOM = 46.0, 14.0, 12.0, 34.0
_MARKS = ("disc", "square", "diamond", "triangle")


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its name, its points (x, y), and what each says. Points without a positive value lie on the floor."""

    name: str
    points: tuple[tuple[float, float], ...]
    says: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """One row of dots: its name, and per column a value (None: not there) and what it says."""

    name: str
    values: tuple[float | None, ...]
    says: tuple[str, ...]


def shape(kind: int, x: float, y: float, size: float, class_: str) -> str:
    """Return a mark whose form as well as whose colour tells its series."""
    form = _MARKS[kind % len(_MARKS)]
    if form == "disc":
        return element("circle", cx=x, cy=y, r=size, class_=class_)
    s = size
    d = {
        "square": f"M{number(x - s)} {number(y - s)}h{number(2 * s)}v{number(2 * s)}h{number(-2 * s)}z",
        "diamond": f"M{number(x)} {number(y - 1.3 * s)}l{number(1.3 * s)} {number(1.3 * s)}l{number(-1.3 * s)} "
        f"{number(1.3 * s)}l{number(-1.3 * s)} {number(-1.3 * s)}z",
        "triangle": f"M{number(x)} {number(y - 1.2 * s)}l{number(1.2 * s)} {number(2.2 * s)}h{number(-2.4 * s)}z",
    }[form]
    return element("path", d=d, class_=class_)


def lines(series: Sequence[Line], *, label: str, x_name: str, steps: bool = False) -> Markup:
    """Draw lines over a linear axis of whole numbers, values on a logarithmic one.

    Args:
        series: the lines; the first is the reference, drawn thinner.
        label: what readers of screens are told that it is.
        x_name: what the lower axis counts.
        steps: whether points are marked one by one, as layers are.
    """
    values = [y for s in series for _, y in s.points if y > 0 and math.isfinite(y)]
    low, high = _decades(values)
    xs = [x for s in series for x, _ in s.points]
    first, last = min(xs, default=0), max(xs, default=1)
    span = (last - first) or 1.0
    width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        level = math.log10(y) if y > 0 and math.isfinite(y) else low
        return _LEFT + (x - first) / span * width, _TOP + (high - level) / (high - low) * height

    shapes = [*_levels(low, high, height), _floor(x_name, first, last)]
    for at, one in enumerate(series):
        points = [place(*p) for p in one.points]
        if len(points) > 1:
            path = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
            shapes.append(element("path", d=path, class_=f"line s-{at}"))
        dot = 3.2 if steps and len(points) <= 48 else 1.8 if len(points) <= 64 else 1.2
        shapes += [
            mark(
                element("rect", x=x - 3, y=float(_TOP), width=6.0, height=height, class_="reach") if at == 1 else "",
                shape(at, x, y, dot, f"dot s-{at}"),
                says=f"{one.name}: {says}",
            )
            for (x, y), says in zip(points, one.says, strict=True)
        ]
    return picture(*shapes, width=WIDTH, height=HEIGHT, label=label, class_="chart")


def _decades(values: Sequence[float]) -> tuple[int, int]:
    if not values:
        return -1, 0
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return (low, high) if high > low else (low, low + 1)


def _levels(low: int, high: int, height: float) -> list[str]:
    every = max(1, math.ceil((high - low) / 5))
    found = []
    for exponent in range(low, high + 1, every):
        y = _TOP + (high - exponent) / (high - low) * height
        found.append(element("path", d=f"M{_LEFT:g} {number(y)}H{WIDTH - _RIGHT:g}", class_="grid"))
        found.append(text(power(exponent), _LEFT - 7, y + 4, "tick end"))
    return found


def _floor(name: str, first: float, last: float) -> str:
    y = HEIGHT - _BOTTOM + 16
    middle = _LEFT + (WIDTH - _LEFT - _RIGHT) / 2
    return "".join(
        (
            text(f"{first:g}", _LEFT, y, "tick"),
            text(f"{last:g}", WIDTH - _RIGHT, y, "tick end") if last > first else "",
            text(name, middle, y + 12, "tick middle axis"),
        )
    )


def pairs(rows: Sequence[Pair], names: Sequence[str], series: Sequence[int], *, label: str, axis: str) -> Markup:
    """Draw one row of dots per name on one logarithmic axis; a value of zero stands left of it.

    Args:
        rows: what is compared.
        names: of the columns.
        series: of the columns: which mark and colour each has.
        label: what readers of screens are told that it is.
        axis: what is measured.
    """
    values = [v for row in rows for v in row.values if v is not None and v > 0 and math.isfinite(v)]
    low, high = _decades(values)
    has_zero = any(v == 0 for row in rows for v in row.values)
    left = 36.0 if has_zero else 18.0
    width, step = WIDTH - left - 16, 34.0
    height = step * len(rows) + 8

    def place(value: float) -> float:
        if value <= 0 or not math.isfinite(value):
            return 8.0
        return left + (math.log10(value) - low) / (high - low) * width

    shapes = []
    every = max(1, math.ceil((high - low) / 6))
    for exponent in range(low, high + 1, every):
        x = left + (exponent - low) / (high - low) * width
        shapes.append(element("path", d=_beside_names(x, len(rows), step), class_="grid"))
        shapes.append(text(power(exponent), x, height + 15, "tick middle"))
    if has_zero:
        shapes.append(element("path", d=_beside_names(8.0, len(rows), step), class_="grid zero-line"))
        shapes.append(text("0", 8, height + 15, "tick middle"))
    for at, row in enumerate(rows):
        y = at * step + 27
        shapes.append(text(row.name, 2, y - 11, "row-name"))
        found = [place(v) for v in row.values if v is not None]
        if found:
            shapes.append(element("path", d=f"M{number(min(found))} {number(y)}H{number(max(found))}", class_="span"))
        for column, (value, says) in enumerate(zip(row.values, row.says, strict=True)):
            if value is not None:
                dot = shape(series[column], place(value), y, 4.2, f"dot s-{series[column]}")
                shapes.append(mark(dot, says=f"{row.name}, {names[column]}: {says or scientific(value)}"))
    shapes.append(text(axis, WIDTH / 2, height + 30, "tick middle axis"))
    return picture(*shapes, width=WIDTH, height=height + 36, label=label, class_="chart")


def _beside_names(x: float, rows: int, step: float) -> str:
    """Return the path of a vertical line that leaves out the names above the rows."""
    return "".join(f"M{number(x)} {number(at * step + 20)}V{number(at * step + 35)}" for at in range(rows))


def gauge(ratio: float, limit: float, label: str) -> Markup:
    """Draw a ratio on a bar from 0 to its limit, with a mark at 1: the source's own rounding."""
    width, most = 240.0, max(limit * 1.1, ratio if math.isfinite(ratio) else limit * 1.1)
    at = min(ratio / most, 1.0) * width if math.isfinite(ratio) else width
    over = ratio > limit or not math.isfinite(ratio)
    shapes = [
        element("rect", x=0.0, y=8.0, width=width, height=8.0, rx=4.0, class_="rail"),
        element("rect", x=0.0, y=8.0, width=max(at, 3.0), height=8.0, rx=4.0, class_="bar over" if over else "bar"),
        element("path", d=f"M{number(width / most)} 4V20", class_="one"),
        element("path", d=f"M{number(limit / most * width)} 4V20", class_="limit"),
        text("1", width / most, 32, "tick middle"),
        text(f"limit {limit:g}", min(limit / most * width, width), 32, "tick end"),
    ]
    return picture(
        mark(*shapes, says=f"ratio {ratio:.3g}, limit {limit:g}"),
        width=width + 2,
        height=36,
        label=label,
        class_="gauge",
    )


__all__ = ["Line", "Pair", "gauge", "lines", "pairs", "shape"]
