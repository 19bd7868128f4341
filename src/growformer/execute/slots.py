"""What becomes of optimizer state: the mathematics that a live optimizer and one that was saved share.

State is given by name of parameter and slot. A slot that averages gradients is multiplied by the slope of its block
(what growth does to the gradient), one that averages squares by the slope's square. What is new starts at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch

from growformer.architecture.exact import ONE, Root
from growformer.errors import RequestError, did_you_mean
from growformer.execute.stored import StoredTensor, materialise_stored
from growformer.execute.values import Read
from growformer.planning.blocks import Affine, Block, Constant, TensorPlan, from_source
from growformer.planning.plan import Plan

P = TypeVar("P")
States = Mapping[str, Mapping[str, Any]]
"""Name of a parameter -> slot -> value; a parameter that was never stepped is absent or has no slots."""
Make = Callable[[str, int, torch.Tensor], torch.Tensor]
"""Gives a grown slot: its name, the power of the gradient that it averages, and that of the source's parameter."""

POLICIES = ("carry", "zero-new", "drop")
SLOTS: dict[str, int] = {
    "exp_avg": 1, "momentum_buffer": 1, "grad_avg": 1, "exp_inf": 1,
    "exp_avg_sq": 2, "max_exp_avg_sq": 2, "square_avg": 2, "sum": 2,
}  # fmt: skip
"""Name of a slot -> the power of the gradient that it averages."""
OWN_SLOTS: dict[str, dict[str, int]] = {"RMSprop": {"momentum_buffer": 0}}
"""Where an optimizer's slot of that name averages something else: RMSprop's, gradients over their root mean square."""
STARTS: dict[str, float] = {"step": 0.0, "mu_product": 1.0}
"""Numbers that an optimizer keeps per parameter -> what it starts with; NAdam's product of momenta with one."""
FACTORED = ("row_var", "col_var", "exp_avg_sq_row", "exp_avg_sq_col")
_ZERO = Constant(0.0)


@dataclass(frozen=True, slots=True)
class GrownSlots(Generic[P]):
    """What became of one parameter's state.

    Attributes:
        stored: which declared tensors it holds, and where.
        before: the source's parameter that gave it its group and its step count.
        parameter: the grown one.
        carried: whether any of its state comes from the source.
    """

    stored: StoredTensor
    before: P
    parameter: P
    carried: bool


def check_policy(state: str) -> None:
    """Refuse a policy that there is not.

    Raises:
        RequestError: it is unknown.
    """
    if state not in POLICIES:
        raise RequestError(
            f"unknown state policy {state!r}: expected {', '.join(POLICIES)}{did_you_mean(state, POLICIES)}"
        )


def powers_of(kind: str, slots: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return slot -> power of the gradient that it averages: those known for a kind of optimizer, and a user's."""
    return {**SLOTS, **OWN_SLOTS.get(kind, {}), **(slots or {})}


def check_slots(kind: str, states: States, shapes: Mapping[str, tuple[int, ...]], powers: Mapping[str, int]) -> None:
    """Refuse state that does not have its parameter's shape, or whose scaling is not known.

    Args:
        kind: the optimizer's name, for messages.
        states: its state.
        shapes: name -> the shape of the parameter.
        powers: slot -> power of the gradient.

    Raises:
        RequestError: a slot holds several values, and as ``check_slot``.
    """
    for name, slots in states.items():
        for slot, value in slots.items():
            where = f"{kind}'s slot {slot!r} of {name}"
            if isinstance(value, (list, tuple, dict, set)):
                raise RequestError(
                    f"{where} holds a {type(value).__name__}: what is in it cannot be matched with the parameter. Drop "
                    "the state (state='drop'), or train with an optimizer whose slots are tensors"
                )
            if isinstance(value, torch.Tensor) and value.ndim:
                check_slot(where, slot, tuple(value.shape), value.dtype, shapes[name], powers)


def check_slot(
    where: str,
    slot: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    owner: tuple[int, ...],
    powers: Mapping[str, int],
) -> None:
    """Refuse a slot whose values cannot follow the blocks of its parameter.

    Args:
        where: what it is, for the message.
        slot: its name.
        shape: its shape.
        dtype: of its values.
        owner: the parameter's shape.
        powers: slot -> power of the gradient.

    Raises:
        RequestError: it is factored, quantised, of another shape than the parameter, or nobody knows what it averages.
    """
    found, expected = list(shape), list(owner)
    if slot in FACTORED:
        raise RequestError(
            f"{where} is factored, of shape {found} for a parameter of shape {expected}: what it stands for "
            "cannot be cut into blocks. Drop the state (state='drop'), or train with an optimizer whose state "
            "has the parameter's shape"
        )
    if not dtype.is_floating_point:
        raise RequestError(
            f"{where} holds {str(dtype).removeprefix('torch.')}: quantised state cannot be cut into "
            "blocks. Drop the state (state='drop'), or train with an optimizer that keeps floating-point state"
        )
    if found != expected:
        raise RequestError(
            f"{where} has shape {found}, expected that of the parameter, {expected}; drop the state with state='drop'"
        )
    if slot not in powers:
        raise RequestError(
            f"{where} is unknown, so that its scaling is too; say which power of the gradient it averages, as "
            f"in slots={{{slot!r}: 1}}, or drop the state with state='drop'"
        )


def grown_state(
    plan: Plan, stored: StoredTensor, states: States, origin: str, powers: Mapping[str, int], policy: str, make: Make
) -> dict[str, Any]:
    """Return the state of one grown parameter; nothing where it starts anew.

    Args:
        plan: what was grown by it, under the names of parameters.
        stored: the grown parameter.
        states: of the source, checked by ``check_slots``; not changed, and not aliased by the result.
        origin: the name of the source's parameter that it comes from, or copies.
        powers: slot -> power of the gradient.
        policy: ``carry`` or ``zero-new``; with ``drop`` there is nothing to ask.
        make: gives the slots that have the parameter's shape, by ``grow_slot``.
    """
    present = states.get(origin, {})
    if not present or (policy == "zero-new" and plan.is_new(stored.parts[0][1])):
        return {}
    made: dict[str, Any] = {}
    for slot, value in present.items():
        if not isinstance(value, torch.Tensor):
            made[slot] = value
        elif value.ndim == 0 and (stored.shape or slot not in powers):  # a parameter may be a number, too
            made[slot] = value.clone()
        else:
            made[slot] = make(slot, powers[slot], value)
    return made


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

    Copies are bitwise; scaled values are computed in float64 and rounded once to the slot's own dtype.

    Args:
        plan: what was grown by it.
        stored: the tensor that it belongs to.
        power: of the gradient that it averages.
        read: gives the slot of a declared source tensor.
        dtype: of the slot.
        device: of the slot.
        policy: ``carry`` or ``zero-new``.
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
    value = from_source(block.value)
    if value is None:
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
    "STARTS",
    "GrownSlots",
    "Make",
    "States",
    "check_policy",
    "check_slot",
    "check_slots",
    "grow_slot",
    "grown_state",
    "powers_of",
    "slot_plan",
]
