"""A Trainer's checkpoint, grown as its schedule says, and the growth in its log: what the next Trainer starts from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from growformer.api import grow_checkpoint, plan
from growformer.errors import OutputError, RequestError
from growformer.execute.ranks import Ranks
from growformer.storage import disk
from growformer.storage.folder import open_folder
from growformer.training.growth_log import GrowthLog, begin_stage, event_of

if TYPE_CHECKING:
    from torch import nn

ALONE = Ranks()


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
    *,
    like: nn.Module,
    measure: Callable[[nn.Module], float] | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Write a grown checkpoint that Trainer resumes from; it appears whole or not at all.

    Several ranks all make this call, and share the work.

    What it holds depends on the checkpoint and the schedule alone: done again, it is the same.

    Args:
        checkpoint: Trainer's own, of a run in which a growth is due.
        out: a folder that does not exist.
        log: how far the run is; the growth is recorded in it, on the first rank.
        like: a model of the run's class.
        measure: a loss on one batch, for the log; the first rank asks it.
        ranks: the processes that train.

    Raises:
        GrowformerError: as ``growformer.grow_checkpoint``: the training state is missing, or cannot be grown or read
            safely.
        OutputError: the result cannot be written.
    """
    stage = log.due
    assert stage is not None  # asked before
    folder = open_folder(checkpoint)
    made = plan(folder, **stage.request)
    part = out.with_name(out.name + ".part")
    ranks.on_first(lambda: shutil.rmtree(part, ignore_errors=True))  # of a run that was killed
    grow_checkpoint(folder, part, plan=made, state=stage.state, updates=stage.rules)

    def publish() -> None:
        before, after = (_measured(measure, like, path) for path in (checkpoint, part))
        log.record(event_of(log, made, loss_before=before, loss_after=after))
        begin_stage(log, made, grown=True)
        log.save(part)
        try:
            disk.rename(part, out)
            disk.sync_path(out.parent)
        except OSError as error:
            raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from None

    ranks.on_first(publish)


def _measured(measure: Callable[[nn.Module], float] | None, like: nn.Module, path: Path) -> float | None:
    if measure is None:
        return None
    with torch.no_grad():
        return float(measure(load_model(like, path).to(next(like.parameters()).device).eval()))


__all__ = ["load_model", "write_grown"]
