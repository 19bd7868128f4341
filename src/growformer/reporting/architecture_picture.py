"""Draws a schematic: the residual stream from top to bottom, and what reads and writes it; one side at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from growformer.reporting.blocks import plural
from growformer.reporting.schematic import Heads, Part, Section, Size
from growformer.reporting.svg import element, mark, picture, text

WIDTH = 344.0
_LEFT, _BAND = 16.0, 34.0
"""Where the stream begins, and how wide the widest one is drawn."""
_BOX, _RIGHT = 86.0, WIDTH - 16
_ROOM = _RIGHT - _BOX - 24
"""Pixels for the widest MLP."""
_MOST_HEADS = 192


@dataclass(slots=True)
class _Canvas:
    side: int
    stream: float
    mlp: float
    y: float = 8.0
    behind: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)


def draw(sections: Sequence[Section], *, after: bool, label: str) -> Markup:
    """Draw a model before or after; what is new is in the colour, and the hatching, of what is new.

    Args:
        sections: of ``schematic``.
        after: which side.
        label: what readers of screens are told that it is.
    """
    widths = [v for s in sections for v in (s.stream.before, s.stream.after) if isinstance(v, int)]
    inner = [z.after for s in sections for p in s.parts for z in p.sizes if z.name == "width" and _is_int(z.after)]
    canvas = _Canvas(int(after), max(widths, default=1) or 1, max([int(v) for v in inner], default=1) or 1)
    for number, section in enumerate(sections):
        if section.axis is None:
            ends = number == len(sections) - 1 or (number and sections[number + 1].axis is not None)
            _once(canvas, section, is_last=bool(ends))
        else:
            _loop(canvas, section)
    return picture(*canvas.behind, *canvas.shapes, width=WIDTH, height=canvas.y + 4, label=label, class_="architecture")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _at(size: Size, side: int) -> int | str:
    return size.after if side else size.before


# The stream.


def _band(canvas: _Canvas, section: Section, top: float, bottom: float) -> None:
    """Draw the stream between two heights, what is new of it at its right."""
    before, after = section.stream.before, section.stream.after
    if not isinstance(before, int) or not isinstance(after, int):
        return
    total = after if canvas.side else before
    old = min(before, total) / canvas.stream * _BAND
    new = max(total - before, 0) / canvas.stream * _BAND
    height = bottom - top
    shapes = [element("rect", x=_LEFT, y=top, width=max(old, 1.5), height=height, class_="k-stream")]
    says = f"{section.stream.name}: {total:,}"
    if new:
        shapes.append(element("rect", x=_LEFT + old, y=top, width=new, height=height, class_="k-new"))
        says += f", of which {total - before:,} are new"
    canvas.behind.append(mark(*shapes, says=says))


def _middle(canvas: _Canvas, section: Section) -> float:
    size = _at(section.stream, canvas.side)
    return _LEFT + (size / canvas.stream * _BAND / 2 if isinstance(size, int) else 10)


# What is there once.


def _once(canvas: _Canvas, section: Section, *, is_last: bool) -> None:
    parts = [part for part in section.parts if part.kind != "aside"]
    for number, part in enumerate(parts):
        top = canvas.y
        if part.kind == "norm":
            canvas.shapes.append(_pill(part.title, 4.0, top + 8, says=f"{part.title}: {', '.join(part.modules)}"))
            canvas.y += 36
        else:
            words = " × ".join(f"{_shown(_at(s, canvas.side))}" for s in part.sizes)
            changed = canvas.side and any(s.before != s.after for s in part.sizes)
            names = " × ".join(s.name for s in part.sizes)
            canvas.shapes.append(
                mark(
                    element("rect", x=4.0, y=top + 4, width=_RIGHT - 4 + 8, height=32.0, rx=6.0, class_="box"),
                    text(part.title, 14, top + 24.5, "name"),
                    text(words, _RIGHT - 2, top + 24.5, "value end changed" if changed else "value end"),
                    says=f"{', '.join(part.modules)}: {names or 'one module'} {words}".strip(),
                )
            )
            canvas.y += 46
        if not is_last or number < len(parts) - 1:
            _band(canvas, section, top + 26, canvas.y + 6)


def _shown(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def _pill(words: str, x: float, y: float, says: str) -> str:
    width = 7.0 * len(words) + 16
    return mark(
        element("rect", x=x, y=y, width=width, height=19.0, rx=9.5, class_="pill"),
        text(words, x + width / 2, y + 13.2, "pill-text"),
        says=says,
    )


# Layers.


def _loop(canvas: _Canvas, section: Section) -> None:
    top = canvas.y
    count = section.count[canvas.side]
    canvas.y += 34
    axis = str(section.axis)
    for part in section.parts:
        _part(canvas, section, part)
    canvas.y += 4
    bottom = canvas.y
    frame = element("rect", x=4.0, y=top + 6, width=_RIGHT + 4, height=bottom - top - 6, rx=12.0, class_="loop")
    canvas.behind.append(frame)
    grown = canvas.side and section.count[0] != section.count[1]
    words = f"{count} {plural(axis, count)}"
    canvas.shapes.append(text(words, _RIGHT - 2, top + 25, "times end changed" if grown else "times end"))
    size = _at(section.stream, canvas.side)
    moved = canvas.side and section.stream.before != section.stream.after
    canvas.shapes.append(text(f"stream {_shown(size)}", _BOX, top + 25, "value changed" if moved else "value"))
    _band(canvas, section, top, bottom + 8)
    canvas.y += 8


def _part(canvas: _Canvas, section: Section, part: Part) -> None:
    top, x = canvas.y, _middle(canvas, section)
    if part.kind == "norm":
        canvas.shapes.append(_pill(part.title, 10.0, top + 4, says=", ".join(part.modules)))
        canvas.y += 34
        return
    y = top + 4
    if part.norm:
        words = part.norm
        canvas.shapes += [
            element("path", d=f"M{2 * x - _LEFT:g} {y + 9.5:g}H{_BOX:g}", class_="flow"),
            _pill(words, _BOX, y, says=f"reads {words} of the stream"),
            element("path", d=f"M{_BOX + 26:g} {y + 19:g}v9", class_="flow arrow"),
        ]
        y += 28
    else:
        canvas.shapes.append(element("path", d=f"M{2 * x - _LEFT:g} {y + 12:g}H{_BOX:g}", class_="flow"))
    lines = _wrapped(part, canvas.side)
    glyph, height = _glyph(canvas, part, _BOX + 12, y + 30 + 16 * len(lines))
    room = (36 if height else 28) + 16 * len(lines) + height
    box = [
        element("rect", x=_BOX, y=y, width=_RIGHT - _BOX, height=room, rx=7.0, class_="box"),
        text(part.title, _BOX + 12, y + 20, "name"),
    ]
    if part.notes[canvas.side]:
        box.append(text(part.notes[canvas.side], _RIGHT - 10, y + 20, "aside end"))
    for number, line in enumerate(lines):
        box.append(_line(line, _BOX + 12, y + 38 + 16 * number))
    canvas.shapes.append(mark(*box, says=_says(part, canvas.side)))
    canvas.shapes += glyph
    end = y + room - 11
    if part.kind != "other":
        canvas.shapes += [
            element("path", d=f"M{_BOX:g} {end:g}H{x + 7.5:g}", class_="flow"),
            element("circle", cx=x, cy=end, r=7.5, class_="plus"),
            element("path", d=f"M{x - 4:g} {end:g}h8M{x:g} {end - 4:g}v8", class_="plus-sign"),
        ]
    canvas.y = y + room + 10


def _wrapped(part: Part, side: int) -> list[list[tuple[str, bool]]]:
    """Return sizes in lines: (words, whether it has changed)."""
    lines: list[list[tuple[str, bool]]] = [[]]
    for size in part.sizes:
        value = _at(size, side)
        words = (
            f"{_shown(value)} {size.name}"
            if size.name.endswith(("heads", "experts"))
            else f"{size.name} {_shown(value)}"
        )
        if lines[-1] and sum(len(w) + 3 for w, _ in lines[-1]) + len(words) > 34:
            lines.append([])
        lines[-1].append((words, bool(side) and size.before != size.after))
    return [line for line in lines if line]


def _line(line: list[tuple[str, bool]], x: float, y: float) -> str:
    from html import escape

    spans = []
    for number, (words, changed) in enumerate(line):
        separator = " · " if number else ""
        spans.append(separator + element("tspan", escape(words), class_="changed" if changed else None))
    return element("text", *spans, x=x, y=y, class_="value")


def _says(part: Part, side: int) -> str:
    sizes = ", ".join(f"{s.name} {_shown(_at(s, side))}" for s in part.sizes)
    return f"{part.title}: {sizes}; {', '.join(part.modules)}"


def _glyph(canvas: _Canvas, part: Part, x: float, y: float) -> tuple[list[str], float]:
    if part.kind == "attention" and part.heads is not None:
        return _heads(part.heads, canvas.side, x, y)
    width = next((s for s in part.sizes if s.name == "width"), None)
    if width is None or not isinstance(width.after, int) or not isinstance(width.before, int):
        return [], 0.0
    total = width.after if canvas.side else width.before
    old = min(width.before, total) / canvas.mlp * _ROOM
    new = max(total - width.before, 0) / canvas.mlp * _ROOM
    shapes = [element("rect", x=x, y=y, width=max(old, 1.0), height=10.0, class_="k-copy")]
    if new:
        shapes.append(element("rect", x=x + old, y=y, width=new, height=10.0, class_="k-new"))
    says = f"width {total:,}" + (f", of which {total - width.before:,} are new" if new else "")
    return [mark(*shapes, says=says)], 10.0


def _heads(heads: Heads, side: int, x: float, y: float) -> tuple[list[str], float]:
    flags = heads.is_new if side else (False,) * heads.before
    group = max(heads.group[side], 1)
    if not flags or len(flags) > _MOST_HEADS:
        return [], 0.0
    most = max(len(heads.is_new), heads.before)
    size = 11.0 if most <= 24 else 8.0 if most <= 96 else 5.0
    gap, apart = 1.5, 5.0 if group > 1 else 0.0
    groups = [flags[i : i + group] for i in range(0, len(flags), group)]
    shapes: dict[bool, list[str]] = {False: [], True: []}
    at, row = 0.0, 0
    whole = group * (size + gap) + apart
    for members in groups:
        if at + min(whole, _ROOM) > _ROOM + apart and at:
            at, row = 0.0, row + 1
        for is_new in members:
            if at + size > _ROOM + 0.1:
                at, row = 0.0, row + 1
            place = {"x": x + at, "y": y + row * (size + 4), "width": size, "height": size}
            shapes[is_new].append(element("rect", **place, rx=1.5, class_="k-new" if is_new else "k-copy"))
            at += size + gap
        at += apart
    number = sum(flags)
    marks = [mark(*shapes[False], says=f"{len(flags) - number} heads of the source")]
    if number:
        marks.append(mark(*shapes[True], says=f"{number} new heads"))
    if group > 1:
        marks[0] = marks[0].replace("heads of the source", f"heads of the source; {group} share keys and values")
    return marks, math.ceil(row + 1) * (size + 4) - 4


__all__ = ["WIDTH", "draw"]
