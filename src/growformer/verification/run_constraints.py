"""The constraints check of two models, folders or live ones: opens both, finds or infers the record, and compares.

Where there is a plan, free blocks are given again from its seed; an inferred record says nothing about them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from growformer.errors import PlanError, SourceError
from growformer.verification.constraints import ConstraintsReport, Regenerate, compare_checkpoints
from growformer.verification.growth import Growth, find_growth
from growformer.verification.inference.layers import place_layers
from growformer.verification.recorded import Recorded
from growformer.verification.same_source import check_source
from growformer.verification.sides import Side, open_side, stored_twice

if TYPE_CHECKING:
    from growformer.planning.plan import Plan

MAX_THREADS = 4
"""Each holds a band of both sides; reading and comparing take turns."""


def run_constraints(
    source: Any, grown: Any, grew: Growth | Plan | None = None, *, strict: bool = False
) -> ConstraintsReport:
    """Compare the tensors of a grown model with those of its source.

    Args:
        source: model folder, or live model.
        grown: likewise.
        grew: how it was grown; by default what a grown folder records, or what both show.
        strict: demand equal bits wherever mathematics gives them; see ``compare_checkpoints``.

    Raises:
        SourceError: a checkpoint cannot be read, or nothing can be inferred.
        PlanError: the source is not the one that the plan was made for.
        UnknownArchitectureError: there is no record, and no declaration describes the source.
    """
    if not isinstance(grew, Growth):
        grew = find_growth(source, grown, grew)
    with ExitStack() as stack:
        before, after = open_side(source, stack), open_side(grown, stack)
        threads = min(MAX_THREADS, (os.cpu_count() or 1) + 1) if before.folder and after.folder else 1
        said: tuple[str, ...] = ()
        if grew.plan is not None:
            if before.folder is not None:
                said = check_source(grew, before.folder)
            rec, regenerate = _with_plan(grew.plan, before, after)
        else:
            rec, regenerate = grew.recorded(), None
        twice = dict(grew.twice)
        if grew.plan is not None and rec.tied:
            twice = stored_twice(after, rec.architecture)
        report = compare_checkpoints(
            rec,
            before.tensors,
            after.tensors,
            target_names=None if after.names is None else after.names - twice.keys(),
            regenerate=regenerate,
            strict=strict,
            threads=threads,
            record=grew.said_by,
        )
        said = (*said, *(f"{head} is stored beside {table}, with the same bytes" for head, table in twice.items()))
        if grew.inferred is not None:
            return replace(report, notes=(*grew.inferred.notes, *said))
        if report.ok or any(v.kind == "axis map" for v in report.violations):
            return replace(report, notes=said)
        return replace(report, notes=(*said, *_about_layers(rec, before, after)))


def _about_layers(rec: Recorded, before: Side, after: Side) -> Iterator[str]:
    """Say where the tensors show new layers at other places than a record that does not hold."""
    shown = place_layers(rec, before.tensors, after.tensors)
    for axis in rec.index_axes:
        if rec.size_indices[axis]:
            continue
        places = [np.flatnonzero(each.along(axis, {}).source < 0).tolist() for each in (rec, shown)]
        if places[0] != places[1]:
            yield f"the record says that {axis}s {places[0]} are new; by the tensors, {places[1]} are"


def _with_plan(plan: Plan, before: Side, after: Side) -> tuple[Recorded, Regenerate | None]:
    """Return what a plan records, with the config that the target has, and what gives its free blocks again."""
    from growformer.verification.regenerate import from_folder, from_live

    data = json.loads(plan.to_json())
    if after.folder is not None:
        data["target_config"] = after.folder.config
    rec = Recorded.read(data)
    if before.folder is None:
        _check_same_shapes(rec, before)
    if not plan.init.can_regenerate:
        return rec, None
    if before.weights is not None:
        return rec, from_folder(plan, rec, before.weights, after.tensors)
    return rec, from_live(plan, rec, before.model.state_dict().__getitem__, after.tensors)


def _check_same_shapes(rec: Recorded, before: Side) -> None:
    """Refuse a live source that is not the one that a plan was made for.

    Raises:
        PlanError: a tensor has another shape.
    """
    for canonical, tensor in rec.tensors.items():
        held = rec.source_held(canonical)
        expected = tensor.shape if held.piece is None else held.shape
        try:
            found = before.tensors.shape(held.stored)
        except (KeyError, SourceError):
            continue  # the comparison says what is missing
        if tuple(found) != tuple(expected):
            raise PlanError(
                f"the plan was made for another source: its {held.stored} has the shape {list(expected)}, this one's "
                f"{list(found)}; name the source first, and then what it has become"
            )


__all__ = ["run_constraints"]
