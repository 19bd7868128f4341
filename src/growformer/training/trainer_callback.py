"""Region updates inside ``transformers``' Trainer: read from the checkpoint it resumes from, saved with its own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from growformer.errors import SourceError
from growformer.training.region_file import (
    FILE,
    SavedRegions,
    digest_of,
    origin_of,
    read_regions,
    shapes_of,
    write_regions,
)
from growformer.training.updates import updates_of


class RegionUpdatesCallback(TrainerCallback):  # type: ignore[misc]
    """Keeps to ``region_updates.json`` when Trainer goes on from a grown checkpoint, and saves it with each checkpoint.

    Without it, Trainer goes on as well; what is new then shares the step count of what is old.

    Args:
        checkpoint: the folder that ``Trainer.train(resume_from_checkpoint=...)`` gets. It may stay when the run is
            resumed later: of this folder, ``args.resume_from_checkpoint`` and ``checkpoint-STEP`` in the output
            folder, the one counts whose region updates are of the model that Trainer has, and of the step that it is
            at. A run that starts at step 0 has none in the output folder.
    """

    def __init__(self, checkpoint: str | Path | None = None) -> None:
        self._checkpoint = checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach region updates to the optimizer, whose state Trainer has loaded by now.

        Raises:
            SourceError: the folder that was given has no region updates of this step and model, nor has another one.
        """
        optimizer, model = _innermost(kwargs["optimizer"]), kwargs["model"]
        updates_of(optimizer)
        shapes = shapes_of(model)
        folder = self._folder(args, state.global_step, digest_of(shapes))
        if folder is not None:
            read_regions(folder, shapes).give([optimizer], model)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write region updates into the checkpoint that Trainer has just written."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            optimizer = _innermost(kwargs["optimizer"])
            write_regions(folder, SavedRegions.of(state.global_step, [optimizer], kwargs["model"]))

    def _folder(self, args: Any, step: int, model: str) -> Path | None:
        """Return the folder with the region updates of a step and of a model, by its digest."""
        named = [self._checkpoint, args.resume_from_checkpoint]
        if step:  # one of step 0 may be of another run: nothing tells a fresh run from one that is resumed there
            named.append(Path(args.output_dir) / f"checkpoint-{step}")
        folders = [Path(folder) for folder in named if isinstance(folder, (str, Path))]
        found = {folder: origin_of(folder) for folder in folders}
        for folder, origin in found.items():
            if origin == (step, model):
                return folder
        if not step and self._checkpoint is None:
            return None  # a fresh run
        looked = ", ".join(f"{folder} ({_said(origin, step)})" for folder, origin in found.items())
        text = (
            f"no region updates of step {step}, from which Trainer goes on: looked in {looked}. Name the folder that "
            "it resumes from: RegionUpdatesCallback(FOLDER)"
        )
        if self._checkpoint is not None:
            raise SourceError(text)
        warnings.warn(f"{text}; until then, all that is trained shares the optimizer's step count", stacklevel=2)
        return None


def _said(origin: tuple[int, str] | None, step: int) -> str:
    """Return why region updates are not those that are looked for."""
    if origin is None:
        return f"no {FILE}"
    return f"of step {origin[0]}" if origin[0] != step else "of a model with other parameters"


def _innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer that takes the steps: accelerate wraps it in one that only passes calls on."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer  # type: ignore[attr-defined]
    return optimizer


__all__ = ["RegionUpdatesCallback"]
