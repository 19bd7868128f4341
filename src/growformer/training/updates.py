"""Per-region updates: scales what the optimizer does to parts of parameters, around its step.

Before the step the region is kept. Afterwards it becomes ``base + factor * (region - base)``, where ``base`` is the
kept region after decoupled weight decay alone: the factor acts on the update, never on the decay. That works with any
optimizer, fused and foreach too, and serves five ends:

    bias correction   a region born at step t0 shares the parameter's step count t, although its moments have seen only
                      n = t - t0 gradients. For Adam the factor is sqrt(1 - b2^n) / (1 - b1^n) over the same with t.
    rate, ramp        a learning rate of its own for what is new, reached over some steps
    fade-in           what a copied layer writes with, zero at growth, comes to what the layer that it copies has
    freezing          what is old stays as it is, bit for bit
    function space    of a rescaled weight W' = s W: the function moves as it would have without the rescaling

A region whose factor is 1 costs nothing; one of bias correction ends by itself when its factor has come to 1. Where
regions overlap, their factors multiply.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from growformer.architecture.declaration import TensorSpec
from growformer.architecture.packing import Piece
from growformer.errors import RequestError, did_you_mean
from growformer.execute.placement import local, local_region
from growformer.execute.slots import GrownSlots, P
from growformer.execute.stored import held
from growformer.execute.values import assign, select
from growformer.planning.blocks import Affine, Constant, Index1D, Region, Sum, compact, length, positions
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan

POLICIES = ("raw", "function_space")
FADE_IN = 50
"""Steps over which copied layers fade in, where nothing else is said."""
NEGLIGIBLE = 1e-6
"""A bias correction this near to 1 is over."""
_DECOUPLED = ("AdamW", "Muon")
_ADAM = ("Adam", "AdamW")
_NORMALISED = (*_ADAM, "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Muon")
"""Optimizers whose update does not depend on the size of gradients."""


@dataclass(frozen=True, kw_only=True)
class UpdateRules:
    """How what growth made is updated from then on.

    Attributes:
        bias_correction: whether new regions get the bias correction of their own age, in Adam and AdamW.
        new_rate: factor on the learning rate of new regions.
        ramp: steps over which new regions reach that rate, from 0 on, linearly.
        new_decay: factor on the decoupled weight decay of new regions.
        fade_in: steps over which new layers that are copies begin to add to the residual stream: what they write with,
            zero at growth, has come by then to what the layer that they copy has. 0: they learn it from zero. None: 50,
            and 0 where what is old is frozen or what is new is not trained. Depth that fades in ends where plain
            stacking ends, without its jump (docs/experiments.md).
        freeze_old: whether what comes from the source stays as it is.
        policy: ``raw``: rescaled weights get the optimizer's own update. ``function_space``: the update that moves the
            function as it would have moved without the rescaling: times s for Adam and its kind, s over the slope for
            SGD.
    """

    bias_correction: bool = True
    new_rate: float = 1.0
    ramp: int = 0
    new_decay: float = 1.0
    fade_in: int | None = None
    freeze_old: bool = False
    policy: str = "raw"

    def __post_init__(self) -> None:
        """Refuse rules that say nothing sensible."""
        if self.policy not in POLICIES:
            raise RequestError(
                f"unknown update policy {self.policy!r}: expected {', '.join(POLICIES)}"
                f"{did_you_mean(self.policy, POLICIES)}"
            )
        numbers = {name: getattr(self, name) for name in ("ramp", "new_rate", "new_decay")}
        numbers["fade_in"] = self.fade_steps
        if not all(0 <= number < math.inf for number in numbers.values()):
            found = ", ".join(f"{name} = {number}" for name, number in numbers.items())
            raise RequestError(f"{found}: expected 0 or more")

    @property
    def fade_steps(self) -> int:
        """The steps over which copied layers fade in."""
        if self.fade_in is not None:
            return self.fade_in
        return 0 if self.freeze_old or self.new_rate == 0 else FADE_IN


@dataclass(frozen=True, slots=True)
class UpdateRegion:
    """A part of one parameter, and what happens to its updates.

    Attributes:
        region: one index per dimension.
        born: steps of the controller when it came to be.
        inherited: the parameter's own step count then, for bias correction; None: none is needed.
        rate: factor that it reaches.
        ramp: over how many steps.
        decay: factor on decoupled weight decay.
        frozen: whether it stays as it is.
        fade: over how many steps it comes to what ``towards`` holds in the same region.
        towards: the parameter that it fades in from: itself, its name or its number, as the regions are kept.
        start: what all its values were when it came to be.
    """

    region: Region
    born: int
    inherited: int | None = None
    rate: float = 1.0
    ramp: int = 0
    decay: float = 1.0
    frozen: bool = False
    fade: int = 0
    towards: Any = None
    start: float = 0.0

    def check(self) -> None:
        """Refuse what no rule gives.

        Raises:
            ValueError: a number is of another kind, or less than 0.
        """
        whole = [self.born, self.ramp, self.fade, *([] if self.inherited is None else [self.inherited])]
        rates = [self.rate, self.decay]
        sound = all(type(n) is int and n >= 0 for n in whole) and isinstance(self.frozen, bool)
        sound = sound and (self.towards is not None) == (self.fade > 0) and math.isfinite(self.start)
        if not sound or not all(isinstance(n, (int, float)) and 0 <= n < math.inf for n in rates):
            raise ValueError(f"a region that no rule gives: {self}")

    def factor(self, now: int, step: int | None, betas: tuple[float, float] | None) -> float:
        """Return the factor on an update.

        Args:
            now: the controller's step; the first one after birth is born + 1.
            step: the parameter's own step count, this update included.
            betas: Adam's, where it is one.
        """
        factor = self.rate * (min(1.0, (now - self.born) / self.ramp) if self.ramp else 1.0)
        if self.inherited is not None and step is not None and betas is not None:
            factor *= correction(step - self.inherited, step, betas)
        return factor

    def is_over(self, now: int, step: int | None, betas: tuple[float, float] | None) -> bool:
        """Tell whether the factor is 1 from now on, and it has faded in."""
        if self.frozen or self.decay != 1 or self.rate != 1 or now - self.born < max(self.ramp, self.fade):
            return False
        return abs(self.factor(now, step, betas) - 1) < NEGLIGIBLE


def correction(age: int, step: int, betas: tuple[float, float]) -> float:
    """Return Adam's bias correction for moments that saw ``age`` gradients, over that for ``step`` of them."""

    def of(count: int) -> float:
        return math.sqrt(1 - betas[1] ** count) / (1 - betas[0] ** count)

    return of(age) / of(step)


@dataclass(frozen=True, slots=True)
class _Kept:
    """This rank's part of a region, as it was before a step.

    Attributes:
        inside: where it lies in this rank's part of the parameter.
        plain: its values after decoupled decay alone; of what is frozen, before it.
        decay: learning rate times weight decay.
    """

    parameter: torch.nn.Parameter
    region: UpdateRegion
    inside: Region
    plain: torch.Tensor
    decay: float

    def apply(self, now: int, factor: float) -> None:
        """Scale the update that the step has made; computed by ``lerp``, so that no update leaves every bit."""
        if self.region.frozen:
            assign(local(self.parameter), self.inside, self.plain)
            return
        values = select(local(self.parameter), self.inside)
        if factor != 1:
            values = values.lerp_(self.plain, 1 - factor)
        if self.region.decay != 1 and self.decay:
            values = values.add_(self.plain, alpha=self.decay * (1 - self.region.decay) / (1 - self.decay))
        if now - self.region.born <= self.region.fade:
            aim = select(local(self.region.towards), self.inside)
            values = values.add_(aim - self.region.start, alpha=1 / self.region.fade)
        if any(not isinstance(index, slice) for index in self.inside):
            assign(local(self.parameter), self.inside, values)


class RegionUpdates:
    """Scales updates of regions around every step of an optimizer, which it is attached to.

    Args:
        optimizer: its steps are counted from now on.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        if optimizer in _ATTACHED:
            raise RequestError(f"this {type(optimizer).__name__} has region updates already; take those of updates_of")
        self.steps = 0
        self._optimizer = weakref.ref(optimizer)
        self._regions: dict[torch.nn.Parameter, list[UpdateRegion]] = {}
        self._kept: list[_Kept] = []
        self._steps: dict[torch.nn.Parameter, int] = {}
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self._before()),
            optimizer.register_step_post_hook(lambda *_: self._after()),
        ]
        _ATTACHED[optimizer] = self

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer."""
        found = self._optimizer()
        if found is None:
            raise RequestError("the optimizer of these region updates is gone")
        return found

    def regions(self, parameter: torch.nn.Parameter) -> Sequence[UpdateRegion]:
        """Return the regions of a parameter whose updates are still scaled."""
        return tuple(self._regions.get(parameter, ()))

    def regions_of(self, model: torch.nn.Module) -> dict[str, list[UpdateRegion]]:
        """Return all regions of a model's parameters, by their names."""
        names = {parameter: name for name, parameter in model.named_parameters()}
        return rekeyed({p: some for p, some in self._regions.items() if p in names}, names)

    def detach(self) -> None:
        """Leave the optimizer to itself."""
        for hook in self._hooks:
            hook.remove()
        _ATTACHED.pop(self.optimizer, None)

    # Growth.

    def grow(
        self,
        plan: Plan,
        grown: Iterable[GrownSlots[torch.nn.Parameter]],
        rules: UpdateRules,
        steps: Mapping[torch.nn.Parameter, int],
        *,
        state: str,
    ) -> None:
        """Follow a growth: regions move with what they are in, and what is new gets regions by the rules.

        Args:
            plan: what was grown by it.
            grown: what the optimizer executor made.
            rules: for what is new, and for what is old.
            steps: the source's parameters -> their step counts before the growth.
            state: the policy by which the state was grown.
        """
        self._regions = grown_regions(
            plan, grown, self._regions, rules, steps, state=state, now=self.steps, kind=type(self.optimizer).__name__
        )

    # Around the step.

    @torch.no_grad()
    def _before(self) -> None:
        self._kept.clear()
        decoupled = type(self.optimizer).__name__ in _DECOUPLED
        learning = [(p, g) for p, g in _with_groups(self.optimizer) if p in self._regions and p.grad is not None]
        self._steps = _steps(self.optimizer, [parameter for parameter, _ in learning])
        for parameter, group in learning:
            decay = float(group["lr"]) * float(group.get("weight_decay", 0.0)) if decoupled else 0.0
            for region in self._regions[parameter]:
                inside = local_region(parameter, region.region)
                if inside is not None:
                    values = select(local(parameter), inside)
                    plain = values.clone() if region.frozen or not decay else values * (1 - decay)
                    self._kept.append(_Kept(parameter, region, inside, plain, decay))

    @torch.no_grad()
    def _after(self) -> None:
        self.steps += 1
        groups = dict(_with_groups(self.optimizer))
        now = _steps(self.optimizer, list(self._regions))
        # What is frozen comes last, whatever else is said of it.
        for kept in sorted(self._kept, key=lambda entry: entry.region.frozen):
            step = now.get(kept.parameter)
            if step is not None and step == self._steps.get(kept.parameter):
                continue  # the step was skipped: an infinite gradient under a scaler
            kept.apply(self.steps, kept.region.factor(self.steps, step, _betas(self.optimizer, groups[kept.parameter])))
        self._kept.clear()
        for parameter, regions in list(self._regions.items()):
            betas = _betas(self.optimizer, groups.get(parameter, {}))
            left = [region for region in regions if not region.is_over(self.steps, now.get(parameter), betas)]
            if left:
                self._regions[parameter] = left
            else:
                del self._regions[parameter]

    # Saving.

    def state_dict(self) -> dict[str, Any]:
        """Return plain data: the steps, and the regions by the number that the optimizer's own state dict gives."""
        numbers = {p: n for n, p in enumerate(p for g in self.optimizer.param_groups for p in g["params"])}
        return {"steps": self.steps, "regions": regions_to_json(rekeyed(self._regions, numbers))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave, for an optimizer of the same parameters.

        Raises:
            RequestError: a region lies outside of its parameter, or there is no such parameter.
        """
        parameters = dict(enumerate(p for g in self.optimizer.param_groups for p in g["params"]))
        by_number = {int(number): regions for number, regions in state["regions"].items()}
        found = regions_from_json(by_number, {number: tuple(p.shape) for number, p in parameters.items()})
        self.set_regions(int(state["steps"]), rekeyed(found, parameters))

    def set_regions(self, steps: int, regions: Mapping[torch.nn.Parameter, Sequence[UpdateRegion]]) -> None:
        """Take over regions in place of all that there are, and the steps that have been counted."""
        self.steps, self._regions = steps, {parameter: list(some) for parameter, some in regions.items()}


def rekeyed(regions: Mapping[Any, Sequence[UpdateRegion]], keys: Mapping[Any, P]) -> dict[P, list[UpdateRegion]]:
    """Return regions by another name of each parameter, such as its number in place of itself."""
    return {
        keys[key]: [r if r.towards is None else replace(r, towards=keys[r.towards]) for r in some]
        for key, some in regions.items()
    }


def regions_to_json(regions: Mapping[Any, Sequence[UpdateRegion]]) -> dict[Any, list[dict[str, Any]]]:
    """Return regions by parameter as plain data."""
    return {
        key: [{**_fields(r), "region": [_index_to_json(i) for i in r.region]} for r in some]
        for key, some in regions.items()
    }


def regions_from_json(
    data: Mapping[P, Sequence[Mapping[str, Any]]], shapes: Mapping[P, tuple[int, ...]]
) -> dict[P, list[UpdateRegion]]:
    """Read what ``regions_to_json`` gave.

    Args:
        data: parameter (its name, or its number) -> regions.
        shapes: of all parameters that there are.

    Raises:
        RequestError: a region lies outside of its parameter, or there is no such parameter.
    """
    found: dict[P, list[UpdateRegion]] = {}
    for key, regions in data.items():
        if key not in shapes:
            raise RequestError(
                f"region updates of parameter {key}, which is none of the {len(shapes)}: they belong to another model"
            )
        for entry in regions:
            region = tuple(_index_from_json(index) for index in entry["region"])
            fits = len(region) == len(shapes[key]) and all(
                _reach(index) <= size for index, size in zip(region, shapes[key], strict=True)
            )
            if not fits:
                raise RequestError(
                    f"a region of parameter {key} lies outside of its shape {list(shapes[key])}: the region updates "
                    "belong to another model"
                )
            made = UpdateRegion(**{**entry, "region": region})
            made.check()
            if made.towards is not None and shapes.get(made.towards) != shapes[key]:
                raise RequestError(
                    f"a region of parameter {key} fades in from {made.towards}, which is none of the same shape: the "
                    "region updates belong to another model"
                )
            found.setdefault(key, []).append(made)
    return found


def _fields(region: UpdateRegion) -> dict[str, Any]:
    return {f.name: getattr(region, f.name) for f in fields(region)}


def _reach(index: Index1D) -> float:
    """Return how long a dimension must be for an index; infinity for one that starts before it."""
    if isinstance(index, slice):
        return index.stop if 0 <= index.start <= index.stop else math.inf
    return int(index.max(initial=-1)) + 1 if int(index.min(initial=0)) >= 0 else math.inf


def grown_regions(
    plan: Plan,
    grown: Iterable[GrownSlots[P]],
    regions: Mapping[P, Sequence[UpdateRegion]],
    rules: UpdateRules,
    steps: Mapping[P, int],
    *,
    state: str,
    now: int,
    kind: str,
) -> dict[P, list[UpdateRegion]]:
    """Return the regions after a growth: old ones move with what they are in, and what is new gets some by the rules.

    Args:
        plan: what was grown by it.
        grown: what an optimizer executor made.
        regions: the source's parameters -> their regions so far.
        rules: for what is new, and for what is old.
        steps: the source's parameters -> their step counts before the growth.
        state: the policy by which the state was grown.
        now: the controller's steps, from which ages count.
        kind: the optimizer's name.
    """
    grown = list(grown)
    holders = {
        spec.name(index): (slots.parameter, piece) for slots in grown for spec, index, piece in slots.stored.parts
    }
    renamed = {slots.before: slots.parameter for slots in grown if not plan.is_new(slots.stored.parts[0][1])}
    following: dict[P, list[UpdateRegion]] = {}
    for slots in grown:
        found: list[UpdateRegion] = []
        for spec, index, piece in slots.stored.parts:
            is_new = plan.is_new(index)
            for block in tensor_plan(plan, spec, index).blocks:
                value, target = block.value, held(piece, block.region)
                if isinstance(value, Sum):
                    value = next(part for part in value.parts if isinstance(part, Affine))
                copied = isinstance(value, Affine)
                if isinstance(value, Affine) and not is_new:
                    info = plan.source.tensors[value.tensor]
                    for moved in _moved(regions.get(slots.before, ()), held(info.piece, value.region), target):
                        found.append(moved if moved.towards is None else _following(moved, renamed))
                    factor = _function_space(value, kind in _NORMALISED) if rules.policy == "function_space" else 1.0
                    found.append(UpdateRegion(target, now, rate=factor, frozen=rules.freeze_old))
                    continue
                has_state = copied and state == "carry"
                inherited = steps.get(slots.before) if slots.carried and not has_state else None
                found.append(
                    UpdateRegion(
                        target,
                        now,
                        inherited if rules.bias_correction else None,
                        rules.new_rate,
                        rules.ramp,
                        rules.new_decay,
                    )
                )
                if rules.fade_steps and isinstance(value, Constant) and plan.is_new(index):
                    for region, towards in _faded(plan, spec, index, block.region, holders, piece):
                        found.append(
                            UpdateRegion(region, now, fade=rules.fade_steps, towards=towards, start=float(value.value))
                        )
        following[slots.parameter] = [region for region in found if not _says_nothing(region)]
    return {parameter: found for parameter, found in following.items() if found}


def _following(region: UpdateRegion, renamed: Mapping[Any, Any]) -> UpdateRegion:
    """Return a region that is still fading in, towards what its parameter has become."""
    return replace(region, towards=renamed[region.towards])


def _faded(
    plan: Plan,
    spec: TensorSpec,
    index: Mapping[str, int],
    region: Region,
    holders: Mapping[str, tuple[P, Piece | None]],
    piece: Piece | None,
) -> Iterator[tuple[Region, P]]:
    """Yield what of a constant region of a new layer the layer that it copies has from the source, and its holder."""
    origin = plan.origin(index)
    if origin is None:
        return
    copied: dict[str, int] = {}
    for axis in index:  # the outer ones first: the place of a head depends on its layer
        copied[axis] = int(np.flatnonzero(plan.axis_map(axis, {**index, **copied}).array() == origin[axis])[0])
    holder, other = holders[spec.name(copied)]
    for block in tensor_plan(plan, spec, copied).blocks:
        value = block.value
        if isinstance(value, Sum):
            value = next(part for part in value.parts if isinstance(part, Affine))
        if not isinstance(value, Affine):
            continue
        inside = tuple(
            compact(np.intersect1d(positions(mine), positions(theirs)))
            for mine, theirs in zip(region, block.region, strict=True)
        )
        if not all(length(i) for i in inside):
            continue
        here, there = held(piece, inside), held(other, inside)
        if all(np.array_equal(positions(a), positions(b)) for a, b in zip(here, there, strict=True)):
            yield here, holder


def _says_nothing(region: UpdateRegion) -> bool:
    neutral = region.rate == 1 and region.decay == 1 and not region.ramp and not region.frozen
    return neutral and region.inherited is None and not region.fade


_ATTACHED: weakref.WeakKeyDictionary[torch.optim.Optimizer, RegionUpdates] = weakref.WeakKeyDictionary()


def updates_of(optimizer: torch.optim.Optimizer) -> RegionUpdates:
    """Return the region updates that are attached to an optimizer; they are attached now if there are none."""
    return _ATTACHED.get(optimizer) or RegionUpdates(optimizer)


def steps_of(optimizer: torch.optim.Optimizer) -> dict[torch.nn.Parameter, int]:
    """Return how many steps every parameter has seen, as the optimizer counts them."""
    return _steps(optimizer, [parameter for parameter, _ in _with_groups(optimizer)])


def _steps(optimizer: torch.optim.Optimizer, parameters: Sequence[torch.nn.Parameter]) -> dict[torch.nn.Parameter, int]:
    """Return the step counts of parameters that have one; those on a device are waited for once, not one by one."""
    found: dict[torch.nn.Parameter, int] = {}
    waiting: dict[torch.device, list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}
    for parameter in parameters:
        step = optimizer.state[parameter].get("step") if parameter in optimizer.state else None
        if isinstance(step, torch.Tensor) and step.device.type != "cpu":
            waiting.setdefault(step.device, []).append((parameter, local(step)))
        elif step is not None:
            found[parameter] = int(step)
    for together in waiting.values():
        counts = torch.stack([step.reshape(()) for _, step in together]).tolist()
        found.update({parameter: int(count) for (parameter, _), count in zip(together, counts, strict=True)})
    return found


def _with_groups(optimizer: torch.optim.Optimizer) -> Iterator[tuple[torch.nn.Parameter, dict[str, Any]]]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield parameter, group


def _betas(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> tuple[float, float] | None:
    if type(optimizer).__name__ not in _ADAM or "betas" not in group:
        return None
    return float(group["betas"][0]), float(group["betas"][1])


def _function_space(value: Affine, normalised: bool) -> float:
    """Return the factor on a rescaled weight's update under which the function moves as without the rescaling."""
    return float(value.scale if normalised else value.scale / value.slope)


def _moved(regions: Sequence[UpdateRegion], origin: Region, target: Region) -> list[UpdateRegion]:
    """Return regions of a source parameter as regions of a block of the target that comes from there."""
    found = []
    for region in regions:
        picked = []
        for inside, source, along in zip(region.region, origin, target, strict=True):
            where = np.flatnonzero(np.isin(positions(source), positions(inside)))
            picked.append(compact(positions(along)[where]))
        if all(not isinstance(p, np.ndarray) or p.size for p in picked):
            found.append(replace(region, region=tuple(picked)))
    return found


def _index_to_json(index: Index1D) -> list[int] | dict[str, list[int]]:
    if isinstance(index, slice) and index.step in (None, 1):
        return [index.start, index.stop]
    return {"at": positions(index).tolist()}


def _index_from_json(data: Any) -> Index1D:
    if isinstance(data, Mapping):
        return np.array(data["at"], dtype=np.int64)
    return slice(int(data[0]), int(data[1]))


__all__ = [
    "RegionUpdates",
    "UpdateRegion",
    "UpdateRules",
    "correction",
    "grown_regions",
    "regions_from_json",
    "regions_to_json",
    "rekeyed",
    "steps_of",
    "updates_of",
]
