"""Region updates inside ``transformers``' Trainer: read from the checkpoint it resumes from, saved with its own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from growformer.errors import SourceError
from growformer.training.region_file import FILE, SavedRegions, read_regions, step_of, write_regions
from growformer.training.regions import rekeyed
from growformer.training.updates import updates_of


class RegionUpdatesCallback(TrainerCallback):  # type: ignore[misc]
    """Keeps to ``region_updates.json`` when Trainer goes on from a grown checkpoint, and saves it with each checkpoint.

    Without it, Trainer goes on as well; what is new then shares the step count of what is old.

    Args:
        checkpoint: the folder that ``Trainer.train(resume_from_checkpoint=...)`` gets. It may stay when the run is
            resumed later: of this folder, ``args.resume_from_checkpoint`` and ``checkpoint-STEP`` in the output
            folder, the one counts whose region updates are of the step that Trainer is at.
    """

    def __init__(self, checkpoint: str | Path | None = None) -> None:
        self._checkpoint = checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach region updates to the optimizer, whose state Trainer has loaded by now.

        Raises:
            SourceError: the folder that was given has no region updates of this step, nor has another one.
            RequestError: they belong to another model.
        """
        updates = updates_of(_innermost(kwargs["optimizer"]))
        if state.global_step == 0:
            return
        folder = self._folder(args, state.global_step)
        if folder is None:
            return
        parameters = dict(kwargs["model"].named_parameters())
        saved = read_regions(folder, {name: tuple(p.shape) for name, p in parameters.items()})
        updates.set_regions(saved.steps, rekeyed(saved.regions, parameters))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write region updates into the checkpoint that Trainer has just written."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if not state.is_world_process_zero or not folder.is_dir():
            return
        updates = updates_of(_innermost(kwargs["optimizer"]))
        regions = updates.regions_of(kwargs["model"])
        write_regions(folder, SavedRegions(state.global_step, updates.steps, regions))

    def _folder(self, args: Any, step: int) -> Path | None:
        """Return the folder with the region updates of a step."""
        named = [self._checkpoint, args.resume_from_checkpoint, Path(args.output_dir) / f"checkpoint-{step}"]
        folders = [Path(folder) for folder in named if isinstance(folder, (str, Path))]
        found = {folder: step_of(folder) for folder in folders}
        for folder, at in found.items():
            if at == step:
                return folder
        looked = ", ".join(
            f"{folder} ({'no ' + FILE if at is None else f'of step {at}'})" for folder, at in found.items()
        )
        text = (
            f"no region updates of step {step}, from which Trainer goes on: looked in {looked}. Name the folder that "
            "it resumes from: RegionUpdatesCallback(FOLDER)"
        )
        if self._checkpoint is not None:
            raise SourceError(text)
        warnings.warn(f"{text}; until then, all that is trained shares the optimizer's step count", stacklevel=2)
        return None


def _innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer that takes the steps: accelerate wraps it in one that only passes calls on."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer  # type: ignore[attr-defined]
    return optimizer


__all__ = ["RegionUpdatesCallback"]
