"""A picture of a run: its loss, with every growth marked, as SVG, PNG or whatever matplotlib writes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from growformer.errors import OutputError, RequestError
from growformer.training.growth_log import GrowthEvent, GrowthLog

COLOURS = ("#1b6ca8", "#c8553d", "#4c8c4a", "#7b5ea7", "#8a6d3b")
_INK, _FAINT = "#333333", "#bbbbbb"


def plot_growth(
    logs: GrowthLog | str | Path | Mapping[str, GrowthLog | str | Path], out: str | Path, *, title: str | None = None
) -> Path:
    """Write a picture of the loss over steps, with a numbered mark where each growth was; below it, what grew.

    Needs matplotlib: ``pip install growformer[plot]``.

    Args:
        logs: a growth log, or where it is; or several by name, to be compared.
        out: a file whose suffix says the format: ``.svg``, ``.png``, ``.pdf``. One that exists is replaced.
        title: above the picture.

    Raises:
        RequestError: matplotlib is missing, a log has no losses, or the format is unknown.
        SourceError: a log cannot be read.
        OutputError: the file cannot be written.
    """
    out = Path(out)
    named = dict(logs) if isinstance(logs, Mapping) else {"": logs}
    read = {name: log if isinstance(log, GrowthLog) else GrowthLog.load(log) for name, log in named.items()}
    for name, log in read.items():
        if not log.curve.points():
            raise RequestError(f"the growth log{' ' + name if name else ''} has no losses: pass loss= to after_step")
    figure, axes = _figure(out)
    lines = 0
    for number, (name, log) in enumerate(read.items()):
        lines = _draw(axes, name, log, COLOURS[number % len(COLOURS)], lines)
    axes.set_xlabel("optimizer steps", color=_INK)
    axes.set_ylabel("loss", color=_INK)
    if title is not None:
        axes.set_title(title, loc="left", color=_INK, fontsize=11, pad=24)
    if len(read) > 1:
        axes.legend(frameon=False, loc="lower left")
    try:
        # No date and a fixed salt, so that the same log gives the same file.
        figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, bbox_inches="tight", dpi=150)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from None
    return out


def _figure(out: Path) -> tuple[Any, Any]:
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise RequestError("a plot needs matplotlib; install it with pip install growformer[plot]") from None
    figure = Figure(figsize=(8, 4.2))
    known = sorted(FigureCanvasAgg(figure).get_supported_filetypes())
    if out.suffix.removeprefix(".") not in known:
        raise RequestError(f"{out}: unknown format {out.suffix!r}; expected one of {', '.join(known)}")
    matplotlib.rcParams["svg.hashsalt"] = "growformer"
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    return figure, axes


def _draw(axes: Any, name: str, log: GrowthLog, colour: str, lines: int) -> int:
    """Draw one run, its marks, and a line under the picture for each; returns the lines that there are then."""
    steps, losses = zip(*log.curve.points(), strict=True)
    axes.plot(steps, losses, color=colour, linewidth=1.4, label=name or None)
    for event in log.events:
        axes.axvline(event.step, color=colour, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.8)
        box = {"boxstyle": "circle,pad=0.25", "facecolor": colour, "edgecolor": "none"}
        where = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
        axes.annotate(str(event.stage), (event.step, 1.02), fontsize=8, color="white", bbox=box, **where)
        words = f"{event.stage}  {name + ', ' if name else ''}{_words(event)}"
        under = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "left", "va": "top"}
        for text in textwrap.wrap(words, 88, subsequent_indent="    "):
            axes.annotate(text, (0, 0), xytext=(0, -38 - 13 * lines), fontsize=8.5, color=colour, **under)
            lines += 1
    return lines


def _words(event: GrowthEvent) -> str:
    changed = [
        f"{name} {event.sizes_before[name]} → {size}"
        for name, size in event.sizes_after.items()
        if isinstance(size, int) and event.sizes_before.get(name) not in (None, size)
    ]
    ratio = event.parameters_after / event.parameters_before
    return ", ".join([f"step {event.step:,}: × {ratio:.2f} parameters", *changed])


__all__ = ["plot_growth"]
