"""Blocks of a tensor as characters: a picture that needs no colours, in as many columns as there are."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from growformer.errors import RequestError, did_you_mean
from growformer.reporting.blocks import KINDS, Variant, instances_in_words
from growformer.reporting.matrix_picture import can_draw, drawn_dims
from growformer.reporting.numbers import share, whole
from growformer.reporting.strips import Strip, grid
from growformer.verification.recorded import Recorded

SIGNS = {"copy": "█", "rescaled": "▓", "sum": "+", "mean": "=", "constant": "~", "zero": "·", "free": "░"}
NAMES = {"copy": "source"}
WIDTH, HEIGHT, LOWEST = 56, 16, 1


@dataclass(frozen=True, slots=True)
class Sketch:
    """One making of a tensor.

    Attributes:
        title: which tensor, which instances, its shape.
        rows: lines of (kind, characters), each a run of one kind.
        legend: kind, sign, and how many values, for the kinds that occur.
        notes: where the picture is out of scale.
    """

    title: str
    rows: tuple[tuple[tuple[str, str], ...], ...]
    legend: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]


def matching(made: Mapping[str, Sequence[Variant]], pattern: str) -> list[str]:
    """Return the kinds of tensors that a pattern names: a whole name, the end of one, or a glob.

    Raises:
        RequestError: it names none.
    """
    found = [t for t in made if _names(t, pattern)]
    if not found:
        short = sorted({part for t in made for part in (t, _module(t), _module(t).rsplit(".", 1)[-1])})
        raise RequestError(
            f"no tensor is called {pattern!r} (* stands for any characters; growformer plan without --show lists what "
            f"becomes of each){did_you_mean(pattern, short)}"
        )
    return found


def _module(template: str) -> str:
    return template.removesuffix(".weight")


def _names(template: str, pattern: str) -> bool:
    import re

    wanted = re.sub(r"(?<=\.)\d+(?=\.)", "*", pattern)
    for name in (template, _module(template)):
        plain = re.sub(r"\{\w+\}", "*", name)
        for known in (name, plain):
            if known == wanted or known.endswith(f".{wanted}") or fnmatch.fnmatchcase(known, wanted):
                return True
            if fnmatch.fnmatchcase(known, f"*.{wanted}"):
                return True
    return False


def sketch(rec: Recorded, variant: Variant, width: int = WIDTH) -> Sketch:
    """Draw one making of a tensor in characters.

    Args:
        rec: the record.
        variant: the making.
        width: characters for the longest side that is drawn across.
    """
    where = instances_in_words(rec, variant)
    before = f"{_shape(variant.source_shape)} -> " if variant.source_shape not in (None, variant.shape) else ""
    new = " (new)" if variant.is_new else ""
    title = f"{variant.spec.template}{f', {where}{new}' if where else ''}: {before}{_shape(variant.shape)}"
    entries = variant.entries
    notes: list[str] = []
    legend = tuple(
        (kind, SIGNS[kind], f"{NAMES.get(kind, kind)} {whole(entries[kind])} ({share(entries[kind], variant.size)})")
        for kind in KINDS
        if entries.get(kind)
    )
    rows = tuple(_rows(variant, width, notes)) if can_draw(variant) else ()
    factors = dict.fromkeys(f"{NAMES.get(b.kind, b.kind)}: {b.note}" for b in variant.blocks if b.note)
    return Sketch(title, rows, legend, (*factors, *notes))


def _shape(shape: tuple[int, ...] | None) -> str:
    return " × ".join(f"{n:,}" for n in shape or ()) or "1"


def _rows(variant: Variant, width: int, notes: list[str]) -> list[tuple[tuple[str, str], ...]]:
    dims = drawn_dims(variant)
    shape = [variant.shape[d] for d in dims]
    blocks = [replace(b, region=tuple(b.region[d] for d in dims)) for b in variant.blocks]
    if len(dims) == 1:
        shape = [1, *shape]
        blocks = [replace(b, region=(slice(0, 1), *b.region)) for b in blocks]
    # A character is about twice as high as wide.
    across = min(width, max(8, round(2 * HEIGHT * shape[1] / shape[0]))) if len(dims) == 2 else width
    down = max(LOWEST, min(HEIGHT, round(across * shape[0] / shape[1] / 2))) if len(dims) == 2 else 1
    # Cells of strips in fine pixels, of which the middle of each character is looked at: a strip that is thinner is
    # drawn one character wide, so that nothing disappears.
    made = grid(blocks, (shape[0], shape[1]), (down * 1000.0, across * 1000.0))
    columns, is_wide = _sampled(made.columns, across)
    lines, is_high = _sampled(made.rows, down)
    if is_wide or is_high:
        notes.append("parts thinner than a character are drawn as one, or left to the legend")
    kinds = np.array([blocks[n].kind for n in range(len(blocks))], dtype=object)
    found = []
    for line in lines:
        runs: list[list[str]] = []
        for column in columns:
            kind = str(kinds[made.blocks[line, column]])
            if runs and runs[-1][0] == kind:
                runs[-1][1] += SIGNS[kind]
            else:
                runs.append([kind, SIGNS[kind]])
        found.append(tuple((kind, signs) for kind, signs in runs))
    return found


def _sampled(strips: Sequence[Strip], cells: int) -> tuple[list[int], bool]:
    """Return the kind of strip at every cell, each at least once where there is room, and whether any is thinner."""
    middles = (np.arange(cells) + 0.5) * 1000.0
    ends = np.array([s.start + s.length for s in strips])
    at = np.minimum(np.searchsorted(ends, middles, side="right"), len(strips) - 1)
    found = [strips[i].kind for i in at]
    missing = [s for s in strips if s.kind not in found]
    for strip in missing if len({s.kind for s in strips}) <= cells else ():
        place = min(int((strip.start + strip.length / 2) // 1000), cells - 1)
        if found.count(found[place]) > 1:
            found[place] = strip.kind
    return found, bool(missing) or len(strips) > cells


__all__ = ["SIGNS", "WIDTH", "Sketch", "matching", "sketch"]
