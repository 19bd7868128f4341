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

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from growformer.errors import RequestError
from growformer.execute.placement import local, local_region
from growformer.execute.slots import GrownSlots
from growformer.execute.values import assign, select
from growformer.planning.blocks import Region
from growformer.planning.plan import Plan
from growformer.training.regions import (
    ADAM,
    UpdateRegion,
    grown_regions,
    regions_from_json,
    regions_to_json,
    rekeyed,
)
from growformer.training.update_rules import UpdateRules

_DECOUPLED = ("AdamW", "Muon")
"""Optimizers whose weight decay does not go through the gradient."""


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
    if type(optimizer).__name__ not in ADAM or "betas" not in group:
        return None
    return float(group["betas"][0]), float(group["betas"][1])


__all__ = ["RegionUpdates", "UpdateRules", "steps_of", "updates_of"]
