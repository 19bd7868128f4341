"""A growth schedule: when a run grows, to which sizes, with what initialisation and what rules for updates.

    stages:
      - at_step: 2000
        sizes: {hidden_size: 48, num_attention_heads: 6}
        updates: {new_rate: 1.3, ramp: 250}
      - when_flat: {window: 200, patience: 3, min_delta: 0.005, not_before: 4000, not_after: 9000}
        sizes: {num_hidden_layers: 6}
        new_layers_at: end
        seed: 1

It is data. What a schedule asks of a model is planned before the training starts, every stage from the one before:
``growformer.plan_schedule(schedule, model)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.errors import RequestError, did_you_mean
from growformer.planning.initialisation import Initialisation
from growformer.storage.plain_yaml import read_yaml
from growformer.training.flat import WhenFlat

if TYPE_CHECKING:
    from growformer.training.update_rules import UpdateRules

TRIGGERS = ("at_step", "at_tokens", "when_flat")
_REQUEST = ("new_layers_at", "new_layers", "init", "seed")
_NO_SIZES = ("source", "like", "set_fields", "architecture", "config", "revision", "to_parameters", "shape")
"""What else ``growformer.plan`` takes by name: among sizes, it would be taken for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthStage:
    """One growth of a schedule: exactly one trigger, and what to grow to.

    Attributes:
        at_step: after this many optimizer steps.
        at_tokens: as soon as this many tokens have been seen.
        when_flat: when the loss has flattened.
        sizes: config field, by the model's own or the common name -> size; nothing else that ``growformer.plan`` takes.
        new_layers_at: ``interleave`` (default), ``end``, or positions in the target.
        new_layers: ``copy`` (default) or ``random``.
        init: how free blocks are filled: ``normal``, ``copy`` or ``orthogonal``. A name, so that a log can replay it.
        seed: of all fresh values.
        state: what becomes of the optimizer's state: ``carry``, ``zero-new`` or ``drop``.
        updates: how what is new and what is old is updated from then on; None: the defaults of ``UpdateRules``.
    """

    at_step: int | None = None
    at_tokens: int | None = None
    when_flat: WhenFlat | None = None
    sizes: Mapping[str, Any]
    new_layers_at: str | Sequence[int] | None = None
    new_layers: str | None = None
    init: str = "normal"
    seed: int = 0
    state: str = "carry"
    updates: UpdateRules | None = None

    def __post_init__(self) -> None:
        """Refuse what can be seen to be wrong without a model."""
        given = [name for name in TRIGGERS if getattr(self, name) is not None]
        if len(given) != 1:
            said = f"found {' and '.join(given)}" if given else "found none"
            raise RequestError(f"expected exactly one of {', '.join(TRIGGERS)}, {said}")
        for name in ("at_step", "at_tokens"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise RequestError(f"{name} = {value!r}: expected a whole number from 1 on")
        if self.when_flat is not None and not isinstance(self.when_flat, WhenFlat):
            raise RequestError(f"when_flat = {self.when_flat!r}: expected WhenFlat(window=…, patience=…, …)")
        if not isinstance(self.sizes, Mapping) or not self.sizes:
            raise RequestError(f"sizes = {self.sizes!r}: expected sizes by name, as in {{hidden_size: 48}}")
        object.__setattr__(self, "sizes", dict(self.sizes))
        for name, size in self.sizes.items():
            if not isinstance(name, str):
                raise RequestError(f"sizes: {name!r} is no name of a size")
            if name in _REQUEST:
                raise RequestError(f"sizes: {name} is a field of the stage, not a size: put it beside sizes")
            if name in _NO_SIZES:
                raise RequestError(f"sizes: {name} is no size: name every size, as in {{hidden_size: 48}}")
            numbers = size if isinstance(size, list) and size else [size]
            if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in numbers):
                raise RequestError(f"{name} = {size!r}: expected a whole number from 1 on, or a list of such")
        where = self.new_layers_at
        if where is not None and not isinstance(where, str):
            if not isinstance(where, Sequence) or any(type(position) is not int for position in where):
                raise RequestError(f"new_layers_at = {where!r}: expected end, interleave, or positions as in [4, 5]")
            object.__setattr__(self, "new_layers_at", list(where))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise RequestError(f"seed = {self.seed!r}: expected a whole number")
        if not isinstance(self.init, str):
            raise RequestError(
                f"init = {self.init!r}: a schedule names its initialisation (normal, copy or orthogonal), so that its "
                "log can be replayed"
            )
        Initialisation(self.init, self.seed)  # refuses unknown names
        if self.state != "carry":
            from growformer.execute.slots import POLICIES

            if self.state not in POLICIES:
                raise RequestError(
                    f"unknown state policy {self.state!r}: expected {', '.join(POLICIES)}"
                    f"{did_you_mean(str(self.state), POLICIES)}"
                )

    @property
    def trigger(self) -> str:
        """The trigger in words: ``at step 2000``."""
        if self.at_step is not None:
            return f"at step {self.at_step}"
        if self.at_tokens is not None:
            return f"at {self.at_tokens} tokens"
        return str(self.when_flat)

    @property
    def request(self) -> dict[str, Any]:
        """The keywords of ``growformer.plan``."""
        options = {name: getattr(self, name) for name in _REQUEST}
        return {**{name: value for name, value in options.items() if value is not None}, **self.sizes}

    @property
    def rules(self) -> UpdateRules:
        """The rules for updates."""
        from growformer.training.update_rules import UpdateRules

        return self.updates or UpdateRules()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, without what is as it is by default."""
        found: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.default is not MISSING and value == f.default:
                continue
            if f.name in ("when_flat", "updates"):
                value = {g.name: getattr(value, g.name) for g in fields(value) if getattr(value, g.name) != g.default}
            elif isinstance(value, Mapping):
                value = {name: list(size) if isinstance(size, list) else size for name, size in value.items()}
            elif isinstance(value, list):
                value = list(value)
            found[f.name] = value
        return found

    @staticmethod
    def from_dict(data: Any) -> GrowthStage:
        """Read what ``to_dict`` wrote.

        Raises:
            RequestError: an unknown field, or a value that is not sensible.
        """
        known = _known(data, GrowthStage, "a stage")
        if "sizes" not in known:
            raise RequestError("sizes is missing: say what to grow to, as in sizes: {hidden_size: 48}")
        if known.get("when_flat") is not None:
            known["when_flat"] = WhenFlat(**_known(known["when_flat"], WhenFlat, "when_flat"))
        if known.get("updates") is not None:
            from growformer.training.update_rules import UpdateRules

            rules = _known(known["updates"], UpdateRules, "updates")
            try:
                known["updates"] = UpdateRules(**rules)
            except TypeError as error:
                raise RequestError(f"updates = {rules}: {error}") from None
        return GrowthStage(**known)


@dataclass(frozen=True, slots=True)
class GrowthSchedule:
    """Growths in the order in which they happen.

    Attributes:
        stages: at least one. Steps and tokens rise, and no size shrinks; a stage that asks for what the one before it
            has asked for is refused.
    """

    stages: tuple[GrowthStage, ...] = field(default=())

    def __post_init__(self) -> None:
        """Refuse schedules that cannot be followed, whatever the model."""
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages:
            raise RequestError("a growth schedule without stages; expected at least one")
        for number, stage in enumerate(self.stages):
            if not isinstance(stage, GrowthStage):
                raise RequestError(f"stage {number + 1}: expected GrowthStage(at_step=…, sizes=…), got {stage!r}")
        sizes: dict[str, Any] = {}
        for number, stage in enumerate(self.stages):
            before = self.stages[number - 1] if number else None
            wrong = (_not_later(before, stage) if before else None) or _not_larger(sizes, stage.sizes)
            if wrong:
                raise RequestError(f"{self.title(number)}: {wrong}")
            sizes |= stage.sizes

    def title(self, number: int) -> str:
        """Return how messages name a stage, counted from 1 there: ``stage 2 (at step 400)``."""
        return f"stage {number + 1} ({self.stages[number].trigger})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``from_dict`` reads back to an equal schedule."""
        return {"stages": [stage.to_dict() for stage in self.stages]}

    @staticmethod
    def from_dict(data: Any) -> GrowthSchedule:
        """Read a schedule from plain data.

        Raises:
            RequestError: an unknown field, or a schedule that cannot be followed; the message names the stage.
        """
        known = _known(data, GrowthSchedule, "a growth schedule")
        stages = known.get("stages")
        if not isinstance(stages, list):
            raise RequestError(f"stages: expected a list of stages, found {type(stages).__name__}")
        return GrowthSchedule(tuple(_numbered(stages)))

    @staticmethod
    def from_yaml(path: str | Path) -> GrowthSchedule:
        """Read a schedule from a YAML file.

        Raises:
            RequestError: it is missing, not YAML, or as ``from_dict``; the message names the file.
        """
        data = read_yaml(Path(path), "growth schedule", "stages:")
        try:
            return GrowthSchedule.from_dict(data)
        except RequestError as error:
            raise RequestError(f"{path}: {error}") from None

    def to_yaml(self) -> str:
        """Return the schedule as YAML that ``from_yaml`` reads back."""
        import yaml

        text: str = yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=120)
        return text


def _numbered(stages: Iterable[Any]) -> Iterable[GrowthStage]:
    for number, data in enumerate(stages):
        try:
            yield GrowthStage.from_dict(data)
        except RequestError as error:
            raise RequestError(f"stage {number + 1}: {error}") from None


def _known(data: Any, of: type[Any], what: str) -> dict[str, Any]:
    """Return the entries of a mapping whose keys are fields of a dataclass."""
    if not isinstance(data, Mapping):
        raise RequestError(f"{what}: expected fields with values, found {type(data).__name__}")
    names = [f.name for f in fields(of)]
    for name in data:
        if name not in names:
            hint = did_you_mean(str(name), names) or f"; known: {', '.join(names)}"
            raise RequestError(f"{what} has no field {name!r}{hint}")
    return dict(data)


def _not_later(before: GrowthStage, stage: GrowthStage) -> str | None:
    """Return why a stage cannot follow another."""
    for name in ("at_step", "at_tokens"):
        first, second = getattr(before, name), getattr(stage, name)
        if first is not None and second is not None and second <= first:
            return f"{name} = {second} does not come after {first}, that of the stage before; order stages by time"
    first, second = _deadline(before), _deadline(stage)
    if first is not None and second is not None and second <= first:
        return f"it may have to grow at step {second}, and the stage before at step {first}; order stages by time"
    return None


def _deadline(stage: GrowthStage) -> int | None:
    """Return the step at which a stage grows at the latest, if it says so."""
    return stage.when_flat.not_after if stage.when_flat is not None else stage.at_step


def _not_larger(before: Mapping[str, Any], sizes: Mapping[str, Any]) -> str | None:
    """Return why sizes are no growth over those asked for before."""
    for name, size in sizes.items():
        past = before.get(name)
        pairs = zip(_numbers(past), _numbers(size), strict=False) if past is not None else ()
        if any(b < a for a, b in pairs):
            return f"{name} shrinks from {past} to {size}; growth never makes anything smaller"
    if all(name in before and before[name] == size for name, size in sizes.items()):
        repeated = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        return f"it repeats {repeated}, which an earlier stage has grown to; leave it out, or ask for larger sizes"
    return None


def _numbers(size: Any) -> list[int]:
    return list(size) if isinstance(size, list) else [size]


__all__ = ["TRIGGERS", "GrowthSchedule", "GrowthStage"]
