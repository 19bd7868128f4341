"""Growth as an event in a training run, in one process: the optimizer goes on with the grown model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from growformer.architecture.packing import stored_region
from growformer.errors import RequestError
from growformer.execute.module import tensors_of
from growformer.execute.optimizer import grow_optimizer
from growformer.execute.placement import local, local_region
from growformer.execute.slots import GrownSlots
from growformer.execute.stored import StoredTensor, stored_tensors
from growformer.execute.values import select
from growformer.planning.blocks import Constant
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan
from growformer.training.update_rules import UpdateRules
from growformer.training.updates import steps_of, updates_of


def continue_training(
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    source: nn.Module,
    grown: nn.Module,
    *,
    state: str = "carry",
    slots: Mapping[str, int] | None = None,
    updates: UpdateRules | None = None,
    free_source: bool = False,
) -> torch.optim.Optimizer:
    """Give the optimizer the grown model, with state and region updates that follow the plan; see ``growformer.grow``.

    Raises:
        RequestError: as ``execute.optimizer.grow_optimizer``; the optimizer is as it was then.
    """
    steps = steps_of(optimizer)
    slots_grown = grow_optimizer(plan, optimizer, source, grown, state=state, slots=slots, free_source=free_source)
    updates_of(optimizer).grow(plan, slots_grown, updates or UpdateRules(), steps, state=state)
    return optimizer


def scale_updates(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    plan: Plan,
    *,
    updates: UpdateRules | None = None,
    state: str = "carry",
) -> torch.optim.Optimizer:
    """Scale updates of what is new, in a run that goes on from a checkpoint that was grown on disk with its optimizer.

    ``growformer.grow`` does this by itself. Call it once, when model and optimizer have been loaded; from then on
    ``updates_of(optimizer).state_dict()`` belongs into the run's checkpoints.

    Args:
        optimizer: with the grown state.
        model: the grown one, sharded or not.
        plan: what was grown by it, as ``growformer.load_provenance(OUT).plan`` has it.
        updates: the rules; by default, new regions get the bias correction of their own age in Adam and AdamW.
        state: the policy by which the state was grown.

    Raises:
        RequestError: a parameter of the plan is not the model's, or has been trained since it was grown.
    """
    updates_here = updates_of(optimizer)
    if any(updates_here.regions(p) for group in optimizer.param_groups for p in group["params"]):
        raise RequestError("this optimizer has region updates already: load those that the run saved, and no others")
    named = tensors_of(model)
    learning = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    grown = []
    for stored in stored_tensors(plan):
        parameter = named.get(stored.name)
        if parameter is None or tuple(parameter.shape) != stored.shape:
            raise RequestError(
                f"{stored.name} has shape {list(stored.shape)} in the plan, and "
                f"{'is not there' if parameter is None else list(parameter.shape)} in the model: pass the grown model"
            )
        if isinstance(parameter, nn.Parameter) and parameter in learning:
            _check_untrained(plan, stored, parameter)
            grown.append(GrownSlots(stored, parameter, parameter, bool(optimizer.state.get(parameter))))
    updates_here.grow(plan, grown, updates or UpdateRules(), steps_of(optimizer), state=state)
    return optimizer


def _check_untrained(plan: Plan, stored: StoredTensor, parameter: nn.Parameter) -> None:
    """Refuse a parameter whose constant regions are no longer what growth made them.

    Raises:
        RequestError: it has been trained since.
    """
    for spec, index, piece in stored.parts:
        for block in tensor_plan(plan, spec, index).blocks:
            if not isinstance(block.value, Constant):
                continue
            inside = local_region(parameter, stored_region(piece, block.region))
            if inside is not None and bool((select(local(parameter), inside) != block.value.value).any()):
                raise RequestError(
                    f"{stored.name} has been trained since it was grown, so that its new regions are older than this "
                    "call takes them for: load the region updates that the run saved, by updates_of(optimizer)"
                )


__all__ = ["continue_training", "scale_updates"]
