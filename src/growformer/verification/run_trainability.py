"""Where the new regions of a live model are, which may store tensors otherwise than its source on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from growformer.architecture.source import stored_name
from growformer.execute.provenance import new_regions
from growformer.planning.rules import tensor_plan
from growformer.verification.held import LiveNames, held_tensor, parts_of, ranges_inside

if TYPE_CHECKING:
    from torch import nn

    from growformer.planning.plan import Plan
    from growformer.verification.trainability import Regions


def live_regions(plan: Plan, model: nn.Module) -> dict[str, Regions]:
    """Return what is new in every parameter of a live model, which may store tensors otherwise than its source."""
    architecture, names = plan.architecture, model.state_dict().keys()
    base = f"{architecture.prefix}."
    prefix = base if architecture.prefix and any(name.startswith(base) for name in names) else ""
    live = LiveNames(architecture, prefix, plan.source.spelling, tuple(architecture.packed))
    inside = {name: held for name, held in parts_of(live, plan.target_sizes) if held.stored in names}
    found: dict[str, Regions] = {}
    for spec, index in plan.specs():
        canonical = spec.name(index)
        held = inside.get(canonical) or held_tensor(live, spec, index)
        stored = held.stored if held.stored in names else stored_name(architecture, prefix, canonical)
        regions = [ranges_inside(region, held.piece) for region in new_regions(tensor_plan(plan, spec, index))]
        found.setdefault(stored, []).extend(regions)
    return found


__all__ = ["live_regions"]
