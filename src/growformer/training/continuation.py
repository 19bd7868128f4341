"""Growth as an event in a training run, in one process: the optimizer goes on with the grown model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from growformer.execute.optimizer import grow_optimizer
from growformer.planning.plan import Plan
from growformer.training.updates import UpdateRules, steps_of, updates_of


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


__all__ = ["continue_training"]
