"""The state of a training run in a checkpoint of ``transformers``' Trainer, grown with its weights.

    optimizer.pt           grown: every slot follows the plan, by the name of its parameter
    region_updates.json    written: how what is new is updated, for ``RegionUpdatesCallback``
    trainer_state.json     carried; a best checkpoint so far, which has the source's sizes, is no longer named
    scheduler.pt, rng_state*.pth, scaler.pt, training_args.bin    carried: nothing in them has a size

Trainer goes on from the result with the same step, order of data and learning rate.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from growformer.errors import RequestError, SourceError, did_you_mean
from growformer.execute.class_shapes import build_model
from growformer.execute.live_plan import LiveParameter, live_plan
from growformer.execute.provenance import FILE as RECORD
from growformer.execute.saved_optimizer import OptimizerGrowth, load_plain, plan_optimizer, read_optimizer
from growformer.execute.side_files import OPTIMIZER, REGION_UPDATES, SCALER, SCHEDULER, TRAINER_STATE, sharded_state
from growformer.execute.slots import POLICIES
from growformer.planning.plan import Plan
from growformer.storage import disk
from growformer.storage.folder import ModelFolder
from growformer.storage.plain_json import read_json
from growformer.training.kinds import is_normalised
from growformer.training.region_file import SavedRegions, digest_of, read_regions, write_regions
from growformer.training.regions import grown_regions
from growformer.training.update_rules import UpdateRules

OMIT = "omit"
CHOICES = (*POLICIES, OMIT)
_WHOLE = "an optimizer.pt of a run that is not sharded"


def trainer_checkpoint(
    plan: Plan,
    source: ModelFolder,
    *,
    state: str | None = None,
    slots: Mapping[str, int] | None = None,
    updates: UpdateRules | None = None,
) -> TrainerCheckpoint | None:
    """Return what grows the training state of a folder; None where there is none, or it is to stay behind.

    Args:
        plan: made for this folder.
        source: the folder.
        state: ``carry``, ``zero-new``, ``drop`` or ``omit``; by default ``carry`` where there is an optimizer's state.
        slots: as for ``growformer.grow``.
        updates: likewise.

    Raises:
        RequestError: an unknown choice, or one for a folder that has no training state.
    """
    if state is not None and state not in CHOICES:
        raise RequestError(
            f"unknown state policy {state!r}: expected {', '.join(CHOICES)}{did_you_mean(state, CHOICES)}"
        )
    if state == OMIT and (slots is not None or updates is not None):
        raise RequestError(f"slots and updates say how a training state grows, which state={OMIT!r} leaves behind")
    present = [name for name in (TRAINER_STATE, OPTIMIZER) if os.path.lexists(source.path / name)]
    has_state = TRAINER_STATE in present and (OPTIMIZER in present or sharded_state(source) is not None)
    if state == OMIT or (state is None and slots is None and updates is None and not has_state):
        return None
    if not has_state:
        raise RequestError(
            f"{source.path}: no training state to grow: expected a checkpoint of Trainer, with {TRAINER_STATE} and "
            f"{OPTIMIZER}; found {' and '.join(present) or 'neither'}. Leave out state, slots and updates to grow the "
            "weights alone"
        )
    return TrainerCheckpoint(plan, source, state=state or "carry", slots=slots, updates=updates or UpdateRules())


class TrainerCheckpoint:
    """The training state of one folder; see ``execute.companion`` for what is asked of it, and when.

    Args:
        plan: made for this folder.
        source: the folder.
        state: ``carry``, ``zero-new`` or ``drop``.
        slots: name -> power of the gradient, for slots that torch's optimizers do not have.
        updates: how what is new and what is old is updated from then on.
    """

    def __init__(
        self,
        plan: Plan,
        source: ModelFolder,
        *,
        state: str,
        slots: Mapping[str, int] | None,
        updates: UpdateRules,
    ) -> None:
        self.files = frozenset({OPTIMIZER, REGION_UPDATES, TRAINER_STATE})
        self.notes: tuple[str, ...] = ()
        self._plan, self._source = plan, source
        self._state, self._slots, self._rules = state, slots, updates
        self._trainer_state: dict[str, Any] = {}
        self._looks: dict[Path, tuple[int, int]] = {}
        self._growth: OptimizerGrowth | None = None
        self._regions: SavedRegions | None = None

    def prepare(self) -> int:
        """Read and check everything; see ``execute.companion``.

        Raises:
            SourceError: a file cannot be read safely, or is of another step than the others.
            RequestError: the optimizer's state does not belong to the model, or cannot be grown.
        """
        home = self._source.path
        sharded = sharded_state(self._source)
        if sharded is not None:
            raise RequestError(
                f"{home / sharded}: the state of a sharded run (DeepSpeed, FSDP or another), which is not grown on "
                f"disk; expected {_WHOLE}. Grow in the running process instead, with growformer.grow(model, "
                "optimizer=...), or grow the weights alone with state='omit' (--optimizer-state omit): Trainer then "
                "starts the optimizer and its schedule anew"
            )
        self._looks = {home / n: _look(home / n) for n in (OPTIMIZER, SCHEDULER, TRAINER_STATE) if (home / n).exists()}
        self._trainer_state = read_json(home / TRAINER_STATE, "every checkpoint of Trainer has one", home=home)
        step = self._trainer_state.get("global_step")
        if type(step) is not int or step < 0:
            raise SourceError(f"{home / TRAINER_STATE}: global_step = {step!r}; expected a whole number from 0 on")
        live = live_plan(self._plan)
        saved = read_optimizer(home, OPTIMIZER, live.source)
        steps = saved.steps()
        notes = self._check_steps(step, len(saved.groups), max(steps.values(), default=None))
        self._growth = plan_optimizer(live, saved, state=self._state, slots=self._slots)
        before = SavedRegions("", step, 0, {})
        if (home / REGION_UPDATES).exists():
            config = dict(
                self._plan.source.config if self._plan.source.original is None else self._plan.source.original
            )
            before = read_regions(home, loaded_shapes(live.source, config))
            if before.global_step != step:
                raise SourceError(
                    f"{home / REGION_UPDATES}: of step {before.global_step}, and {TRAINER_STATE} of step {step}: it "
                    "belongs to another checkpoint. Take that of the same one, or remove it"
                )
        regions = grown_regions(
            live.plan, self._growth.grown, before.regions, self._rules, steps,
            state=self._state, now=before.steps, normalised=is_normalised(frozenset({saved.kind})),
        )  # fmt: skip
        model = digest_of(loaded_shapes(live.target, self._plan.target_config))
        self._regions = SavedRegions(model, step, before.steps, regions)
        self.notes = (*notes, *self._say(step, bool(regions)))
        return 2 * self._growth.num_bytes()  # once in memory that files hold, once in the output

    def _check_steps(self, step: int, groups: int, seen: int | None) -> list[str]:
        """Compare the steps that the files are of, and return what is worth a note."""
        home, notes = self._source.path, []
        name = home.resolve().name
        if name.startswith("checkpoint-") and name != f"checkpoint-{step}":
            notes.append(f"The folder is called {name}, and its {TRAINER_STATE} is of step {step}, which counts.")
        if not (home / SCHEDULER).exists():
            return [
                *notes,
                f"There is no {SCHEDULER}. Trainer loads optimizer and schedule together or not at all, so that it "
                "will start both anew.",
            ]
        schedule = load_plain(home, SCHEDULER)
        if not isinstance(schedule, dict) or not isinstance(schedule.get("base_lrs"), list):
            return notes  # one that does not follow steps, such as ReduceLROnPlateau
        done = schedule.get("last_epoch")
        if len(schedule["base_lrs"]) != groups:
            raise SourceError(
                f"{home / SCHEDULER}: of {len(schedule['base_lrs'])} groups of parameters, and {OPTIMIZER} has "
                f"{groups}: they are of different runs. Take both from the same checkpoint"
            )
        skips = (home / SCALER).exists()  # a scaler skips steps whose gradients are not finite
        if type(done) is not int or done > step or (done < step and not skips):
            raise _another_step(home / SCHEDULER, done, TRAINER_STATE, step)
        grown_before = any((home / file).exists() for file in (REGION_UPDATES, RECORD))
        if seen is not None and (seen > done or (seen < done and not grown_before)):
            raise _another_step(home / OPTIMIZER, seen, SCHEDULER, done)
        return notes

    def _say(self, step: int, regions: bool) -> list[str]:
        said = [
            f"Training goes on from step {step}: load the model from OUT, and call "
            "Trainer.train(resume_from_checkpoint=OUT) with the arguments of before."
        ]
        if self._trainer_state.get("best_model_checkpoint") is not None:
            said.append(
                f"The best checkpoint so far, {self._trainer_state['best_model_checkpoint']}, has the source's sizes; "
                f"{TRAINER_STATE} no longer names it, and keeps its metric."
            )
        if regions:
            said.append(
                f"How new and old regions are updated stands in {REGION_UPDATES}. "
                "growformer.RegionUpdatesCallback(OUT) among Trainer's callbacks keeps to it; without the callback, "
                "what is new inherits the optimizer's step count, and its first updates are of the wrong size: late "
                "in a run, several times too large."
            )
        return said

    def check_unchanged(self) -> None:
        """Look at the files again; see ``execute.companion``."""
        for file, before in self._looks.items():
            if not file.exists() or _look(file) != before:
                raise SourceError(f"{file}: changed while it was read. Run again when it is at rest")

    def write(self, folder: Path) -> dict[str, str]:
        """Write the grown files; see ``execute.companion``."""
        assert self._growth is not None
        assert self._regions is not None
        self._growth.write(folder, OPTIMIZER)
        write_regions(folder, self._regions)
        return {
            OPTIMIZER: f"grown: {self._state}",
            REGION_UPDATES: "written",
            TRAINER_STATE: self._write_trainer_state(folder),
        }

    def _write_trainer_state(self, folder: Path) -> str:
        best = {"best_model_checkpoint": None, "best_global_step": None}
        found = {name: None for name in best if self._trainer_state.get(name) is not None}
        if not found:
            disk.write_file(folder / TRAINER_STATE, (self._source.path / TRAINER_STATE).read_bytes())
            return "carried"
        content = {**self._trainer_state, **found}
        disk.write_file(folder / TRAINER_STATE, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
        return f"updated: {', '.join(found)} = null"


def _another_step(file: Path, found: Any, other: str, step: int) -> SourceError:
    return SourceError(
        f"{file}: of step {found!r}, and {other} of step {step}: they are of different checkpoints. Take all files "
        "from the same one; or grow the weights alone with state='omit' (--optimizer-state omit)"
    )


def loaded_shapes(planned: Sequence[LiveParameter], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters that a loaded model has: tables that its class computes are in no plan."""
    built, _ = build_model({name: value for name, value in config.items() if name != "auto_map"})
    assert built is not None  # the live plan has been made by it
    computed = {name: tuple(parameter.shape) for name, parameter in built.named_parameters()}
    return {**computed, **{parameter.name: parameter.shape for parameter in planned}}


def _look(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


__all__ = ["CHOICES", "TrainerCheckpoint", "loaded_shapes", "trainer_checkpoint"]
