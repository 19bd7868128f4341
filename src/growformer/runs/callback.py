"""A growth schedule inside ``transformers.Trainer``: steps, tokens and losses counted, a stop where growth is due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from growformer.training.growth_log import GrowthLog
from growformer.training.tensorboard import write_event


class GrowthCallback(TrainerCallback):  # type: ignore[misc]
    """Follows a growth log through a Trainer's run: counts, and saves and stops where a growth is due.

    Args:
        log: how far the run is; every checkpoint gets it as ``growth_log.json``, the last of its files.
        beside: the Trainer's callbacks, among which TensorBoard's may be.
    """

    def __init__(self, log: GrowthLog, beside: Sequence[Any] = ()) -> None:
        self.log = log
        self._beside = beside
        self._logged = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell TensorBoard of a growth that has just been."""
        self._logged = state.global_step
        if self.log.events and self.log.events[-1].step == state.global_step:
            for callback in self._beside:
                if getattr(callback, "tb_writer", None) is not None:
                    write_event(callback.tb_writer, self.log.events[-1])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step; stop after it has been saved, if a growth is due."""
        counts = str(args.include_num_input_tokens_seen) not in ("no", "False")
        tokens = int(state.num_input_tokens_seen) - self.log.tokens if counts else None
        self.log.advance(state.global_step - self.log.step, tokens)
        self._stop_if_due(state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Take the mean loss of the steps since the last one."""
        steps = state.global_step - self._logged
        if logs is None or "loss" not in logs or steps < 1:
            return
        self._logged = state.global_step
        self.log.observe(float(logs["loss"]), steps)
        self._stop_if_due(state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the growth log into the checkpoint that Trainer has just written."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self.log.save(folder)

    def _stop_if_due(self, state: Any, control: Any) -> None:
        if self.log.due is not None and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True


__all__ = ["GrowthCallback"]
