"""The constraints check of two models, folders or live ones: opens both, reads the record, gives free blocks again."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.verification.constraints import ConstraintsReport, compare_checkpoints
from growformer.verification.held import Shelf
from growformer.verification.recorded import Recorded
from growformer.verification.regions import Region

if TYPE_CHECKING:
    import torch

    from growformer.planning.plan import Plan


def run_constraints(source: Any, grown: Any, plan: Plan) -> ConstraintsReport:
    """Compare the tensors of a grown model with those of its source, as a plan says that it was grown.

    Raises:
        SourceError: a checkpoint cannot be read, or is not the one that the plan was made for.
    """
    from growformer.execute.checkpoint import check_same_source
    from growformer.storage.folder import open_folder

    record = json.loads(plan.to_json())
    names = None
    with ExitStack() as stack:
        if isinstance(source, (str, Path)):
            folder = open_folder(source)
            check_same_source(plan, folder)
            read_stored = stack.enter_context(folder.reader())
        else:
            read_stored = source.state_dict().__getitem__
        if isinstance(grown, (str, Path)):
            target = open_folder(grown)
            record["target_config"] = target.config
            names = target.entries.keys()
            read_grown = stack.enter_context(target.reader())
        else:
            read_grown = grown.state_dict().__getitem__

        rec = Recorded.read(record)
        regenerate = None
        if plan.init.can_regenerate:
            regenerate = _regenerator(plan, rec, Shelf(read_stored), Shelf(read_grown))
        return compare_checkpoints(
            rec,
            read_stored,
            read_grown,
            target_names=names,
            regenerate=regenerate,
        )


def _regenerator(plan: Plan, rec: Recorded, source: Shelf, target: Shelf) -> Callable[[str, Region], torch.Tensor]:
    """Return what gives the initialisation's values of a free region: the tensor grown again from the seed."""
    import torch

    from growformer.execute.values import materialise
    from growformer.planning.rules import tensor_plan

    planned = {spec.name(index): (spec, index) for spec, index in plan.specs()}
    latest: dict[str, torch.Tensor] = {}

    def read(canonical: str) -> torch.Tensor:
        return source.tensor(rec.source_held(canonical))

    def regenerate(name: str, region: Region) -> torch.Tensor:
        if name not in latest:
            latest.clear()
            tensor = tensor_plan(plan, *planned[name])
            latest[name] = materialise(tensor, plan.init, read, target.tensor(rec.target_held(*planned[name])).dtype)
        found = latest[name]
        for dim, along in enumerate(region):
            if isinstance(along, slice):
                found = found.narrow(dim, along.start, along.stop - along.start)
            else:
                found = found.index_select(dim, torch.from_numpy(along))
        return found

    return regenerate


__all__ = ["run_constraints"]
