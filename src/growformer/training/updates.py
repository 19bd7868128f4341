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

A region whose factor is 1 costs nothing; one of bias correction ends by itself when the moments have forgotten how
young they were, one that fades in when it has come to its aim. Where regions overlap, their factors multiply. What is
frozen is put back after that, and what fades in takes its step last.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from growformer.errors import RequestError
from growformer.execute.placement import describe_placement, local, local_region
from growformer.execute.slots import GrownSlots
from growformer.execute.values import assign, select
from growformer.planning.blocks import Region
from growformer.planning.plan import Plan
from growformer.training.kinds import betas_of, decay_of, is_normalised, kinds_of
from growformer.training.regions import (
    Fade,
    Followed,
    UpdateRegion,
    grown_regions,
    regions_from_json,
    regions_to_json,
    rekeyed,
)
from growformer.training.update_rules import UpdateRules


@dataclass(frozen=True, slots=True)
class _Kept:
    """This rank's part of a region, as it was before a step.

    Attributes:
        inside: where it lies in this rank's part of the parameter.
        plain: its values after decoupled decay alone; of what is frozen, before it.
        decay: the share that decay takes.
    """

    parameter: torch.nn.Parameter
    region: UpdateRegion
    inside: Region
    plain: torch.Tensor
    decay: float

    def scale(self, factor: float) -> None:
        """Scale the update that the step has made; by ``lerp``, so that no update leaves every bit."""
        if factor != 1:
            self._change(lambda values: values.lerp_(self.plain, 1 - factor))

    def restore_decay(self) -> None:
        """Give back what decay has taken too much."""
        if self.region.decay != 1 and self.decay:
            share = self.decay * (1 - self.region.decay) / (1 - self.decay)
            self._change(lambda values: values.add_(self.plain, alpha=share))

    def restore(self) -> None:
        """Put everything back."""
        self._change(lambda values: values.copy_(self.plain))

    def _change(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        _change(self.parameter, self.inside, change)


@dataclass(frozen=True, slots=True)
class _Aim:
    """This rank's part of a fade, with the share of its aim that it had come to before a step."""

    parameter: torch.nn.Parameter
    fade: Fade
    inside: Region
    share: torch.Tensor

    @staticmethod
    def shared(fade: Fade, inside: Region, done: int) -> torch.Tensor:
        """Return the share after some steps: rounded to the parameter's dtype, so that shares add up to the aim."""
        aim = select(local(fade.towards), inside)
        return ((aim.double() - fade.start) * (done / fade.steps)).to(aim.dtype)

    def take_a_step(self) -> None:
        """Come one step nearer to what the aim is now."""
        towards = self.shared(self.fade, self.inside, self.fade.done + 1)
        _change(self.parameter, self.inside, lambda values: values.add_(towards - self.share))


def _change(parameter: torch.nn.Parameter, inside: Region, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change values in place, wherever they lie."""
    values = change(select(local(parameter), inside))
    if any(not isinstance(index, slice) for index in inside):
        assign(local(parameter), inside, values)


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
        self._regions: dict[torch.nn.Parameter, list[Followed]] = {}
        self._kept: list[_Kept] = []
        self._aims: list[_Aim] = []
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

    def regions(self, parameter: torch.nn.Parameter) -> Sequence[Followed]:
        """Return the regions of a parameter whose updates are still scaled."""
        return tuple(self._regions.get(parameter, ()))

    def regions_of(self, model: torch.nn.Module) -> dict[str, list[Followed]]:
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
        found = grown_regions(
            plan, grown, self._regions, rules, steps,
            state=state, now=self.steps, normalised=is_normalised(kinds_of(self.optimizer)),
        )  # fmt: skip
        for parameter, regions in found.items():
            for region in regions:
                if isinstance(region, Fade) and describe_placement(parameter) != describe_placement(region.towards):
                    raise RequestError(
                        f"a copied layer is placed as {describe_placement(parameter)}, the one that it fades in from "
                        f"as {describe_placement(region.towards)}: place both alike, or grow with fade_in=0"
                    )
        self._regions = found

    # Around the step.

    @torch.no_grad()
    def _before(self) -> None:
        self._kept.clear()
        self._aims.clear()
        followed = [(p, group) for p, group in _with_groups(self.optimizer) if p in self._regions]
        self._steps = _steps(self.optimizer, [parameter for parameter, _ in followed])
        for parameter, group in followed:
            decay = decay_of(self.optimizer, group)
            for region in self._regions[parameter]:
                inside = local_region(parameter, region.region)
                if inside is None:
                    continue
                if isinstance(region, Fade):
                    self._aims.append(_Aim(parameter, region, inside, _Aim.shared(region, inside, region.done)))
                    continue
                values = select(local(parameter), inside)
                plain = values.clone() if region.frozen or not decay else values * (1 - decay)
                self._kept.append(_Kept(parameter, region, inside, plain, decay))

    @torch.no_grad()
    def _after(self) -> None:
        self.steps += 1
        groups = dict(_with_groups(self.optimizer))
        counts = _steps(self.optimizer, [parameter for parameter in self._regions if parameter in groups])
        stepped = {p: self._has_stepped(p, counts) for p in self._regions if p in groups}
        scaled = [kept for kept in self._kept if stepped[kept.parameter] and not kept.region.frozen]
        for kept in scaled:
            betas = betas_of(self.optimizer, groups[kept.parameter])
            kept.scale(kept.region.factor(self.steps, counts.get(kept.parameter), betas))
        for kept in scaled:
            kept.restore_decay()
        for kept in self._kept:  # what is frozen, after whatever else is said of it
            if kept.region.frozen:
                kept.restore()
        for aim in self._aims:  # and what fades in after that, from what its aim is now
            if stepped[aim.parameter] or aim.parameter.grad is None:
                aim.take_a_step()
        self._kept.clear()
        self._aims.clear()
        for parameter, moved in stepped.items():
            step, betas = counts.get(parameter), betas_of(self.optimizer, groups[parameter])
            left = [self._next(region, parameter, moved) for region in self._regions[parameter]]
            self._regions[parameter] = [
                region
                for region in left
                if (region.done < region.steps if isinstance(region, Fade) else True)
                and (isinstance(region, Fade) or not moved or not region.is_over(self.steps, step, betas))
            ]
            if not self._regions[parameter]:
                del self._regions[parameter]

    def _has_stepped(self, parameter: torch.nn.Parameter, counts: Mapping[torch.nn.Parameter, int]) -> bool:
        """Tell whether the step moved a parameter: not if a scaler found an infinite gradient, or if it has none."""
        if parameter in counts:
            return counts[parameter] != self._steps.get(parameter)
        return parameter.grad is not None

    def _next(self, region: Followed, parameter: torch.nn.Parameter, moved: bool) -> Followed:
        if isinstance(region, Fade) and (moved or parameter.grad is None):
            return replace(region, done=region.done + 1)
        return region

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

    def set_regions(self, steps: int, regions: Mapping[torch.nn.Parameter, Sequence[Followed]]) -> None:
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


__all__ = ["RegionUpdates", "UpdateRules", "steps_of", "updates_of"]
