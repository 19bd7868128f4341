"""Scheduled growth in a plain training loop: two calls per step, and the same optimizer throughout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.api import describe_source, grow, plan
from growformer.architecture.declaration import Architecture
from growformer.errors import OutputError, RequestError, SourceError
from growformer.runs.planned import plan_schedule
from growformer.sizing.flops import count_flops
from growformer.training.growth_log import GrowthEvent, GrowthLog, begin_stage, event_of
from growformer.training.region_file import SavedRegions, read_regions, write_regions
from growformer.training.regions import rekeyed
from growformer.training.schedule import GrowthSchedule, GrowthStage
from growformer.training.tensorboard import Writer, write_event
from growformer.training.updates import updates_of

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

    from growformer.execute.module import Build


class ScheduledGrowth:
    """Grows a model when its schedule says so, inside any training loop.

        run = growformer.ScheduledGrowth(schedule, model, optimizer)
        for batch in batches:
            loss = step(model, optimizer, batch)
            if run.after_step(loss=loss, tokens=batch.numel()):
                model = run.grow()

    The optimizer is the same object throughout, and so its learning-rate schedulers stay attached. All stages are
    planned when the run is made: one that cannot be met is refused before the first step.

    Args:
        schedule: when and what to grow.
        model: a ``transformers`` model, or any module with an ``architecture`` declaration. When a run is resumed: the
            grown one.
        optimizer: holds the model's parameters. When a run is resumed, load its own state as well.
        sequence_length: tokens that attend to each other; with it, FLOPs are counted.
        state: to resume a run: what ``state_dict`` gave, or the folder that ``save`` wrote to.
        architecture: the declaration of an own model.
        config: its config, where ``model.config.to_dict()`` does not give one; when a run is resumed, by default that
            of the last growth.
        build: makes a model from a config dictionary; by default the model's own class.
        writer: a TensorBoard ``SummaryWriter``, or anything with its ``add_scalar`` and ``add_text``.

    Attributes:
        model: the model as it is now.
        optimizer: the optimizer.
        log: how far the run is, and every growth so far.

    Raises:
        RequestError: a stage that cannot be met, or a state that belongs to another schedule or model.
        SourceError: the state cannot be read.
    """

    def __init__(
        self,
        schedule: GrowthSchedule,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        sequence_length: int | None = None,
        state: Mapping[str, Any] | str | Path | None = None,
        architecture: Architecture | None = None,
        config: Mapping[str, Any] | None = None,
        build: Build | None = None,
        writer: Writer | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self._architecture = architecture
        self._config = dict(config) if config is not None else None
        self._build = build
        self._writer = writer
        if state is None:
            self.log = GrowthLog(schedule, sequence_length)
            plans = plan_schedule(schedule, model, architecture=architecture, config=config, ask_class=build is None)
            begin_stage(self.log, plans[0], grown=False)
            updates_of(optimizer)
            return
        self.log = GrowthLog.load(state) if isinstance(state, (str, Path)) else GrowthLog.from_json(state["log"])
        self.log.follow(schedule, sequence_length)
        own = getattr(model, "config", None)
        if self._config is None and self.log.events and not hasattr(own, "to_dict"):
            self._config = dict(self.log.events[-1].plan["target_config"])
        self._check_model()
        if self.log.next_stage is not None:
            first = len(self.log.events)
            plan_schedule(
                schedule, model, architecture=architecture, config=self._config, first=first, ask_class=build is None
            )
        if isinstance(state, (str, Path)):
            self._read_regions(Path(state))
        else:
            updates_of(optimizer).load_state_dict(state["updates"])

    def after_step(self, *, loss: float | torch.Tensor | None = None, tokens: int | None = None) -> GrowthStage | None:
        """Count a step of the optimizer, and return the stage that is due now; call ``grow`` then.

        Args:
            loss: of the step; a tensor is read, which waits for its device. Needed where the next growth waits for the
                loss to flatten; wherever it is given, the log keeps its curve.
            tokens: of the step. Needed where the next growth comes at a number of tokens, and for FLOPs.

        Raises:
            RequestError: what the next stage needs is missing, or the growth that was due last time has been left out.
        """
        stage = self.log.next_stage
        if loss is None and stage is not None and stage.when_flat is not None:
            raise RequestError(f"{self.log.schedule.title(len(self.log.events))}: the loss is needed with every step")
        self.log.advance(tokens=tokens)
        if loss is not None:
            self.log.observe(loss if isinstance(loss, (float, int)) else float(loss.item()))
        return self.log.due

    def grow(self, measure: Callable[[nn.Module], float] | None = None) -> nn.Module:
        """Grow to the stage that is due; the optimizer then holds the grown model, which is returned.

        Args:
            measure: a loss on one batch; of the model before and after, for the log. Turn dropout off in it.

        Raises:
            RequestError: no growth is due. Nothing has changed then.
        """
        stage = self.log.due
        if stage is None:
            raise RequestError(f"no growth is due at step {self.log.step}: grow when after_step returns a stage")
        made = plan(self.model, architecture=self._architecture, config=self._config, **stage.request)
        before = measure(self.model) if measure is not None else None
        self.model, _ = grow(
            self.model,
            optimizer=self.optimizer,
            plan=made,
            state=stage.state,
            updates=stage.rules,
            build=self._build,
        )
        after = measure(self.model) if measure is not None else None
        event = event_of(self.log, made, loss_before=before, loss_after=after)
        self.log.record(event)
        begin_stage(self.log, made, grown=True)
        if self._config is not None:
            self._config = dict(made.target_config)
        if self._writer is not None:
            write_event(self._writer, event)
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """Return plain data from which the same schedule goes on: the log, and the updates of regions."""
        return {"log": self.log.to_json(), "updates": updates_of(self.optimizer).state_dict()}

    def save(self, folder: str | Path) -> None:
        """Write the state into a checkpoint's folder: ``growth_log.json`` and ``region_updates.json``.

        Raises:
            OutputError: they cannot be written.
        """
        updates = updates_of(self.optimizer)
        regions = updates.regions_of(self.model)
        file = self.log.save(folder)
        try:
            write_regions(file.parent, SavedRegions(self.log.step, updates.steps, regions))
        except OSError as error:
            raise OutputError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from None

    def _read_regions(self, folder: Path) -> None:
        parameters = dict(self.model.named_parameters())
        saved = read_regions(folder, {name: tuple(p.shape) for name, p in parameters.items()})
        if saved.global_step != self.log.step:
            raise SourceError(
                f"{folder}: the region updates are of step {saved.global_step}, the growth log of step "
                f"{self.log.step}; take both from the same checkpoint"
            )
        updates_of(self.optimizer).set_regions(saved.steps, rekeyed(saved.regions, parameters))

    def _check_model(self) -> None:
        """Refuse a model that is not of the sizes that the last growth made."""
        if not self.log.events:
            return
        found, info = describe_source(self.model, self._architecture, self._config)
        event = self.log.events[-1]
        refuse_other_sizes(found.resolve_config(info.sizes), event.sizes_after, f"growth {event.stage} made")
        if self.log.ledger is not None and self.log.ledger.stages[-1].flops != count_flops(found, info):
            raise SourceError("the growth log's ledger counts a model of other costs: it belongs to another run")


def refuse_other_sizes(sizes: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    """Refuse a model whose sizes are not those of a log.

    Raises:
        RequestError: they differ; the message names them.
    """
    differ = [n for n, value in expected.items() if _plain(sizes.get(n)) != _plain(value)]
    if differ:
        has, made = (", ".join(f"{n} = {of.get(n)}" for n in differ) for of in (sizes, expected))
        raise RequestError(f"the model has {has}, and {where} {made}: load the checkpoint that belongs to this log")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


__all__ = ["GrowthEvent", "ScheduledGrowth", "refuse_other_sizes"]
