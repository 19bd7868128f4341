"""The reference executor: a state dict in, a grown state dict out. Every other executor must equal it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from growformer.errors import PlanError
from growformer.execute.stored import materialise_stored, stored_tensors, take
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
        tensor = take(state[info.stored].detach(), info.piece)
        if tuple(tensor.shape) != info.shape:
            raise PlanError(f"{info.stored} has shape {list(tensor.shape)}; the plan was made for {list(info.shape)}")
        return tensor

    grown: dict[str, torch.Tensor] = {}
    for stored in stored_tensors(plan):
        spec, index, _ = stored.parts[0]
        origin = plan.origin(index)
        named = spec.name(origin) if origin is not None else ""
        device = read(named if named in plan.source.tensors else plan.any_source(spec)).device
        grown[stored.name] = materialise_stored(stored, plan, read, dtype or getattr(torch, stored.dtype), device)
    return grown
