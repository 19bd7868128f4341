"""Staged runs of ``transformers.Trainer``: one Trainer per size, each resumed from the grown checkpoint of the last.

    output_dir/
      checkpoint-400/     Trainer's own, as it stopped because a growth was due
      grown-400/          the same checkpoint grown; it appears whole or not at all
      checkpoint-500/     Trainer's own again, of the grown model

A run that was killed is continued by the same call: the newest whole checkpoint says how far it is, and the growth that
it may have been killed in is done again from the disk, with the same bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.errors import RequestError, SourceError
from growformer.execute.ranks import from_environment
from growformer.runs.callback import GrowthCallback
from growformer.runs.grown_stage import load_model, write_grown
from growformer.runs.planned import plan_schedule
from growformer.storage.plain_json import read_json
from growformer.training.growth_log import FILE, GrowthLog, begin_stage
from growformer.training.region_file import FILE as REGIONS
from growformer.training.schedule import GrowthSchedule
from growformer.training.trainer_callback import RegionUpdatesCallback

if TYPE_CHECKING:
    from torch import nn

TRAINER_STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands on the disk.

    Attributes:
        checkpoint: the newest whole one.
        log: how far it is.
    """

    checkpoint: Path
    log: GrowthLog


def train_in_stages(
    make_trainer: Callable[[nn.Module], Any],
    schedule: GrowthSchedule,
    model: nn.Module,
    *,
    sequence_length: int | None = None,
    measure: Callable[[nn.Module], float] | None = None,
) -> tuple[Any, GrowthLog]:
    """Train with ``transformers.Trainer`` and grow by a schedule; the same call goes on with a run that was stopped.

    Steps, learning-rate schedule, optimizer state, data order and random state go on through every growth: the next
    Trainer resumes from the grown checkpoint as it would from its own.

    Args:
        make_trainer: makes a Trainer for a model: always with the same arguments and data. It freezes what is not to
            be trained.
        schedule: when and what to grow.
        model: of the first size; taken for a fresh run only.
        sequence_length: tokens that attend to each other; with it and ``include_num_input_tokens_seen``, FLOPs are
            counted.
        measure: a loss on one batch, of the model in evaluation mode before and after each growth, for the log.

    Returns:
        The last Trainer, trained, and the growth log, which every checkpoint has as ``growth_log.json`` too.

    Raises:
        RequestError: a stage that cannot be met, or arguments of Trainer that do not go with growth. Nothing has been
            trained or written then.
        SourceError: a checkpoint of the run is broken.
    """
    trainer = make_trainer(model)
    ranks = from_environment()
    last = _last_step(trainer)
    _check_arguments(trainer.args, schedule, last)
    plans = plan_schedule(schedule, model)
    folder = Path(trainer.args.output_dir)
    standing = ranks.on_first(lambda: _newest(folder, schedule))
    if standing is not None:
        standing.log.follow(schedule, sequence_length)
    while True:
        if standing is not None:
            if standing.log.step >= last:
                return _finished(standing, make_trainer, model), standing.log
            if standing.log.due is not None:
                due, out = standing.checkpoint, _grown_folder(standing.checkpoint)
                write_grown(due, out, standing.log, like=model, measure=measure, ranks=ranks)
                standing = ranks.on_first(partial(_read, due, schedule))
            trainer = make_trainer(load_model(model, standing.checkpoint))
            log, checkpoint = standing.log, str(standing.checkpoint)
        else:
            log, checkpoint = GrowthLog(schedule, sequence_length), None
            begin_stage(log, plans[0], grown=False)
        trainer.add_callback(RegionUpdatesCallback(checkpoint))
        trainer.add_callback(GrowthCallback(log, trainer.callback_handler.callbacks))
        trainer.train(resume_from_checkpoint=checkpoint)
        if log.due is None or log.step >= last:
            return trainer, log
        standing = ranks.on_first(partial(_read, folder / f"checkpoint-{log.step}", schedule))


def _newest(folder: Path, schedule: GrowthSchedule) -> Standing | None:
    """Return the newest whole checkpoint of a run, grown where it has been grown; None where there is none."""
    found = [(int(m[1]), path) for path in folder.glob("checkpoint-*") if (m := _CHECKPOINT.fullmatch(path.name))]
    others = []
    for step, path in sorted(found, reverse=True):
        try:
            read_json(path / TRAINER_STATE, "Trainer writes it after all else")
        except SourceError:
            continue  # killed while it was written
        if (path / FILE).exists() and (path / REGIONS).exists():
            _refuse_left_over(folder, step)
            return _read(path, schedule)
        others.append(path)
    if others:
        raise RequestError(
            f"{others[0]} has no {FILE}: it is of a run without a schedule, or of one that was killed at its first "
            "checkpoint. Choose an output_dir of this run's own, or remove it"
        )
    _refuse_left_over(folder, -1)
    return None


def _refuse_left_over(folder: Path, step: int) -> None:
    """Refuse grown checkpoints that are newer than the run: what they were grown from is gone."""
    for path in sorted(folder.glob("grown-*")):
        number = path.name.removeprefix("grown-")
        if number.isdigit() and int(number) > step:
            raise RequestError(f"{path} is left over from a run whose checkpoint-{number} is gone; remove it first")


def _read(path: Path, schedule: GrowthSchedule) -> Standing:
    """Read how far a checkpoint is; where it has been grown, the grown one."""
    path = _grown_folder(path) if _grown_folder(path).is_dir() else path
    data = read_json(path / TRAINER_STATE, "every checkpoint of Trainer has one")
    log = GrowthLog.load(path)
    if data.get("global_step") != log.step:
        raise SourceError(
            f"{path}: {TRAINER_STATE} is of step {data.get('global_step')!r}, {FILE} of step {log.step}: they are of "
            "different checkpoints"
        )
    log.follow(schedule)
    return Standing(path, log)


def _finished(standing: Standing, make_trainer: Callable[[nn.Module], Any], model: nn.Module) -> Any:
    """Return the Trainer of a run that has come to its end: Trainer itself would take one step more."""
    trainer = make_trainer(load_model(model, standing.checkpoint))
    trainer.state = type(trainer.state).load_from_json(str(standing.checkpoint / TRAINER_STATE))
    return trainer


def _grown_folder(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name.replace("checkpoint-", "grown-"))


def _last_step(trainer: Any) -> int:
    """Return the step at which a Trainer's run ends."""
    args = trainer.args
    if args.max_steps > 0:
        return int(args.max_steps)
    batches = len(trainer.get_train_dataloader())
    steps = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    last: int = math.ceil(args.num_train_epochs * steps)
    return last


def _check_arguments(args: Any, schedule: GrowthSchedule, last: int) -> None:
    """Refuse arguments of Trainer with which growth would lose or miss something."""
    if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
        raise RequestError(
            "the checkpoints of FSDP and DeepSpeed have no optimizer.pt that grows on disk: grow the live model with "
            "growformer.grow(model, optimizer=...), or train with plain data parallelism"
        )
    if args.save_total_limit == 1:
        raise RequestError(
            "save_total_limit = 1: a run that is killed while it saves its one checkpoint has none left; keep 2 or more"
        )
    if args.save_only_model:
        raise RequestError("save_only_model leaves out the optimizer, without which a run cannot go on; turn it off")
    if args.load_best_model_at_end:
        raise RequestError(
            "load_best_model_at_end may load a checkpoint of another size, and so none at all; turn it off"
        )
    if args.ignore_data_skip:
        raise RequestError("ignore_data_skip would begin the data anew after every growth; turn it off")
    for number, stage in enumerate(schedule.stages):
        if stage.at_step is not None and last <= stage.at_step:
            raise RequestError(f"{schedule.title(number)}: the run ends at step {last}; grow earlier, or train longer")
        if stage.at_tokens is not None and str(args.include_num_input_tokens_seen) in ("no", "False"):
            raise RequestError(
                f"{schedule.title(number)}: Trainer counts no tokens; set include_num_input_tokens_seen='all'"
            )
        if stage.when_flat is not None:
            _check_logging(args, schedule.title(number))


def _check_logging(args: Any, title: str) -> None:
    if args.logging_strategy != "steps":
        raise RequestError(f"{title}: the loss is taken from Trainer's logs; set logging_strategy='steps'")
    if args.save_strategy == "steps" and args.save_steps % args.logging_steps:
        raise RequestError(
            f"{title}: a run resumed between two logs would see another loss; make save_steps = {args.save_steps:g} a "
            f"multiple of logging_steps = {args.logging_steps:g}"
        )


__all__ = ["train_in_stages"]
