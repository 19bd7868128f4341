"""``region_updates.json``: region updates beside the optimizers that they belong to, by the names of parameters.

Names are those that the model has without what wraps it, and so one file serves a run on one device and on many.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from growformer.errors import RequestError, SourceError, in_words
from growformer.storage import disk
from growformer.storage.plain_json import read_json
from growformer.training.optimizers import parameters_of
from growformer.training.regions import Followed, UpdateRegion, regions_from_json, regions_to_json, rekeyed
from growformer.training.updates import updates_of

FILE = "region_updates.json"
FORMAT = 2

Shapes = Mapping[str, tuple[int, ...]]
"""Name -> shape of all parameters of a model; those that share storage count once, under the first name."""


@dataclass(frozen=True, slots=True)
class SavedRegions:
    """Region updates as they are saved.

    Attributes:
        model: what ``digest_of`` says of the model: the names of one model may fit other layers of a deeper one.
        global_step: of the training run.
        steps: of the region updates, from which ages count; where there are several optimizers, the most of any.
        regions: name of a parameter -> its regions.
    """

    model: str
    global_step: int
    steps: int
    regions: Mapping[str, Sequence[Followed]]

    @staticmethod
    def of(global_step: int, optimizers: Sequence[Optimizer], model: nn.Module) -> SavedRegions:
        """Return the region updates of all optimizers of a model, with ages that count from the most steps of any."""
        parameters = parameters_of(model)
        names = {parameter: name for name, parameter in parameters.items()}
        steps = max(updates_of(optimizer).steps for optimizer in optimizers)
        regions: dict[str, Sequence[Followed]] = {}
        for optimizer in optimizers:
            updates = updates_of(optimizer)
            own = {parameter: updates.regions(parameter) for parameter in names}
            named = rekeyed({parameter: some for parameter, some in own.items() if some}, names)
            behind = steps - updates.steps
            regions |= {name: [_later(region, behind) for region in some] for name, some in named.items()}
        return SavedRegions(digest_of(shapes_of(model)), global_step, steps, regions)

    def give(self, optimizers: Sequence[Optimizer], model: nn.Module) -> None:
        """Give every optimizer of a model the regions of the parameters that it holds, in place of all that it has."""
        parameters = parameters_of(model)
        for optimizer in optimizers:
            held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
            own = {name: some for name, some in self.regions.items() if parameters[name] in held}
            updates_of(optimizer).set_regions(self.steps, rekeyed(own, parameters))

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "format": FORMAT,
            "model": self.model,
            "global_step": self.global_step,
            "steps": self.steps,
            "regions": regions_to_json(self.regions),
        }

    @staticmethod
    def from_json(data: Any, shapes: Shapes, where: str = FILE) -> SavedRegions:
        """Read what ``to_json`` gave.

        Args:
            data: plain data.
            shapes: of the model's parameters.
            where: its file, for messages.

        Raises:
            SourceError: it is something else.
            RequestError: it belongs to another model.
        """
        _check_head(data, where)
        if data["model"] != digest_of(shapes):
            raise RequestError(
                f"{where}: region updates of another model, whose parameters have other names or shapes than the "
                f"{len(shapes)} of this one; take the file of the checkpoint that the model is loaded from"
            )
        try:
            regions = regions_from_json(data["regions"], shapes)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise SourceError(f"{where}: not region updates of growformer: {in_words(error)}") from None
        return SavedRegions(data["model"], data["global_step"], data["steps"], regions)


def _later(region: Followed, steps: int) -> Followed:
    """Return a region as if it had come to be so many steps later; a fade counts its own steps."""
    return replace(region, born=region.born + steps) if isinstance(region, UpdateRegion) else region


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's parameters, those of shards as a whole."""
    return {name: tuple(parameter.shape) for name, parameter in parameters_of(model).items()}


def digest_of(shapes: Shapes) -> str:
    """Return the SHA-256 of the names and shapes of a model's parameters, in whatever order they come."""
    lines = sorted(f"{name} {list(shape)}\n" for name, shape in shapes.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_regions(folder: Path, shapes: Shapes) -> SavedRegions:
    """Read the region updates of a checkpoint.

    Args:
        folder: the checkpoint.
        shapes: of the parameters of its model.

    Raises:
        SourceError: there are none, or they are not what ``write_regions`` writes.
        RequestError: they belong to another model.
    """
    return SavedRegions.from_json(_read(folder), shapes, str(folder / FILE))


def origin_of(folder: Path) -> tuple[int, str] | None:
    """Return the step of the run at which a checkpoint's region updates were saved, and the digest of their model.

    None where there are none.

    Raises:
        SourceError: they are not what ``write_regions`` writes.
    """
    if not (folder / FILE).exists():
        return None
    data = _read(folder)
    _check_head(data, str(folder / FILE))
    return data["global_step"], data["model"]


def write_regions(folder: Path, saved: SavedRegions) -> None:
    """Write region updates into a checkpoint; in place of others, they are there as a whole at any time."""
    disk.replace_file(folder / FILE, (json.dumps(saved.to_json()) + "\n").encode())


def _read(folder: Path) -> Any:
    return read_json(folder / FILE, "growformer grow writes one beside optimizer.pt", home=folder)


def _check_head(data: Any, where: str) -> None:
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, Mapping) else type(data).__name__
        raise SourceError(f"{where}: region updates of format {found!r}; this version reads {FORMAT}")
    for name in ("global_step", "steps"):
        if type(data.get(name)) is not int or data[name] < 0:
            raise SourceError(f"{where}: {name} = {data.get(name)!r}; expected a whole number from 0 on")
    if not isinstance(data.get("model"), str):
        raise SourceError(f"{where}: model = {data.get('model')!r}; expected the SHA-256 of names and shapes")


__all__ = [
    "FILE",
    "SavedRegions",
    "digest_of",
    "origin_of",
    "read_regions",
    "shapes_of",
    "write_regions",
]
