"""Gives free blocks again: what an initialisation has put into regions that nothing constrains.

This is the one place of the check that asks the planner and the executor: the values that preserve are derived without
them, those that may be any can only come from whoever chose them.
"""

from __future__ import annotations

from threading import local
from typing import TYPE_CHECKING

import torch

from growformer.execute.fill import BandFiller
from growformer.execute.values import materialise
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan
from growformer.storage.weights import WIDTH, Scratch, Weights
from growformer.verification.held import Shelf
from growformer.verification.recorded import Recorded
from growformer.verification.regions import Region, select

if TYPE_CHECKING:
    from growformer.verification.constraints import Regenerate
    from growformer.verification.tensors import Read, Tensors


def from_folder(plan: Plan, rec: Recorded, weights: Weights, target: Tensors) -> Regenerate:
    """Return what gives regions of a plan's target from a source folder; threads may share it, and no more is made.

    Args:
        plan: how the target was grown.
        rec: the same, as recorded.
        weights: the source's, open for reading.
        target: tells the dtypes.
    """
    filler, threads = BandFiller(plan, weights), local()
    planned = {spec.name(index): (spec, index) for spec, index in plan.specs()}

    def regenerate(name: str, region: Region) -> torch.Tensor:
        if not hasattr(threads, "scratch"):
            threads.scratch = Scratch()
        spec, index = planned[name]
        dtype = target.dtype(rec.target_held(spec, index).stored)
        kind = str(dtype).removeprefix("torch.")
        bits = filler.values((spec, index, None), kind, region, threads.scratch)
        return torch.from_numpy(bits.view(f"i{WIDTH[kind]}")).view(dtype)

    return regenerate


def from_live(plan: Plan, rec: Recorded, read: Read, target: Tensors) -> Regenerate:
    """Return what gives regions of a plan's target from a live source; the tensor made last is kept.

    Args:
        plan: how the target was grown.
        rec: the same, as recorded.
        read: gives the source's tensors by their stored names.
        target: tells the dtypes.
    """
    planned = {spec.name(index): (spec, index) for spec, index in plan.specs()}
    shelf = Shelf(read)
    latest: dict[str, torch.Tensor] = {}

    def regenerate(name: str, region: Region) -> torch.Tensor:
        if name not in latest:
            latest.clear()
            dtype = target.dtype(rec.target_held(*planned[name]).stored)
            tensor = tensor_plan(plan, *planned[name])
            latest[name] = materialise(tensor, plan.init, lambda n: shelf.tensor(rec.source_held(n)), dtype)
        return select(latest[name], region)

    return regenerate


__all__ = ["from_folder", "from_live"]
