"""A Trainer's checkpoint, grown: weights, optimizer state and the state of the run, for the next Trainer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from growformer.api import grow, plan
from growformer.errors import OutputError, RequestError, SourceError
from growformer.runs.callback import NAME, saved_state
from growformer.storage import disk
from growformer.storage.folder import INDEX, WEIGHT_SUFFIXES
from growformer.storage.plain_json import read_json
from growformer.training.growth_log import FILE, GrowthLog, begin_stage, event_of
from growformer.training.updates import updates_of

if TYPE_CHECKING:
    from torch import nn

OPTIMIZER = "optimizer.pt"
TRAINER_STATE = "trainer_state.json"
_CARRIED = ("scheduler.pt", "scaler.pt", "training_args.bin")
"""Files of Trainer that do not depend on sizes, carried unread; and the random states, rng_state*.pth."""


def load_model(like: nn.Module, checkpoint: Path) -> nn.Module:
    """Load a checkpoint with the class, dtype and attention of another model.

    Raises:
        RequestError: the class cannot load checkpoints.
    """
    load = getattr(type(like), "from_pretrained", None)
    if load is None:
        raise RequestError(f"{type(like).__name__} has no from_pretrained: staged runs are for transformers models")
    attention = getattr(getattr(like, "config", None), "_attn_implementation", None)
    options = {"attn_implementation": attention} if attention is not None else {}
    dtype = next(like.parameters()).dtype
    loaded: nn.Module = load(str(checkpoint), dtype=dtype, use_safetensors=True, **options)
    return loaded


def write_grown(
    checkpoint: Path,
    out: Path,
    log: GrowthLog,
    updates: Mapping[str, Any],
    *,
    make_trainer: Callable[[nn.Module], Any],
    like: nn.Module,
    measure: Callable[[nn.Module], float] | None = None,
) -> None:
    """Write a grown checkpoint that Trainer resumes from; it appears whole or not at all.

    What it holds depends on the checkpoint and the schedule alone: done again, it is the same.

    Args:
        checkpoint: Trainer's own, of a run in which a growth is due.
        out: a folder that does not exist.
        log: how far the run is; the growth is recorded in it.
        updates: state of the region updates.
        make_trainer: makes a Trainer, whose optimizer is taken.
        like: a model of the run's class.
        measure: a loss on one batch, for the log.

    Raises:
        SourceError: the checkpoint has no optimizer state, or one that cannot be read safely.
        OutputError: the result cannot be written.
    """
    stage = log.due
    assert stage is not None  # asked before
    model = load_model(like, checkpoint)
    trainer = make_trainer(model)
    trainer.create_optimizer()
    optimizer = trainer.optimizer
    optimizer.load_state_dict(_read_optimizer(checkpoint / OPTIMIZER))
    updates_of(optimizer).load_state_dict(updates)
    model.eval()
    made = plan(model, **stage.request)
    before = _measured(measure, model)
    grown, _ = grow(model, optimizer=optimizer, plan=made, state=stage.state, updates=stage.rules)
    after = _measured(measure, grown)
    log.record(event_of(log, made, loss_before=before, loss_after=after))
    begin_stage(log, made, grown=True)
    state = read_json(checkpoint / TRAINER_STATE, "Trainer resumes from it")
    state |= {"best_metric": None, "best_global_step": None, "best_model_checkpoint": None}
    saved = saved_state(log, updates_of(optimizer).state_dict())
    state["stateful_callbacks"][NAME] = {"args": {}, "attributes": {"saved": saved}}
    part = out.with_name(out.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        grown.save_pretrained(str(part))
        for file in sorted(checkpoint.iterdir()):
            if _is_carried(file) and not (part / file.name).exists():
                shutil.copyfile(file, part / file.name)
        torch.save(optimizer.state_dict(), part / OPTIMIZER)
        log.save(part)
        disk.write_file(part / TRAINER_STATE, (json.dumps(state, indent=2) + "\n").encode())
        for file in part.iterdir():
            disk.sync_path(file)
        disk.sync_path(part)
        disk.rename(part, out)
        disk.sync_path(out.parent)
    except OSError as error:
        raise OutputError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from None


def _measured(measure: Callable[[nn.Module], float] | None, model: nn.Module) -> float | None:
    if measure is None:
        return None
    with torch.no_grad():
        return float(measure(model))


def _read_optimizer(file: Path) -> dict[str, Any]:
    """Read optimizer state; nothing in it is executed."""
    if not file.is_file():
        raise SourceError(f"{file}: missing; a run cannot go on without its optimizer state")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SourceError(f"{file}: cannot be read safely: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict):
        raise SourceError(f"{file}: expected the state of an optimizer, found {type(state).__name__}")
    return state


def _is_carried(file: Path) -> bool:
    """Tell whether a file of a checkpoint goes on as it is: what does not depend on sizes."""
    if file.is_symlink() or not file.is_file() or file.name in (FILE, TRAINER_STATE, OPTIMIZER, INDEX, "config.json"):
        return False
    if file.name in _CARRIED or file.name.startswith("rng_state"):
        return True
    return file.suffix not in (*WEIGHT_SUFFIXES, ".py") and not file.name.endswith(".index.json")


__all__ = ["load_model", "write_grown"]
