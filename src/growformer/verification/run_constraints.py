"""The constraints check of two models, folders or live ones: opens both, reads the record, gives free blocks again."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.verification.constraints import ConstraintsReport, compare_checkpoints
from growformer.verification.recorded import Recorded
from growformer.verification.tensors import Tensors, Whole

if TYPE_CHECKING:
    from growformer.planning.plan import Plan

MAX_THREADS = 4
"""Each holds a band of both sides; reading and comparing take turns."""


def run_constraints(source: Any, grown: Any, plan: Plan, *, strict: bool = False) -> ConstraintsReport:
    """Compare the tensors of a grown model with those of its source, as a plan says that it was grown.

    Args:
        source: model folder, or live model.
        grown: likewise.
        plan: how it was grown.
        strict: demand equal bits wherever mathematics gives them; see ``compare_checkpoints``.

    Raises:
        SourceError: a checkpoint cannot be read, or is not the one that the plan was made for.
    """
    from growformer.execute.checkpoint import check_same_source
    from growformer.storage.folder import open_folder
    from growformer.storage.weights import Weights
    from growformer.verification.folder_tensors import FolderTensors
    from growformer.verification.regenerate import from_folder, from_live

    record = json.loads(plan.to_json())
    names = None
    threads = 1
    with ExitStack() as stack:
        if isinstance(grown, (str, Path)):
            target = open_folder(grown)
            record["target_config"] = target.config
            names = target.entries.keys()
            after: Tensors = FolderTensors(stack.enter_context(Weights(target.entries)))
        else:
            after = Whole(grown.state_dict().__getitem__)
        rec = Recorded.read(record)
        if isinstance(source, (str, Path)):
            folder = open_folder(source)
            check_same_source(plan, folder)
            weights = stack.enter_context(Weights(folder.entries))
            before: Tensors = FolderTensors(weights)
            regenerate = from_folder(plan, rec, weights, after)
            threads = min(MAX_THREADS, (os.cpu_count() or 1) + 1)
        else:
            read = source.state_dict().__getitem__
            before, regenerate = Whole(read), from_live(plan, rec, read, after)
        return compare_checkpoints(
            rec,
            before,
            after,
            target_names=names,
            regenerate=regenerate if plan.init.can_regenerate else None,
            strict=strict,
            threads=threads,
        )


__all__ = ["run_constraints"]
