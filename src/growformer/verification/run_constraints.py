"""The constraints check of two models, folders or live ones: opens both, finds or infers the record, and compares.

Where there is a plan, free blocks are given again from its seed; an inferred record says nothing about them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from growformer.errors import PlanError, SourceError
from growformer.verification.constraints import ConstraintsReport, Regenerate, compare_checkpoints
from growformer.verification.inference.layers import place_layers
from growformer.verification.recorded import Recorded
from growformer.verification.sides import Side, describe_side, open_side, stored_twice

if TYPE_CHECKING:
    from growformer.architecture.declaration import Architecture
    from growformer.planning.plan import Plan

INFERRED = "inferred"
MAX_THREADS = 4
"""Each holds a band of both sides; reading and comparing take turns."""


def run_constraints(
    source: Any,
    grown: Any,
    plan: Plan | None = None,
    *,
    strict: bool = False,
    record: str | Path | None = None,
    architecture: Architecture | None = None,
) -> ConstraintsReport:
    """Compare the tensors of a grown model with those of its source.

    Args:
        source: model folder, or live model.
        grown: likewise.
        plan: how it was grown; by default, what ``record`` says.
        strict: demand equal bits wherever mathematics gives them; see ``compare_checkpoints``.
        record: ``inferred``: from both models. A file: a growformer.json, or a plan's JSON. By default a grown folder's
            own growformer.json, or inferred where there is none.
        architecture: the declaration of an own model, for what is inferred.

    Raises:
        SourceError: a checkpoint cannot be read, or nothing can be inferred.
        PlanError: the source is not the one that the plan was made for.
        UnknownArchitectureError: there is no record, and no declaration describes the source.
    """
    name = "growformer.json" if record is None and plan is None else "plan"
    if plan is None:
        plan = recorded_plan(grown, record)
    with ExitStack() as stack:
        before, after = open_side(source, stack), open_side(grown, stack)
        threads = min(MAX_THREADS, (os.cpu_count() or 1) + 1) if before.folder and after.folder else 1
        if plan is None:
            return _with_inferred(before, after, strict, threads, architecture)
        rec, regenerate = _with_plan(plan, before, after)
        report = compare_checkpoints(
            rec,
            before.tensors,
            after.tensors,
            target_names=after.names,
            regenerate=regenerate,
            strict=strict,
            threads=threads,
            record=name if record is None else str(record),
        )
        if report.ok or any(v.kind == "axis map" for v in report.violations):
            return report
        return replace(report, notes=tuple(_about_layers(rec, before, after)))


def _about_layers(rec: Recorded, before: Side, after: Side) -> Iterator[str]:
    """Say where the tensors show new layers at other places than a record that does not hold."""
    shown = place_layers(rec, before.tensors, after.tensors)
    for axis in rec.index_axes:
        if rec.size_indices[axis]:
            continue
        places = [np.flatnonzero(each.along(axis, {}).source < 0).tolist() for each in (rec, shown)]
        if places[0] != places[1]:
            yield f"the record says that {axis}s {places[0]} are new; by the tensors, {places[1]} are"


def recorded_plan(grown: Any, record: str | Path | None = None) -> Plan | None:
    """Return the plan that a record holds; None where it must be inferred.

    Args:
        grown: model folder, or live model.
        record: see ``run_constraints``.

    Raises:
        SourceError: the record cannot be read.
    """
    from growformer.execute.provenance import FILE, load_provenance, read_record
    from growformer.planning.plan import Plan

    if record == INFERRED:
        return None
    if record is None:
        has_one = isinstance(grown, (str, Path)) and (Path(grown) / FILE).is_file()
        return load_provenance(grown).plan if has_one else None
    file = Path(record)
    if file.is_dir():
        return load_provenance(file).plan
    if not file.exists():
        raise SourceError(f"{file}: no such record; expected {INFERRED!r}, a growformer.json or a plan's JSON file")
    data = read_record(file)
    try:
        return Plan.from_json(json.dumps(data.get("plan", data)))
    except PlanError as error:
        raise SourceError(f"{file}: neither a growformer.json nor a plan's JSON: {error}") from None


def _with_plan(plan: Plan, before: Side, after: Side) -> tuple[Recorded, Regenerate | None]:
    """Return what a plan records, with the config that the target has, and what gives its free blocks again."""
    from growformer.execute.checkpoint import check_same_source
    from growformer.verification.regenerate import from_folder, from_live

    data = json.loads(plan.to_json())
    if after.folder is not None:
        data["target_config"] = after.folder.config
    rec = Recorded.read(data)
    if before.folder is not None:
        check_same_source(plan, before.folder)
    if not plan.init.can_regenerate:
        return rec, None
    if before.weights is not None:
        return rec, from_folder(plan, rec, before.weights, after.tensors)
    return rec, from_live(plan, rec, before.model.state_dict().__getitem__, after.tensors)


def _with_inferred(
    before: Side, after: Side, strict: bool, threads: int, architecture: Architecture | None
) -> ConstraintsReport:
    from growformer.verification.inference.infer import infer

    found, source = describe_side(before, architecture)
    if after.config is None:
        raise SourceError("the grown model has no config with to_dict(): pass plan=..., the plan that it was grown by")
    inferred = infer(found, source, after.config, before.tensors, after.tensors)
    twice = stored_twice(after, found) if source.tied else {}
    report = compare_checkpoints(
        inferred.record,
        before.tensors,
        after.tensors,
        target_names=None if after.names is None else after.names - twice.keys(),
        strict=strict,
        threads=threads,
        record=INFERRED,
    )
    again = tuple(f"{head} is stored beside {table}, with the same bytes" for head, table in twice.items())
    return replace(report, notes=(*inferred.notes, *again))


__all__ = ["INFERRED", "recorded_plan", "run_constraints"]
