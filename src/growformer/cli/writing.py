"""What ``grow`` and ``pad`` share: options on how to write, and writing with progress and the check afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from growformer.cli.options import RESULT, whole_number

if TYPE_CHECKING:
    from growformer.cli.request import Wanted
    from growformer.execute.checkpoint import GrownCheckpoint
    from growformer.execute.class_check import ClassCheck
    from growformer.execute.companion import Companion
    from growformer.execute.ranks import Ranks
    from growformer.verification.verification import Verification

Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=whole_number,
        rich_help_panel=RESULT,
        help="Threads that make and write. The bytes do not depend on it. Default: one more than cores, at most 8.",
    ),
]
KeepCode = Annotated[
    bool,
    typer.Option(
        "--keep-code",
        rich_help_panel=RESULT,
        help="Carry the source's .py files, unread, and the config's auto_map.",
    ),
]


class Stopped(Exception):
    """Ctrl-C while a checkpoint was written, with what is left of it, if anything."""


@contextmanager
def early_check(model: str, ranks: Ranks) -> Iterator[ClassCheck | None]:
    """Begin to import what the check of the target config needs, which takes longer than all that comes before it."""
    from growformer.execute.class_check import ClassCheck

    model_type = (
        _model_type(Path(model) if model.endswith(".json") else Path(model) / "config.json") if ranks.first else None
    )
    if model_type is None:
        yield None
        return
    with ClassCheck(model_type) as checking:
        yield checking


def _model_type(config: Path) -> str | None:
    """Return a config's model type if it is easily had; who reads the config properly says what is wrong with it."""
    try:
        found = json.loads(config.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) and found.isidentifier() else None


def write(
    wanted: Wanted,
    out: str,
    *,
    ranks: Ranks,
    checking: ClassCheck | None,
    threads: int | None,
    keep_code: bool,
    check: bool,
    shown: bool,
    companion: Companion | None = None,
) -> tuple[GrownCheckpoint, Verification | None]:
    """Write a checkpoint and compare its blocks with the source; of several ranks, the first one shows and compares."""
    from growformer.cli import render
    from growformer.execute.checkpoint import grow_folder

    assert wanted.folder is not None
    shown = shown and ranks.first
    try:
        with render.progress(shown) as advance:
            grown = grow_folder(
                wanted.plan,
                wanted.folder,
                out,
                dtype=wanted.dtype,
                max_shard_bytes=wanted.max_shard_bytes,
                threads=threads,
                keep_code=keep_code,
                progress=advance,
                checking=checking,
                estimated=_say if shown else None,
                companion=companion,
            )
    except KeyboardInterrupt as stopped:
        raise Stopped(*stopped.args) from None
    if not check or not ranks.first:
        return grown, None
    from growformer.api import verify

    with render.status("Comparing every block with the source", shown):
        return grown, verify(wanted.folder.path, grown.path, checks=["constraints"])


def _say(num_bytes: int, seconds: float) -> None:
    from growformer.cli import render

    text = f"Writing {render.num_bytes(num_bytes)} will take about {render.duration(seconds)} on this disk."
    render.console(stderr=True).print(text)


def resumed_notes(grown: GrownCheckpoint) -> list[str]:
    """Return what to say of an earlier, unfinished run."""
    return [f"{grown.resumed[0].upper()}{grown.resumed[1:]}."] if grown.resumed else []


def left_as_json(grown: GrownCheckpoint) -> dict[str, Any]:
    """Return what was written, as plain data."""
    return {
        "path": str(grown.path),
        "bytes": grown.num_bytes,
        "files": grown.files,
        "dropped": grown.dropped,
        "resumed": grown.resumed,
        "notes": list(grown.notes),
    }


__all__ = ["KeepCode", "Stopped", "Threads", "early_check", "left_as_json", "resumed_notes", "write"]
