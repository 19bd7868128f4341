"""The optimizer executor: the same optimizer object, with a grown model's parameters and state that follows the plan.

A slot that averages gradients is multiplied by the slope of its block (what growth does to the gradient), one that
averages squares by the slope's square. What is new starts at zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from growformer.architecture.exact import ONE, Root
from growformer.errors import RequestError, did_you_mean
from growformer.execute.distributed import Readers, agree, describe_state
from growformer.execute.module import tensors_of
from growformer.execute.placement import OneWhole, bounds_of, is_sharded, local, placed_like, working_device
from growformer.execute.ranks import current
from growformer.execute.stored import StoredTensor, materialise_stored, stored_tensors, take
from growformer.execute.values import Read
from growformer.planning.blocks import Affine, Block, Constant, Sum, TensorPlan
from growformer.planning.plan import Plan

POLICIES = ("carry", "zero-new", "drop")
SLOTS: dict[str, int] = {
    "exp_avg": 1, "momentum_buffer": 1, "grad_avg": 1, "exp_inf": 1,
    "exp_avg_sq": 2, "max_exp_avg_sq": 2, "square_avg": 2, "sum": 2,
}  # fmt: skip
"""Name of a slot -> the power of the gradient that it averages."""
OWN_SLOTS: dict[str, dict[str, int]] = {"RMSprop": {"momentum_buffer": 0}}
"""Where an optimizer's slot of that name averages something else: RMSprop's, gradients over their root mean square."""
FACTORED = ("row_var", "col_var", "exp_avg_sq_row", "exp_avg_sq_col")
_ZERO = Constant(0.0)


@dataclass(frozen=True, slots=True)
class GrownSlots:
    """What became of one parameter's state.

    Attributes:
        stored: which declared tensors it holds, and where.
        before: the source's parameter that gave it its group and its step count.
        parameter: the grown one.
        carried: whether any of its state comes from the source.
    """

    stored: StoredTensor
    before: nn.Parameter
    parameter: nn.Parameter
    carried: bool


def grow_optimizer(
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    source: nn.Module,
    grown: nn.Module,
    *,
    state: str = "carry",
    slots: Mapping[str, int] | None = None,
    free_source: bool = False,
) -> list[GrownSlots]:
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
        free_source: free the state of every source parameter after its last reader.

    Raises:
        RequestError: as ``check_optimizer``; nothing has been changed then.
    """
    powers = check_optimizer(optimizer, source, state=state, slots=slots)
    before = _parameters(source)
    group_of = _groups(optimizer, before, type(source).__name__)
    readers, wholes = Readers(plan) if free_source else None, OneWhole()
    found: list[GrownSlots] = []
    states: dict[nn.Parameter, dict[str, Any]] = {}
    members: dict[int, list[tuple[str, nn.Parameter]]] = defaultdict(list)
    parameters = _parameters(grown)
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
            own = _grown_state(plan, stored, optimizer, before, (before[origin], parameter), powers, state, wholes)
        if own:
            states[parameter] = own
        found.append(GrownSlots(stored, before[origin], parameter, bool(own)))
        for name in readers.finished(stored) if readers is not None else ():
            if name in before:
                optimizer.state.pop(before[name], None)
    for number, group_ in enumerate(optimizer.param_groups):
        names = {name: place for place, name in enumerate(parameters)}
        ordered = sorted(members[number], key=lambda member: names[member[0]])
        group_["params"] = [parameter for _, parameter in ordered]
        if "param_names" in group_:
            group_["param_names"] = [name for name, _ in ordered]
    optimizer.state.clear()
    for parameter, own in states.items():
        optimizer.state[parameter] = own
    return found


def check_optimizer(
    optimizer: torch.optim.Optimizer, source: nn.Module, *, state: str, slots: Mapping[str, int] | None
) -> dict[str, int]:
    """Return the power of the gradient that each slot averages, of an optimizer whose state can be grown.

    Raises:
        RequestError: an unknown policy, a parameter that is not the source's, a slot that cannot be grown, or ranks
            that hold different state.
    """
    check_policy(state)
    powers = {**SLOTS, **OWN_SLOTS.get(type(optimizer).__name__, {}), **(slots or {})}
    before = _parameters(source)

    def check() -> None:
        _groups(optimizer, before, type(source).__name__)
        if state != "drop":
            _check_slots(optimizer, before, powers)

    if not any(map(is_sharded, before.values())):
        check()
        return powers
    ranks = current("nothing was grown", RequestError)
    ranks.together(check)
    if state != "drop":
        agree(ranks, "the optimizer's state", describe_state(optimizer, before))
    return powers


def check_policy(state: str) -> None:
    """Refuse an unknown policy.

    Raises:
        RequestError: it is.
    """
    if state not in POLICIES:
        raise RequestError(
            f"unknown state policy {state!r}: expected {', '.join(POLICIES)}{did_you_mean(state, POLICIES)}"
        )


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


def _check_slots(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], powers: Mapping[str, int]
) -> None:
    kind = type(optimizer).__name__
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in named.items()}
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if isinstance(value, torch.Tensor) and value.ndim:
                where = f"{kind}'s slot {slot!r} of {names.get(parameter, 'a parameter')}"
                check_slot(where, slot, tuple(value.shape), tuple(parameter.shape), powers)


def check_slot(
    where: str, slot: str, shape: tuple[int, ...], owner: tuple[int, ...], powers: Mapping[str, int]
) -> None:
    """Refuse a slot whose values cannot follow the blocks of its parameter.

    Args:
        where: what it is, for the message.
        slot: its name.
        shape: its shape.
        owner: the parameter's.
        powers: name of a slot -> the power of the gradient that it averages.

    Raises:
        RequestError: it is factored, has another shape than the parameter, or nobody knows what it averages.
    """
    if slot in FACTORED:
        raise RequestError(
            f"{where} is factored, of shape {list(shape)} for a parameter of shape {list(owner)}: what it stands for "
            "cannot be cut into blocks. Drop the state (state='drop'), or train with an optimizer whose state has the "
            "parameter's shape"
        )
    if shape != owner:
        raise RequestError(
            f"{where} has shape {list(shape)}, expected that of the parameter, {list(owner)}; drop the state with "
            "state='drop'"
        )
    if slot not in powers:
        raise RequestError(
            f"{where} is unknown, so that its scaling is too; say which power of the gradient it averages, as in "
            f"slots={{{slot!r}: 1}}, or drop the state with state='drop'"
        )


def _grown_state(
    plan: Plan,
    stored: StoredTensor,
    optimizer: torch.optim.Optimizer,
    named: Mapping[str, nn.Parameter],
    pair: tuple[nn.Parameter, nn.Parameter],
    powers: Mapping[str, int],
    policy: str,
    wholes: OneWhole,
) -> dict[str, Any]:
    """Return the state of one grown parameter, given the source's and it; nothing where it starts anew."""
    origin, parameter = pair
    present = optimizer.state.get(origin, {})
    index = stored.parts[0][1]
    if not present or (policy == "zero-new" and plan.is_new(index)):
        return {}
    made: dict[str, Any] = {}
    for slot, value in present.items():
        if not isinstance(value, torch.Tensor):
            made[slot] = value
        elif value.ndim == 0 and origin.ndim != 0:
            made[slot] = value.clone()
        else:
            made[slot] = _grown_slot(
                plan, stored, optimizer, named, (slot, powers[slot]), policy, value, parameter, wholes
            )
    return made


def _grown_slot(
    plan: Plan,
    stored: StoredTensor,
    optimizer: torch.optim.Optimizer,
    named: Mapping[str, nn.Parameter],
    slot: tuple[str, int],
    policy: str,
    like: torch.Tensor,
    parameter: nn.Parameter,
    wholes: OneWhole,
) -> torch.Tensor:
    """Return one slot of a grown parameter, placed as the parameter is; ``like`` is that of its source."""
    name, power = slot
    device = working_device(like)

    def find(holder: nn.Parameter) -> torch.Tensor:
        value = optimizer.state[holder].get(name) if holder in optimizer.state else None
        if value is None:  # never stepped
            return torch.zeros(holder.shape, dtype=like.dtype, device=device)
        found: torch.Tensor = value
        return found

    def read(canonical: str) -> torch.Tensor:
        info = plan.source.tensors[canonical]
        return take(wholes.get((name, info.stored), lambda: find(named[info.stored])), info.piece)

    part = grow_slot(plan, stored, power, read, like.dtype, device, policy=policy, within=bounds_of(parameter))
    return placed_like(parameter, part.to(local(parameter if is_sharded(parameter) else like).device))


def grow_slot(
    plan: Plan,
    stored: StoredTensor,
    power: int,
    read: Read,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    policy: str = "carry",
    within: tuple[slice, ...] | None = None,
) -> torch.Tensor:
    """Return a slot of the grown tensor, or the part of it inside bounds.

    Args:
        plan: what was grown by it.
        stored: the tensor that it belongs to.
        power: of the gradient that it averages.
        read: gives the slot of a declared source tensor.
        dtype: of the slot.
        device: of the slot.
        policy: as of ``grow_optimizer``.
        within: bounds of what is wanted; by default all.
    """

    def planned(tensor: TensorPlan) -> TensorPlan:
        if policy == "zero-new" and plan.is_new(dict(tensor.index)):
            return replace(tensor, blocks=tuple(Block(block.region, _ZERO) for block in tensor.blocks))
        return slot_plan(tensor, power)

    return materialise_stored(stored, plan, read, dtype, device, within=within, planned=planned)


def slot_plan(tensor: TensorPlan, power: int) -> TensorPlan:
    """Return what becomes of a slot that averages a power of the gradient: source blocks times the slope's power."""
    return replace(tensor, blocks=tuple(Block(block.region, _slot_value(block, power)) for block in tensor.blocks))


def _slot_value(block: Block, power: int) -> Affine | Constant:
    value = block.value
    if isinstance(value, Sum):
        value = next(part for part in value.parts if isinstance(part, Affine))
    if not isinstance(value, Affine):
        return _ZERO
    return Affine(value.tensor, value.region, _power(value.slope, power))


def _power(root: Root, power: int) -> Root:
    result = ONE
    for _ in range(abs(power)):
        result = result * root
    return result if power >= 0 else ONE / result


__all__ = [
    "POLICIES",
    "SLOTS",
    "GrownSlots",
    "check_optimizer",
    "check_policy",
    "check_slot",
    "grow_optimizer",
    "grow_slot",
    "slot_plan",
]
