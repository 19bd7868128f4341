"""A growth schedule inside ``transformers.Trainer``: steps, tokens and losses counted, a stop where growth is due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from growformer.training.growth_log import GrowthLog
from growformer.training.schedule import GrowthSchedule
from growformer.training.tensorboard import write_event
from growformer.training.updates import updates_of

NAME = "GrowthCallback"
"""The key of its state in ``trainer_state.json``."""


class GrowthCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Follows a growth log through a Trainer's run: counts, and saves and stops where a growth is due.

    Its state is part of ``trainer_state.json``, and so as old as the checkpoint; ``growth_log.json`` beside it is for
    readers.

    Args:
        log: how far the run is. Left out only by Trainer, when it restores callbacks.
        updates: state of the region updates, for the optimizer that the Trainer makes.
        beside: the Trainer's callbacks, among which TensorBoard's may be.
    """

    def __init__(
        self, log: GrowthLog | None = None, updates: Mapping[str, Any] | None = None, beside: Sequence[Any] = ()
    ) -> None:
        self.log = log
        self._updates = updates
        self._beside = beside
        self._optimizer: torch.optim.Optimizer | None = None
        self._logged = 0

    def state(self) -> dict[str, Any]:
        """Return what Trainer writes to ``trainer_state.json``."""
        updates = updates_of(self._optimizer).state_dict() if self._optimizer is not None else self._updates
        return {"args": {}, "attributes": {"saved": saved_state(self._own, updates)}}

    @property
    def saved(self) -> dict[str, Any]:
        """The state as plain data."""
        found: dict[str, Any] = self.state()["attributes"]["saved"]
        return found

    @saved.setter
    def saved(self, data: Mapping[str, Any]) -> None:
        self.log, self._updates = GrowthLog.from_json(data["log"]), data["updates"]

    @property
    def _own(self) -> GrowthLog:
        assert self.log is not None  # given, or restored
        return self.log

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach the region updates to the optimizer, and tell TensorBoard of a growth that has just been."""
        optimizer = kwargs["optimizer"]
        while hasattr(optimizer, "optimizer"):  # as accelerate wraps it
            optimizer = optimizer.optimizer
        self._optimizer = optimizer
        if self._updates is not None:
            updates_of(optimizer).load_state_dict(self._updates)
        self._logged = state.global_step
        if self._own.events and self._own.events[-1].step == state.global_step:
            for callback in self._beside:
                if getattr(callback, "tb_writer", None) is not None:
                    write_event(callback.tb_writer, self._own.events[-1])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step; stop after it has been saved, if a growth is due."""
        counts = str(args.include_num_input_tokens_seen) not in ("no", "False")
        tokens = int(state.num_input_tokens_seen) - self._own.tokens if counts else None
        self._own.advance(state.global_step - self._own.step, tokens)
        self._stop_if_due(state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Take the mean loss of the steps since the last one."""
        steps = state.global_step - self._logged
        if logs is None or "loss" not in logs or steps < 1:
            return
        self._logged = state.global_step
        self._own.observe(float(logs["loss"]), steps)
        self._stop_if_due(state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the growth log beside the checkpoint."""
        if args.should_save:
            self._own.save(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def _stop_if_due(self, state: Any, control: Any) -> None:
        if self._own.due is not None and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True


def saved_state(log: GrowthLog, updates: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the state of a callback as plain data."""
    return {"log": log.to_json(), "updates": updates}


def read_state(
    data: Mapping[str, Any], schedule: GrowthSchedule, where: str
) -> tuple[GrowthLog, Mapping[str, Any]] | None:
    """Return the log and the region updates in a ``trainer_state.json``, or None where it has none.

    Raises:
        SourceError: the log is broken.
        RequestError: the schedule says something else of a growth that has happened.
    """
    entry = (data.get("stateful_callbacks") or {}).get(NAME)
    entry = entry[0] if isinstance(entry, list) else entry
    saved = (entry or {}).get("attributes", {}).get("saved")
    if not isinstance(saved, Mapping):
        return None
    log = GrowthLog.from_json(saved.get("log"), where)
    log.follow(schedule)
    return log, saved.get("updates") or {"steps": 0, "regions": {}}


__all__ = ["NAME", "GrowthCallback", "read_state", "saved_state"]
