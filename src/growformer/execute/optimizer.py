"""The optimizer executor: the same optimizer object, with a grown model's parameters and state that follows the plan.

What becomes of a slot is said in ``execute.slots``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from growformer.errors import RequestError
from growformer.execute.distributed import Readers, agree, describe_state
from growformer.execute.group_order import grown_order
from growformer.execute.module import plain_name, tensors_of
from growformer.execute.placement import OneWhole, bounds_of, is_sharded, local, placed_like, working_device
from growformer.execute.ranks import current
from growformer.execute.slots import (
    GrownSlots,
    States,
    check_policy,
    check_slots,
    grow_slot,
    grown_state,
    powers_of,
)
from growformer.execute.stored import StoredTensor, stored_tensors, take
from growformer.planning.plan import Plan


def grow_optimizer(
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    source: nn.Module,
    grown: nn.Module,
    *,
    state: str = "carry",
    slots: Mapping[str, int] | None = None,
    free_source: bool = False,
) -> list[GrownSlots[nn.Parameter]]:
    """Give an optimizer of the source the grown model's parameters, in place; schedulers and scalers stay attached.

    A parameter joins the group of the one that it comes from: of one that is new, that is the one that it copies, or
    the first of its kind. Groups keep their order (``execute.group_order``); a warning says where that cannot be.

    Args:
        plan: what was grown by it.
        optimizer: holds parameters of the source; afterwards, those of the grown model.
        source: the model before.
        grown: the model after, made by ``execute.module``.
        state: ``carry``: what comes from the source, copies included, keeps its state. ``zero-new``: copies in new
            layers start at zero as well. ``drop``: all start anew.
        slots: name -> power of the gradient, for slots that torch's optimizers do not have.
        free_source: free the state of every source parameter after its last reader.

    Raises:
        RequestError: as ``check_optimizer``; nothing has been changed then.
    """
    powers = check_optimizer(optimizer, source, state=state, slots=slots)
    before = _parameters(source)
    group_of = _groups(optimizer, before, type(source).__name__)
    states = _states(optimizer, before)
    readers, wholes = Readers(plan) if free_source else None, OneWhole()
    found: list[GrownSlots[nn.Parameter]] = []
    after: dict[nn.Parameter, dict[str, Any]] = {}
    members: list[dict[nn.Parameter, nn.Parameter]] = [{} for _ in optimizer.param_groups]
    parameters = _parameters(grown)
    for stored in stored_tensors(plan):
        parameter = parameters.get(stored.name)
        if parameter is None:
            continue  # a buffer
        spec, index, _ = stored.parts[0]
        origin = plan.stored_origin(spec, index)
        group = group_of.get(before[origin]) if origin in before else None
        if group is None:
            continue
        members[group][parameter] = before[origin]
        own: dict[str, Any] = {}
        if state != "drop":
            make = _Placed(plan, stored, states, state, before, parameter, wholes)
            own = grown_state(plan, stored, states, origin, powers, state, make)
        if own:
            after[parameter] = own
        found.append(GrownSlots(stored, before[origin], parameter, bool(own)))
        for name in readers.finished(stored) if readers is not None else ():
            if name in before:
                optimizer.state.pop(before[name], None)
                states.pop(name, None)
    _regroup(optimizer, members, source, grown)
    optimizer.state.clear()
    for parameter, own in after.items():
        optimizer.state[parameter] = own
    return found


def _regroup(
    optimizer: torch.optim.Optimizer,
    members: Sequence[Mapping[nn.Parameter, nn.Parameter]],
    source: nn.Module,
    grown: nn.Module,
) -> None:
    """Put grown parameters into the groups; ``members``: of every group, those and what they come from."""
    before = {parameter: plain_name(name) for name, parameter in source.named_parameters()}
    after = {parameter: plain_name(name) for name, parameter in grown.named_parameters()}
    named = {name: parameter for parameter, name in after.items()}
    groups = [[before[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    origins = [{after[mine]: before[of] for mine, of in some.items()} for some in members]
    orders = grown_order(groups, origins, list(before.values()), list(named))
    for group, order in zip(optimizer.param_groups, orders, strict=True):
        group["params"] = [named[name] for name in order.names]
        if "param_names" in group:
            group["param_names"] = list(order.names)
    problem = next((order.problem(number) for number, order in enumerate(orders) if order.lost is not None), None)
    if problem is not None:
        warnings.warn(
            f"{problem}. This optimizer goes on as it should, but load its state dict by name, into an optimizer whose "
            "groups have the order of this one's",
            stacklevel=2,
        )


def check_optimizers(
    optimizers: Sequence[torch.optim.Optimizer], source: nn.Module, *, state: str, slots: Mapping[str, int] | None
) -> None:
    """Refuse optimizers that cannot be grown together, before anything is changed.

    Raises:
        RequestError: two of them hold the same parameter, and as ``check_optimizer``.
    """
    owners: dict[nn.Parameter, int] = {}
    for number, optimizer in enumerate(optimizers):
        check_optimizer(optimizer, source, state=state, slots=slots)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if owners.setdefault(parameter, number) != number:
                    name = next(n for n, p in _parameters(source).items() if p is parameter)
                    raise RequestError(
                        f"optimizers {owners[parameter]} and {number} both hold {name}: a parameter has one optimizer"
                    )


def check_optimizer(
    optimizer: torch.optim.Optimizer, source: nn.Module, *, state: str, slots: Mapping[str, int] | None
) -> dict[str, int]:
    """Return the power of the gradient that each slot averages, of an optimizer whose state can be grown.

    Raises:
        RequestError: an unknown policy, a parameter that is not the source's, a slot that cannot be grown, or ranks
            that hold different state.
    """
    check_policy(state)
    kind = type(optimizer).__name__
    powers = powers_of(kind, slots)
    before = _parameters(source)

    def check() -> None:
        _groups(optimizer, before, type(source).__name__)
        if state != "drop":
            shapes = {name: tuple(p.shape) for name, p in before.items()}
            check_slots(kind, _states(optimizer, before), shapes, powers)

    if not any(map(is_sharded, before.values())):
        check()
        return powers
    ranks = current("nothing was grown", RequestError)
    ranks.together(check)
    if state != "drop":
        agree(ranks, "the optimizer's state", describe_state(optimizer, before))
    return powers


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: tensor for name, tensor in tensors_of(model).items() if isinstance(tensor, nn.Parameter)}


def _groups(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], model: str) -> dict[nn.Parameter, int]:
    known = set(named.values())
    found: dict[nn.Parameter, int] = {}
    for number, group in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(group["params"]):
            if parameter not in known:
                raise RequestError(
                    f"the optimizer does not belong to this model: parameter {place} of group {number}, of shape "
                    f"{list(parameter.shape)}, is not one of {model}'s; pass the optimizer that trains it"
                )
            found[parameter] = number
    return found


@dataclass(frozen=True, slots=True)
class _Placed:
    """Makes the slots of one grown parameter, placed as the parameter is."""

    plan: Plan
    stored: StoredTensor
    states: States
    policy: str
    before: Mapping[str, nn.Parameter]
    parameter: nn.Parameter
    wholes: OneWhole

    def __call__(self, slot: str, power: int, like: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of a slot; ``like`` is the slot of the source's parameter that it comes from."""
        device = working_device(like)

        def find(name: str) -> torch.Tensor:
            value: torch.Tensor | None = self.states.get(name, {}).get(slot)
            if value is None:  # never stepped
                return torch.zeros(self.before[name].shape, dtype=like.dtype, device=device)
            return value

        def read(canonical: str) -> torch.Tensor:
            info = self.plan.source.tensors[canonical]
            return take(self.wholes.get((slot, info.stored), lambda: find(info.stored)), info.piece)

        bounds = bounds_of(self.parameter)
        part = grow_slot(self.plan, self.stored, power, read, like.dtype, device, policy=self.policy, within=bounds)
        holder = self.parameter if is_sharded(self.parameter) else like
        return placed_like(self.parameter, part.to(local(holder).device))


def _states(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Any]]:
    return {name: optimizer.state[parameter] for name, parameter in named.items() if parameter in optimizer.state}


__all__ = ["check_optimizer", "check_optimizers", "grow_optimizer"]
