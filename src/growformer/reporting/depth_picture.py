"""Draws depth: the target's layers, below each the number that it has in the source, and new ones marked."""

from __future__ import annotations

from markupsafe import Markup

from growformer.reporting.svg import element, mark, number, picture, text

WIDE, NARROW = 24, 10
"""Layers in a row, on a desk and on a phone."""


def draw(
    origin: tuple[int, ...], copied: tuple[int, ...], axis: str, label: str, per_row: int, fresh: str = "starts fresh"
) -> Markup:
    """Draw the layers of a target in rows.

    Args:
        origin: per target layer the source layer that it is, or -1 where it is new.
        copied: per target layer the source layer that it comes from or starts as a copy of; -1 where it is fresh.
        axis: what a layer is called.
        label: what readers of screens are told that it is.
        per_row: how many stand beside each other.
        fresh: what is said of a new layer that starts as a copy of none.
    """
    cell, gap, line = 29.0, 3.0, 58.0
    shapes = []
    for at, source in enumerate(origin):
        x, y = (at % per_row) * (cell + gap), (at // per_row) * line + 6
        if source >= 0:
            says = f"{axis} {at}: {axis} {source} of the source"
            shapes.append(
                mark(
                    element("rect", x=x, y=y, width=cell, height=26.0, rx=4.0, class_="k-copy"),
                    text(at, x + cell / 2, y + 17.5, "t t-copy"),
                    text(source, x + cell / 2, y + 39, "tick middle"),
                    says=says,
                )
            )
            continue
        start = copied[at]
        words = f"starts as a copy of {axis} {start} of the source" if start >= 0 else fresh
        parts = [
            element("rect", x=x, y=y, width=cell, height=26.0, rx=4.0, class_="k-new"),
            text(at, x + cell / 2, y + 17.5, "t t-new"),
            text("new", x + cell / 2, y + 39, "tick middle new-word"),
        ]
        if start >= 0 and at % per_row and origin[at - 1] == start:
            left = x - gap - cell / 2
            d = f"M{number(left)} {number(y - 1)}C{number(left + 5)} {number(y - 8)} {number(x + cell / 2 - 5)} "
            parts.append(
                element("path", d=f"{d}{number(y - 8)} {number(x + cell / 2)} {number(y - 1)}", class_="copied")
            )
        shapes.append(mark(*parts, says=f"{axis} {at}: new; {words}; writes zero at first"))
    rows = -(-len(origin) // per_row)
    width = min(len(origin), per_row) * (cell + gap)
    return picture(
        element("g", *shapes, transform="translate(1 4)"),
        width=max(width, 60.0),
        height=rows * line + 2,
        label=label,
        class_="depth-strip",
    )


__all__ = ["NARROW", "WIDE", "draw"]
