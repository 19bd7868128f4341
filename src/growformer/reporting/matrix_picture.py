"""Draws a weight matrix to scale, as the paper's figures do: what comes from the source, what is zero, what is free."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from markupsafe import Markup

from growformer.architecture.declaration import Dim, spaces_in
from growformer.errors import ArchitectureError
from growformer.reporting.blocks import Block, Variant
from growformer.reporting.numbers import share, whole
from growformer.reporting.strips import Grid, boxes, grid
from growformer.reporting.svg import element, mark, picture, rectangles, text
from growformer.verification.regions import show

LONGEST = 232.0
"""Pixels for the longest side that is cut into blocks; every kind of tensor has a scale of its own."""
UNCUT = 120.0
"""Pixels for the longest side of a tensor that is all of one kind."""
THINNEST = 18.0
"""Pixels for the smallest size: a vector, a router. It is out of scale."""
BROKEN = 150.0
"""Pixels for a longer side that is the same from end to end, such as a vocabulary. It is drawn broken off."""
TOP, SIDE = 16.0, 58.0
"""Pixels for the sizes above and at the right."""
NAMES = {
    "copy": "source", "rescaled": "rescaled", "sum": "sum", "mean": "mean", "constant": "constant", "zero": "0",
    "free": "free",
}  # fmt: skip
MEANINGS = {
    "copy": "the source's values, bit for bit",
    "rescaled": "the source's values times a factor, rounded once",
    "sum": "copies that add up to the source's values",
    "mean": "the mean of the source's values along the side that grew",
    "constant": "one number",
    "zero": "exactly zero, so that nothing new is heard",
    "free": "any value: nothing reads it yet, so it is fresh, or a copy of a neighbour",
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture of one making of a tensor.

    Attributes:
        svg: the picture.
        notes: in which ways it is out of scale.
        rows: what stands behind it, one row per block: kind, region, values, share, factor.
    """

    svg: Markup
    notes: tuple[str, ...]
    rows: tuple[tuple[str, str, str, str, str], ...]


def drawn_dims(variant: Variant) -> list[int]:
    """Return the dimensions that a picture shows; windows of convolutions and sizes of one are left out."""
    return [d for d, dim in enumerate(variant.spec.dims) if dim.role not in ("kernel", "unit")]


def can_draw(variant: Variant) -> bool:
    """Tell whether a tensor has one or two dimensions to show, and any values."""
    return bool(variant.size) and len(drawn_dims(variant)) in (1, 2)


def scale_of(makings: Iterable[Variant]) -> float:
    """Return pixels per coordinate for all makings of one tensor: what lets the longest side that is cut fit."""
    drawn = [(v, d) for v in makings if can_draw(v) for d in drawn_dims(v)]
    cut = {d for v, d in drawn if not all(_is_whole(block, d, v.shape[d]) for block in v.blocks)}
    return (LONGEST if cut else UNCUT) / max((v.shape[d] for v, d in drawn if d in cut or not cut), default=1)


def _is_whole(block: Block, dim: int, size: int) -> bool:
    along = block.region[dim]
    return isinstance(along, slice) and along == slice(0, size)


def draw(variant: Variant, scale: float, label: str) -> Drawn:
    """Draw one making of a tensor, which ``can_draw``.

    Args:
        variant: the making.
        scale: pixels per coordinate.
        label: what readers of screens are told that it is.
    """
    dims = drawn_dims(variant)
    shape = [variant.shape[d] for d in dims]
    blocks = [replace(b, region=tuple(b.region[d] for d in dims)) for b in variant.blocks]
    if len(dims) == 1:
        blocks = [replace(b, region=(slice(0, 1), *b.region)) for b in blocks]
        shape = [1, *shape]
    notes: list[str] = []
    pixels = [_pixels(blocks, shape, d, scale, notes) for d in (0, 1)]
    made = grid(blocks, (shape[0], shape[1]), (pixels[0][0], pixels[1][0]))
    notes += [
        f"{'rows' if d == 0 else 'columns'} too fine to see are drawn several together, in their true shares"
        for d in (0, 1)
        if made.gathered[d]
    ]
    source = variant.source_shape
    sizes = [source[d] if source is not None and len(source) == len(variant.shape) else None for d in dims]
    height, width = pixels[0][0], pixels[1][0]
    shown = [
        *_blocks(variant, boxes(made)),
        element("rect", x=0.0, y=0.0, width=width, height=height, class_="frame"),
        *(_break(d, pixels[1 - d][0], pixels[d][0]) for d in (0, 1) if pixels[d][1]),
        *_sizes(made, shape[1], sizes[-1], along=1, at=-5.0, broken=pixels[1][1]),
        *(_sizes(made, shape[0], sizes[0], along=0, at=width + 6, broken=pixels[0][1]) if len(dims) == 2 else ()),
    ]
    svg = picture(
        element("g", *shown, transform=f"translate(1 {TOP:g})"),
        width=width + 2 + SIDE,
        height=height + TOP + 2,
        label=label,
        class_="matrix",
    )
    return Drawn(svg, tuple(dict.fromkeys(notes)), tuple(_rows(variant)))


def _pixels(blocks: list[Block], shape: list[int], dim: int, scale: float, notes: list[str]) -> tuple[float, bool]:
    """Return how long a side is drawn, and whether it is broken off."""
    wanted = shape[dim] * scale
    side = "rows" if dim == 0 else "columns"
    if wanted < THINNEST:
        if shape[dim] > 1:
            notes.append(f"the {shape[dim]:,} {side} are drawn thicker than they are")
        return THINNEST, False
    if wanted <= LONGEST * 1.001:
        return wanted, False
    uniform = all(_is_whole(block, dim, shape[dim]) for block in blocks)
    if uniform:
        notes.append(f"the {whole(shape[dim])} {side} are all alike, and drawn broken off")
        return BROKEN, True
    notes.append(f"the {whole(shape[dim])} {side} are drawn closer together than elsewhere")
    return LONGEST, False


def _blocks(variant: Variant, found: dict[int, list[tuple[float, float, float, float]]]) -> list[str]:
    marks = []
    for number, block in enumerate(variant.blocks):
        where = found.get(number, [])
        if not where:
            continue
        shapes = [element("path", d=rectangles(where), class_=f"k-{block.kind}")]
        x, y, width, height = max(where, key=lambda box: min(box[2], 60) * min(box[3], 20))
        for words in (block.short, NAMES[block.kind]):
            if words and width >= 6.4 * len(words) + 6 and height >= 13:
                shapes.append(text(words, x + width / 2, y + height / 2 + 3.6, f"t t-{block.kind}"))
                break
        marks.append(mark(*shapes, says=_says(variant, block)))
    return marks


def _says(variant: Variant, block: Block) -> str:
    name = "source" if block.kind == "copy" else block.kind
    factor = f" ({block.note})" if block.note else ""
    part = share(block.num_entries, variant.size)
    return f"{name}{factor}: {show(block.region)}, {whole(block.num_entries)} values, {part} of the tensor"


def _rows(variant: Variant) -> Iterable[tuple[str, str, str, str, str]]:
    for block in variant.blocks:
        name = "source" if block.kind == "copy" else block.kind
        part = share(block.num_entries, variant.size)
        yield name, show(block.region), whole(block.num_entries), part, block.note or "–"


def _sizes(made: Grid, size: int, source: int | None, *, along: int, at: float, broken: bool) -> list[str]:
    """Return the sizes beside one side: ``576`` and ``+192`` where the new part lies behind the old one."""
    strips = made.columns if along else made.rows
    class_ = "size middle" if along else "size"

    def place(words: str, start: float, length: float) -> str:
        middle = start + length / 2
        if along and length < 7 * len(words):
            return text(words, start, at, "size")
        return text(words, middle, at, class_) if along else text(words, at, middle + 3.5, class_)

    whole_length = strips[-1].start + strips[-1].length
    if source is not None and source < size and not broken and len(strips) == 2 and strips[0].size == source:
        first, room = strips[0].length, 30 if along else 12
        if whole_length - first >= room and first >= room:
            return [place(f"{source:,}", 0.0, first), place(f"+{size - source:,}", first, whole_length - first)]
    return [place(f"{size:,}", 0.0, whole_length)]


def _break(dim: int, across: float, along: float) -> str:
    """Return two slanted lines through the middle of a side that is broken off."""
    middle = along * 0.74
    if dim == 0:
        path = f"M-4 {middle + 4:g}L{across + 4:g} {middle - 6:g}"
        other = f"M-4 {middle + 10:g}L{across + 4:g} {middle:g}"
    else:
        path = f"M{middle - 6:g} {across + 4:g}L{middle + 4:g} -4"
        other = f"M{middle:g} {across + 4:g}L{middle + 10:g} -4"
    return element("path", d=path, class_="gap") + element("path", d=path + other, class_="gap-edge")


def axes_in_words(dim: Dim) -> str:
    """Return the spaces of a dimension: ``q``; ``q, k, v`` where several lie side by side."""
    try:
        return ", ".join(dict.fromkeys(spaces_in(dim.term))) or str(dim.term)
    except ArchitectureError:
        return str(dim.term)


__all__ = ["MEANINGS", "NAMES", "Drawn", "axes_in_words", "can_draw", "draw", "drawn_dims", "scale_of"]
