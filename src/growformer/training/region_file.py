"""``region_updates.json``: region updates beside the optimizer that they belong to, by the names of parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growformer.errors import SourceError
from growformer.storage import disk
from growformer.storage.plain_json import read_json
from growformer.training.regions import Followed, regions_from_json, regions_to_json

FILE = "region_updates.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class SavedRegions:
    """Region updates as they were saved.

    Attributes:
        global_step: of the training run.
        steps: of the region updates, from which ages count.
        regions: name of a parameter -> its regions.
    """

    global_step: int
    steps: int
    regions: Mapping[str, Sequence[Followed]]


def read_regions(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> SavedRegions:
    """Read the region updates of a checkpoint.

    Args:
        folder: the checkpoint.
        shapes: name -> shape of all parameters of its model.

    Raises:
        SourceError: there are none, or they are not what ``write_regions`` writes.
        RequestError: they belong to another model.
    """
    data, file = _read(folder), folder / FILE
    try:
        return SavedRegions(data["global_step"], data["steps"], regions_from_json(data["regions"], shapes))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SourceError(f"{file}: not region updates of growformer: {type(error).__name__}: {error}") from None


def step_of(folder: Path) -> int | None:
    """Return the step of the run at which a checkpoint's region updates were saved; None where there are none.

    Raises:
        SourceError: they are not what ``write_regions`` writes.
    """
    return int(_read(folder)["global_step"]) if (folder / FILE).exists() else None


def write_regions(folder: Path, saved: SavedRegions) -> None:
    """Write region updates into a checkpoint; in place of others, they are there as a whole at any time."""
    data = {
        "format": FORMAT,
        "global_step": saved.global_step,
        "steps": saved.steps,
        "regions": regions_to_json(saved.regions),
    }
    disk.replace_file(folder / FILE, (json.dumps(data) + "\n").encode())


def _read(folder: Path) -> dict[str, Any]:
    file = folder / FILE
    data = read_json(file, "growformer grow writes one beside optimizer.pt", home=folder)
    if data.get("format") != FORMAT:
        raise SourceError(f"{file}: region updates of format {data.get('format')!r}; this version reads {FORMAT}")
    for name in ("global_step", "steps"):
        if type(data.get(name)) is not int or data[name] < 0:
            raise SourceError(f"{file}: {name} = {data.get(name)!r}; expected a whole number from 0 on")
    return data


__all__ = ["FILE", "SavedRegions", "read_regions", "step_of", "write_regions"]
