"""Prints tables, text and progress: as wide as the terminal, never wrapped in a pipe.

User text is never markup, and never a command to the terminal: names of tensors and files, config values and messages
may come from a checkpoint that somebody else made, and pass through ``escaped`` before they are printed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from growformer.reporting.terminal import Sketch

UNWRAPPED = 10_000
_UNUSUAL = re.compile(r"[^\x20-\x7e]")
_NO_BREAK = "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}"


def escaped(text: str, *, keep: str = "\n") -> str:
    r"""Return text whose control characters are spelled out: ``\x1b``, ``\u202e``.

    Those are what moves the cursor, changes colours or titles, or turns the direction of what follows: Unicode's
    categories Cc, Cf, Cs, Zl and Zp, without the joiners that Persian, Indic words and emoji are written with.
    """
    return _UNUSUAL.sub(lambda match: match[0] if match[0] in keep else _spelled(match[0]), text)


def _spelled(character: str) -> str:
    from unicodedata import category

    if category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in "\u200c\u200d":
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def say(text: str) -> None:
    """Print a text as it stands, escaped."""
    print(escaped(text))


def console(*, stderr: bool = False) -> Console:
    """Return where to print: a terminal at its own width, or a pipe in which no line is broken."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else UNWRAPPED
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = (), header: bool = True
) -> None:
    """Print rows under a header; the last column wraps, all others stay whole.

    Args:
        columns: their titles.
        rows: one text per column.
        numbers: titles of columns that are aligned to the right.
        header: whether to print the titles.
    """
    from rich.table import Table
    from rich.text import Text

    out = console()
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=header)
    for i, title in enumerate(columns):
        grid.add_column(
            title, justify="right" if title in numbers else "left", no_wrap=i != len(columns) - 1, overflow="fold"
        )
    for row in rows:
        grid.add_row(*(Text(escaped(cell, keep="")) for cell in row))
    _print_stripped(out, grid)


def _print_stripped(out: Console, renderable: Any) -> None:
    """Print without blanks at the ends of lines, which would wrap when a terminal is made narrower, or fill a file."""
    with out.capture() as capture:
        out.print(renderable)
    for line in capture.get().splitlines():
        print(line.rstrip() if not out.is_terminal else line)


def heading(text: str) -> None:
    """Print a blank line and a title."""
    console().print(f"\n{escaped(text)}", style="bold")


def lines(texts: Sequence[str], *, indent: int = 2) -> None:
    """Print texts, each wrapped with a hanging indent on a terminal and whole in a pipe."""
    for text in texts:
        print(_wrapped(text, indent, indent + 2))


def paragraph(text: str) -> None:
    """Print a paragraph, wrapped on a terminal."""
    print(_wrapped(text, 0, 0))


def _wrapped(text: str, first: int, others: int) -> str:
    """Return text at the output's width; names, paths and products such as ``2 × 3`` stay whole."""
    return textwrap.fill(
        escaped(text, keep="\n\t").replace(" × ", _NO_BREAK),
        console().width,
        initial_indent=" " * first,
        subsequent_indent=" " * others,
        break_long_words=False,
        break_on_hyphens=False,
    ).replace(_NO_BREAK, " × ")


_COLOURS = {"copy": "blue", "rescaled": "cyan", "sum": "magenta", "mean": "green", "zero": "dim", "free": "yellow"}
"""Of blocks; each has a sign of its own besides."""


def blocks(sketches: Sequence[Sketch]) -> None:
    """Print pictures of tensors' blocks, each with its legend; colours add to them, and are not needed."""
    from rich.text import Text

    out = console()
    for number, sketch in enumerate(sketches):
        if number:
            print()
        print(_wrapped(sketch.title, 0, 2))
        for row in sketch.rows:
            out.print(Text.assemble("  ", *((signs, _COLOURS.get(kind, "")) for kind, signs in row)), soft_wrap=True)
        for kind, sign, words in sketch.legend:
            out.print(Text.assemble("  ", (sign, _COLOURS.get(kind, "")), f" {words}"), soft_wrap=True)
        lines(sketch.notes)


def print_json(data: Any) -> None:
    """Print data as JSON; what JSON would let through to a terminal is spelled as JSON spells it."""
    text = json.dumps(data, indent=2, ensure_ascii=False)  # line breaks stand between values only
    print(_UNUSUAL.sub(lambda c: c[0] if c[0] == "\n" or _spelled(c[0]) == c[0] else json.dumps(c[0])[1:-1], text))


def model_title(location: str, architecture: str, config: Mapping[str, Any]) -> str:
    """Return a model's name with its family and class: ``SmolLM2-135M (llama, LlamaForCausalLM)``."""
    kinds = [architecture, *(config.get("architectures") or [])]
    return f"{location} ({', '.join(map(str, kinds))})"


def count(number: int | float) -> str:
    """Return a number for a table: ``134.5M``."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return f"{number:g}"


def num_bytes(number: int | float) -> str:
    """Return a size for a table, in decimal units as disks and hubs count: ``538.1 MB``."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number:g} bytes"


def duration(seconds: float) -> str:
    """Return a time in words: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def value(found: Any) -> str:
    """Return a config value for a table cell: short lists whole, others by what they hold."""
    if isinstance(found, list):
        distinct = list(dict.fromkeys(map(str, found)))
        if len(found) <= 4:
            return f"[{', '.join(map(str, found))}]"
        return f"{len(found)} entries" + (f" of {distinct[0]}" if len(distinct) == 1 else "")
    if isinstance(found, dict):
        theta = found.get("rope_theta")
        return f"theta {theta:.8g}" if isinstance(theta, (int, float)) else "…"
    if found is None:
        return "–"
    return f"{found:.8g}" if isinstance(found, float) else str(found)


@contextmanager
def progress(shown: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """Show bytes and the tensor at hand on stderr while a checkpoint is written; yields what to call, or None."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    name = TextColumn(
        "{task.description}", markup=False, table_column=Column(ratio=2, no_wrap=True, overflow="ellipsis")
    )
    bar = Progress(
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        DownloadColumn(),
        TimeRemainingColumn(compact=True),
        name,
        console=console(stderr=True),
        transient=True,
        expand=True,
    )
    with bar:
        task = bar.add_task("", total=None)

        def advance(done: int, total: int, tensor: str) -> None:
            bar.update(task, completed=done, total=total, description=escaped(tensor, keep=""))

        yield advance


@contextmanager
def status(text: str, shown: bool) -> Iterator[Callable[[str], None]]:
    """Show that something is at work, on stderr where that is a terminal; yields what changes the text."""
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    with console(stderr=True).status(escaped(text)) as shown_status:
        yield lambda now: shown_status.update(escaped(now))
