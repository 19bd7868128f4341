"""The optimizer executor: the same optimizer object, with a grown model's parameters and state that follows the plan.

What becomes of a slot is said in ``execute.slots``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from growformer.errors import RequestError
from growformer.execute.slots import GrownSlots, check_policy, check_slots, grown_state, powers_of
from growformer.execute.stored import stored_tensors
from growformer.planning.plan import Plan


def grow_optimizer(
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    source: nn.Module,
    grown: nn.Module,
    *,
    state: str = "carry",
    slots: Mapping[str, int] | None = None,
) -> list[GrownSlots[nn.Parameter]]:
    """Give an optimizer of the source the grown model's parameters, in place; schedulers and scalers stay attached.

    A parameter joins the group of the one that it comes from: of one that is new, that is the one that it copies, or
    the first of its kind.

    Args:
        plan: what was grown by it.
        optimizer: holds parameters of the source; afterwards, those of the grown model.
        source: the model before.
        grown: the model after, made by ``execute.module``.
        state: ``carry``: what comes from the source, copies included, keeps its state. ``zero-new``: copies in new
            layers start at zero as well. ``drop``: all start anew.
        slots: name -> power of the gradient, for slots that torch's optimizers do not have.

    Raises:
        RequestError: an unknown policy, a parameter that is not the source's, or a slot that cannot be grown; nothing
            has been changed then.
    """
    check_policy(state)
    kind = type(optimizer).__name__
    powers = powers_of(kind, slots)
    before = dict(source.named_parameters(remove_duplicate=False))
    group_of = _groups(optimizer, before, type(source).__name__)
    states: dict[str, Mapping[str, Any]] = {}
    if state != "drop":
        states = {
            name: optimizer.state[parameter] for name, parameter in before.items() if parameter in optimizer.state
        }
        check_slots(kind, states, {name: tuple(p.shape) for name, p in before.items()}, powers)
    found: list[GrownSlots[nn.Parameter]] = []
    after: dict[nn.Parameter, dict[str, Any]] = {}
    members: dict[int, list[tuple[str, nn.Parameter]]] = defaultdict(list)
    parameters = dict(grown.named_parameters(remove_duplicate=False))
    for stored in stored_tensors(plan):
        parameter = parameters.get(stored.name)
        if parameter is None:
            continue  # a buffer
        spec, index, _ = stored.parts[0]
        origin = plan.source.tensors[plan.dtype_from(spec, index)].stored
        group = group_of.get(before[origin]) if origin in before else None
        if group is None:
            continue
        members[group].append((stored.name, parameter))
        own: dict[str, Any] = {}
        if state != "drop":
            own = grown_state(plan, stored, states, origin, powers, state, _zeros)
        if own:
            after[parameter] = own
        found.append(GrownSlots(stored, before[origin], parameter, bool(own)))
    for number, group_ in enumerate(optimizer.param_groups):
        names = {name: place for place, name in enumerate(parameters)}
        ordered = sorted(members[number], key=lambda member: names[member[0]])
        group_["params"] = [parameter for _, parameter in ordered]
        if "param_names" in group_:
            group_["param_names"] = [name for name, _ in ordered]
    optimizer.state.clear()
    for parameter, own in after.items():
        optimizer.state[parameter] = own
    return found


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


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


__all__ = ["grow_optimizer"]
