"""Scheduled growth in a plain training loop: two calls per step, and the same optimizer throughout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.api import describe_source, grow, plan
from growformer.architecture.declaration import Architecture
from growformer.errors import OutputError, RequestError, SourceError
from growformer.execute.data_parallel import check_wrapper, unwrapped
from growformer.execute.distributed import is_distributed
from growformer.execute.optimizer import check_optimizers
from growformer.runs.planned import check_growth, plan_schedule
from growformer.sizing.flops import count_flops
from growformer.training.growth_log import GrowthEvent, GrowthLog, begin_stage, event_of
from growformer.training.optimizers import listed, warn_of_left_out
from growformer.training.region_file import SavedRegions, read_regions, shapes_of, write_regions
from growformer.training.schedule import GrowthSchedule, GrowthStage
from growformer.training.tensorboard import Writer, write_event
from growformer.training.updates import updates_of

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

    from growformer.execute.distributed import Parallelize
    from growformer.execute.module import Build
    from growformer.planning.plan import Plan


class ScheduledGrowth:
    """Grows a model when its schedule says so, inside any training loop.

        run = growformer.ScheduledGrowth(schedule, model, optimizer)
        for batch in batches:
            loss = step(model, optimizer, batch)
            if run.after_step(loss=loss, tokens=batch.numel()):
                model = run.grow()

    The optimizer is the same object throughout, and so its learning-rate schedulers stay attached. All stages are
    planned when the run is made: one that cannot be met is refused before the first step.

    A run may be saved between ``after_step`` and ``grow``. When it is resumed, ``due`` is the stage that is still to be
    grown, before the next step:

        run = growformer.ScheduledGrowth(schedule, model, optimizer, state=folder)
        if run.due:
            model = run.grow()

    Args:
        schedule: when and what to grow.
        model: a ``transformers`` model, or any module with an ``architecture`` declaration. When a run is resumed: the
            grown one.
        optimizer: holds the model's parameters; or several that do so together, such as Muon and AdamW. When a run is
            resumed, load their own state as well.
        sequence_length: tokens that attend to each other; with it, FLOPs are counted.
        state: to resume a run: what ``state_dict`` gave, or the folder that ``save`` wrote to.
        architecture: the declaration of an own model.
        config: its config, where ``model.config.to_dict()`` does not give one; when a run is resumed, by default that
            of the last growth.
        build: makes a model from a config dictionary; by default the model's own class.
        slots: name of a slot that torch's optimizers do not have -> the power of the gradient that it averages.
        parallelize: shards the grown model, as for ``growformer.grow``. A model that ``fully_shard`` spread over ranks
            needs it; every rank makes all calls but ``save``, which is for one of them.
        writer: a TensorBoard ``SummaryWriter``, or anything with its ``add_scalar`` and ``add_text``.

    Attributes:
        model: the model as it is now.
        optimizers: all that were given.
        log: how far the run is, and every growth so far.

    Raises:
        RequestError: a stage that cannot be met, optimizers or a sharded model that could not be grown, or a state that
            belongs to another schedule or model.
        SourceError: the state cannot be read.
    """

    def __init__(
        self,
        schedule: GrowthSchedule,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer],
        *,
        sequence_length: int | None = None,
        state: Mapping[str, Any] | str | Path | None = None,
        architecture: Architecture | None = None,
        config: Mapping[str, Any] | None = None,
        build: Build | None = None,
        slots: Mapping[str, int] | None = None,
        parallelize: Parallelize | None = None,
        writer: Writer | None = None,
    ) -> None:
        self.model = model
        self.optimizers = listed(optimizer)
        self._architecture = architecture
        self._config = dict(config) if config is not None else None
        self._build = build
        self._slots = slots
        self._parallelize = parallelize
        self._writer = writer
        if state is None:
            self.log = GrowthLog(schedule, sequence_length)
        else:
            self.log = GrowthLog.load(state) if isinstance(state, (str, Path)) else GrowthLog.from_json(state["log"])
            self.log.follow(schedule, sequence_length)
            own = getattr(unwrapped(model), "config", None)
            if self._config is None and self.log.events and not hasattr(own, "to_dict"):
                self._config = dict(self.log.events[-1].plan["target_config"])
            self._check_model()
        plans = self._plan_rest()
        self._check_growable()
        warn_of_left_out(self.optimizers, model, stacklevel=3)
        if state is None:
            begin_stage(self.log, plans[0], grown=False)
            for each in self.optimizers:
                updates_of(each)
        else:
            self._regions_from(state).give(self.optimizers, model)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, of a run that has one.

        Raises:
            RequestError: it has several.
        """
        if len(self.optimizers) > 1:
            raise RequestError(f"this run has {len(self.optimizers)} optimizers: take them from its `optimizers`")
        return self.optimizers[0]

    @property
    def due(self) -> GrowthStage | None:
        """The stage whose growth is due now, before the next step; of a run that was resumed, too."""
        return self.log.due

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
            RequestError: no growth is due, or it would leave the model as large as it is. Nothing has changed then.

        What ``measure`` raises comes through: of the model before, nothing has changed; of the model after, ``model``
        is the grown one, and the growth is in the log without this loss.
        """
        stage = self.log.due
        if stage is None:
            raise RequestError(f"no growth is due at step {self.log.step}: grow when after_step returns a stage")
        made = plan(self.model, architecture=self._architecture, config=self._config, **stage.request)
        check_growth(made)
        before = measure(self.model) if measure is not None else None
        event = event_of(self.log, made, loss_before=before)
        self.model, _ = grow(
            self.model,
            optimizer=self.optimizers,
            plan=made,
            state=stage.state,
            slots=self._slots,
            updates=stage.rules,
            build=self._build,
            parallelize=self._parallelize,
        )
        self.log.record(event)
        begin_stage(self.log, made, grown=True)
        if self._config is not None:
            self._config = dict(made.target_config)
        try:
            if measure is not None:
                self.log.measured(measure(self.model))
        finally:
            if self._writer is not None:
                write_event(self._writer, self.log.events[-1])
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """Return plain data from which the same schedule goes on: the log, and the updates of regions."""
        return {"log": self.log.to_json(), "updates": self._regions().to_json()}

    def save(self, folder: str | Path) -> None:
        """Write the state into a checkpoint's folder: ``growth_log.json`` and ``region_updates.json``.

        Raises:
            OutputError: they cannot be written.
        """
        regions = self._regions()
        file = self.log.save(folder)
        try:
            write_regions(file.parent, regions)
        except OSError as error:
            raise OutputError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from None

    def _regions(self) -> SavedRegions:
        return SavedRegions.of(self.log.step, self.optimizers, self.model)

    def _regions_from(self, state: Mapping[str, Any] | str | Path) -> SavedRegions:
        shapes = shapes_of(self.model)
        if not isinstance(state, (str, Path)):
            return SavedRegions.from_json(state["updates"], shapes, "the state's updates")
        saved = read_regions(Path(state), shapes)
        if saved.global_step != self.log.step:
            raise SourceError(
                f"{state}: the region updates are of step {saved.global_step}, the growth log of step "
                f"{self.log.step}; take both from the same checkpoint"
            )
        return saved

    def _plan_rest(self) -> list[Plan]:
        """Plan the stages that are left; of one that cannot be met, this raises."""
        if self.log.next_stage is None:
            return []
        return plan_schedule(
            self.log.schedule,
            self.model,
            architecture=self._architecture,
            config=self._config,
            first=len(self.log.events),
            ask_class=self._build is None,
        )

    def _check_growable(self) -> None:
        """Refuse what the first growth would refuse: wrappers, sharded parameters, optimizers."""
        if self._parallelize is None:
            check_wrapper(self.model)
        source = unwrapped(self.model)
        if self._parallelize is None and is_distributed(source):
            raise RequestError(
                "the model's parameters are sharded; say how the grown model's are, as in "
                "ScheduledGrowth(..., parallelize=fn), a function that calls fully_shard on it as your training script "
                "does"
            )
        for state in sorted({stage.state for stage in self.log.schedule.stages[len(self.log.events) :]}):
            check_optimizers(self.optimizers, source, state=state, slots=self._slots)

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
