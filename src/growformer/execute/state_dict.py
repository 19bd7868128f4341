"""The reference executor: a state dict in, a grown state dict out. Every other executor must equal it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from growformer.architecture.source import stored_name
from growformer.errors import PlanError
from growformer.execute.values import materialise
from growformer.planning.plan import Plan


def grow_state_dict(
    plan: Plan, state: Mapping[str, torch.Tensor], *, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Return the grown state dict under the source's naming.

    Args:
        plan: what becomes of each tensor.
        state: the source's tensors by their stored names; not changed, and never aliased by the result.
        dtype: of the result; by default each tensor keeps its own.

    Raises:
        PlanError: a tensor that the plan reads is missing or has another shape.
    """

    def read(name: str) -> torch.Tensor:
        info = plan.source.tensors[name]
        if info.stored not in state:
            raise PlanError(f"the state dict has no {info.stored!r}, which the plan reads")
        tensor = state[info.stored].detach()
        if tuple(tensor.shape) != info.shape:
            raise PlanError(f"{info.stored} has shape {list(tensor.shape)}; the plan was made for {list(info.shape)}")
        return tensor

    grown: dict[str, torch.Tensor] = {}
    for tensor in plan.tensors():
        source = read(tensor.source)
        name = stored_name(plan.architecture, plan.source.prefix, tensor.name)
        grown[name] = materialise(tensor, plan.init, read, dtype or source.dtype, source.device)
    return grown
