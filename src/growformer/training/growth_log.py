"""The growth log: how far a run is in its schedule, and every growth so far in enough detail to do it again.

It is ``growth_log.json`` in every checkpoint: plain JSON, read strictly. What it decides depends on steps, tokens and
losses alone, so that a run that was stopped and resumed grows where it would have grown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.errors import GrowformerError, OutputError, RequestError, SourceError, in_words
from growformer.sizing.flops import count_flops
from growformer.storage import disk
from growformer.storage.plain_json import read_json
from growformer.training.curve import LossCurve
from growformer.training.flat import FlatLoss
from growformer.training.ledger import FlopsLedger
from growformer.training.schedule import GrowthSchedule, GrowthStage

if TYPE_CHECKING:
    from growformer.planning.plan import Plan

FILE = "growth_log.json"
FORMAT = 1
_FLOAT = "__float__"
_NOT_FINITE = ("Infinity", "-Infinity", "NaN")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthEvent:
    """One growth that has happened.

    Attributes:
        stage: its number in the schedule, from 1 on.
        step: optimizer steps before it.
        tokens: seen before it; 0 where nobody counted.
        loss: the last one seen before it.
        trigger: what made it happen, in words.
        sizes_before: size field -> value in the source.
        sizes_after: likewise in the grown model.
        parameters_before: tied ones count once.
        parameters_after: likewise.
        flops: of training until then; None where not known.
        loss_before: of the source on a batch that was measured for this, if one was.
        loss_after: of the grown model on the same batch.
        plan: what ``Plan.to_json`` says, with the source's config in place of the source, which may be any model of
            those sizes.
    """

    stage: int
    step: int
    tokens: int
    loss: float | None
    trigger: str
    sizes_before: Mapping[str, Any]
    sizes_after: Mapping[str, Any]
    parameters_before: int
    parameters_after: int
    flops: int | None
    loss_before: float | None = None
    loss_after: float | None = None
    plan: Mapping[str, Any]


class GrowthLog:
    """How far a run is in its schedule, and what has happened.

    Args:
        schedule: what is to happen.
        sequence_length: for the FLOPs ledger; None: FLOPs are not counted.

    Attributes:
        schedule: the schedule.
        step: optimizer steps so far.
        tokens: tokens so far.
        loss: the last one that was seen.
        events: the growths so far, in order.
        curve: the loss, thinned out.
        ledger: FLOPs per stage, or None.
    """

    def __init__(self, schedule: GrowthSchedule, sequence_length: int | None = None) -> None:
        self.schedule = schedule
        self.step = 0
        self.tokens = 0
        self.loss: float | None = None
        self.events: list[GrowthEvent] = []
        self.curve = LossCurve()
        self.ledger = FlopsLedger(sequence_length) if sequence_length is not None else None
        self._flat = self._watch()

    # What comes next.

    @property
    def next_stage(self) -> GrowthStage | None:
        """The stage that has not been grown to yet, or None after the last."""
        done = len(self.events)
        return self.schedule.stages[done] if done < len(self.schedule.stages) else None

    @property
    def due(self) -> GrowthStage | None:
        """The next stage, if its time has come: at most one a step."""
        stage = self.next_stage
        if stage is None or (self.events and self.events[-1].step == self.step):
            return None
        if stage.at_step is not None:
            return stage if self.step >= stage.at_step else None
        if stage.at_tokens is not None:
            return stage if self.tokens >= stage.at_tokens else None
        rule = stage.when_flat
        assert rule is not None  # one of the three
        assert self._flat is not None
        flat = self._flat.is_flat and self.step >= rule.not_before
        return stage if flat or (rule.not_after is not None and self.step >= rule.not_after) else None

    def _watch(self) -> FlatLoss | None:
        stage = self.next_stage
        return FlatLoss(stage.when_flat) if stage is not None and stage.when_flat is not None else None

    # What happens.

    def advance(self, steps: int = 1, tokens: int | None = None) -> None:
        """Count optimizer steps and tokens.

        Raises:
            RequestError: a growth that is due has not been done, or the next one needs tokens and none are counted.
        """
        if self.due is not None:
            raise RequestError(
                f"{self.schedule.title(len(self.events))} is due since step {self.step}: grow before the next step. "
                "A run that was saved before a growth that was due grows when it is resumed: ask for `due` then"
            )
        stage = self.next_stage
        if tokens is None and stage is not None and stage.at_tokens is not None:
            raise RequestError(f"{self.schedule.title(len(self.events))}: tokens are needed with every step")
        self.step += steps
        self.tokens += tokens or 0
        if self.ledger is not None and tokens:
            self.ledger.count(tokens)

    def observe(self, loss: float, steps: int = 1) -> None:
        """Take the loss of the step that was counted last, or the mean over several that end with it."""
        self.loss = _finite(loss)
        self.curve.add(self.step, loss, steps)
        if self._flat is not None:
            self._flat.observe(loss, steps)

    def record(self, event: GrowthEvent) -> None:
        """Add a growth that has happened; what watches the loss starts anew."""
        self.events.append(event)
        self._flat = self._watch()

    def measured(self, loss_after: float | None) -> None:
        """Add the loss after it to the growth that was recorded last."""
        self.events[-1] = replace(self.events[-1], loss_after=_finite(loss_after))

    def follow(self, schedule: GrowthSchedule, sequence_length: int | None = None) -> None:
        """Go on by a schedule, which may differ from the log's own in what has not happened yet.

        Args:
            schedule: the schedule.
            sequence_length: that of the ledger, if it is said again.

        Raises:
            RequestError: the schedule says something else of a growth that has happened, or the length is another.
        """
        counted = self.ledger.sequence_length if self.ledger is not None else None
        if sequence_length is not None and sequence_length != counted:
            raise RequestError(
                f"sequence_length = {sequence_length}: the growth log "
                + ("counts no FLOPs" if counted is None else f"counts FLOPs for sequences of {counted}")
                + ", and one run has one count; leave it as it was"
            )
        for number, event in enumerate(self.events):
            was = self.schedule.stages[number].to_dict()
            now = schedule.stages[number].to_dict() if number < len(schedule.stages) else None
            if was != now:
                raise RequestError(
                    f"{self.schedule.title(number)} has happened already, at step {event.step}, as {was}; the schedule "
                    f"now says {now}. Change later stages only, or start anew"
                )
        before = self.next_stage
        self.schedule = schedule
        if self.next_stage != before:
            self._flat = self._watch()

    @property
    def flops(self) -> int | None:
        """FLOPs of training so far; None where they are not known: no sequence length, or nobody counted tokens."""
        if self.ledger is None or (self.step and not self.tokens):
            return None
        return self.ledger.total

    # Files.

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        from importlib.metadata import version

        return {
            "format": FORMAT,
            "growformer": version("growformer"),
            "schedule": self.schedule.to_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "loss": self.loss,
            "flops": self.flops,
            "events": [{**asdict(event), "plan": _said(event.plan)} for event in self.events],
            "curve": self.curve.to_json(),
            "ledger": self.ledger.to_json() if self.ledger is not None else None,
            "flat": self._flat.state_dict() if self._flat is not None else None,
        }

    @staticmethod
    def from_json(data: Any, where: str = "growth log") -> GrowthLog:
        """Read what ``to_json`` wrote.

        Args:
            data: plain data.
            where: its file, for messages.

        Raises:
            SourceError: it is no growth log of this format, or it contradicts itself.
        """
        try:
            if data["format"] != FORMAT:
                raise SourceError(f"{where}: a growth log of format {data['format']}; this version reads {FORMAT}")
            log = GrowthLog(GrowthSchedule.from_dict(data["schedule"]))
            log.step, log.tokens = _count(data["step"]), _count(data["tokens"])
            log.loss = None if data["loss"] is None else float(data["loss"])
            log.events = [_event(entry) for entry in data["events"]]
            log.curve = LossCurve.from_json(data["curve"])
            log.ledger = FlopsLedger.from_json(data["ledger"]) if data["ledger"] is not None else None
            numbers = [event.stage for event in log.events]
            if numbers != list(range(1, len(numbers) + 1)) or len(numbers) > len(log.schedule.stages):
                raise ValueError(f"growths {numbers} of {len(log.schedule.stages)} stages")
            log._flat = log._watch()
            if log._flat is not None:
                log._flat.load_state_dict(data["flat"])
        except SourceError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, GrowformerError) as error:
            raise SourceError(f"{where}: not a growth log: {in_words(error)}") from None
        return log

    def save(self, folder: str | Path) -> Path:
        """Write ``growth_log.json`` into a folder, in place of one that is there, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        file = Path(folder) / FILE
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            disk.replace_file(file, (json.dumps(self.to_json(), allow_nan=False) + "\n").encode())
        except OSError as error:
            raise OutputError(f"{file}: cannot be written: {error.strerror or error}") from None
        return file

    @staticmethod
    def load(path: str | Path) -> GrowthLog:
        """Read the growth log of a checkpoint.

        Args:
            path: the checkpoint's folder, or the file.

        Raises:
            SourceError: there is none, or it is no growth log of this format.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        data = read_json(file, "every checkpoint of a run with a growth schedule has one", constants=False)
        return GrowthLog.from_json(data, str(file))


def event_of(
    log: GrowthLog, plan: Plan, *, loss_before: float | None = None, loss_after: float | None = None
) -> GrowthEvent:
    """Return the record of the growth that is due in a log, by a plan that has been carried out."""
    stage = log.due
    if stage is None:
        raise RequestError(f"no growth is due at step {log.step}")
    names = [name for name in plan.architecture.size_fields() if name in plan.target_sizes]
    before, after = plan.num_parameters()
    planned = json.loads(plan.to_json())
    planned["source_config"] = planned.pop("source")["config"]
    for name in ("source_config", "target_config"):
        planned[name].pop("_name_or_path", None)  # where the source was loaded from
    return GrowthEvent(
        stage=len(log.events) + 1,
        step=log.step,
        tokens=log.tokens,
        loss=log.loss,
        trigger=stage.trigger,
        sizes_before={name: plan.source_sizes[name] for name in names if name in plan.source_sizes},
        sizes_after={name: plan.target_sizes[name] for name in names},
        parameters_before=before,
        parameters_after=after,
        flops=log.flops,
        loss_before=_finite(loss_before),
        loss_after=_finite(loss_after),
        plan=planned,
    )


def begin_stage(log: GrowthLog, plan: Plan, *, grown: bool) -> None:
    """Begin a stage in the ledger, at the costs of a plan's source or of what was grown by it."""
    if log.ledger is not None:
        sizes = plan.target_sizes if grown else plan.source_sizes
        log.ledger.begin(plan.num_parameters()[grown], count_flops(plan.architecture, plan.source, sizes))


def _finite(loss: float | None) -> float | None:
    """Return a loss that JSON can say, or None."""
    return loss if loss is not None and math.isfinite(loss) else None


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"expected a count, found {value!r}")
    return value


def _said(value: Any) -> Any:
    """Return plain data; numbers that JSON lacks stand there as transformers writes them: ``{"__float__": "NaN"}``."""
    if isinstance(value, Mapping):
        return {name: _said(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_said(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: json.dumps(value)}
    return value


def _heard(value: Any) -> Any:
    """Return what ``_said`` was given."""
    if isinstance(value, Mapping):
        if value.keys() == {_FLOAT} and value[_FLOAT] in _NOT_FINITE:
            return float(value[_FLOAT])
        return {name: _heard(inner) for name, inner in value.items()}
    return [_heard(inner) for inner in value] if isinstance(value, list) else value


def _event(data: Any) -> GrowthEvent:
    event = GrowthEvent(**{**data, "plan": _heard(data["plan"])})
    for value in (event.stage, event.step, event.tokens, event.parameters_before, event.parameters_after):
        _count(value)
    if not all(isinstance(m, Mapping) for m in (event.plan, event.sizes_before, event.sizes_after)):
        raise TypeError(f"growth {event.stage} has no plan or no sizes")
    return event


__all__ = ["FILE", "GrowthEvent", "GrowthLog", "begin_stage", "event_of"]
