"""``growformer.json``: what a grown checkpoint was made from, and which region of every parameter is new."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from growformer.architecture.packing import Piece
from growformer.errors import PlanError, SourceError, in_words
from growformer.execute.stored import stored_tensors
from growformer.planning.blocks import Affine, Index1D, Sum, TensorPlan, positions
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan

FILE = "growformer.json"
CERTIFICATE = "growformer.verify.json"
"""What ``growformer verify`` writes beside the weights. It is true of those bytes alone, and never carried on."""
FORMAT = 1
Ranges = list[list[int]]
Regions = list[list[Ranges]]
"""Disjoint regions; each is a product over the dimensions of unions of ``[start, stop)`` ranges."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The record of one growth.

    Attributes:
        source: location, revision and digest of the source.
        tensors: stored name -> ``grown``, ``carried`` or ``new``.
        dropped: what did not go on, and why.
        new_regions: stored name -> the regions that no source value fills.
        plan: the plan.
        files: digests of the shards, and what became of other files.
    """

    source: dict[str, Any]
    tensors: dict[str, str]
    dropped: dict[str, str]
    new_regions: dict[str, Regions]
    plan: Plan
    files: dict[str, Any]


def load_provenance(path: str | Path) -> Provenance:
    """Read the record of a grown checkpoint: a folder, or its growformer.json.

    Raises:
        SourceError: there is none, or it cannot be read.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    data = read_record(file)
    if data.get("format") != FORMAT:
        raise SourceError(f"{file}: a record of format {data.get('format')!r:.40}; this version reads format {FORMAT}")
    if not isinstance(data.get("plan"), dict):
        raise SourceError(f"{file}: not a record of growformer: it holds no plan")
    try:
        regions = {name: group["regions"] for group in data["new_regions"] for name in group["tensors"]}
        return Provenance(
            source=data["source"],
            tensors=data["tensors"],
            dropped=data["dropped"],
            new_regions={name: regions.get(name, []) for name in data["tensors"]},
            plan=Plan.from_json(json.dumps(data["plan"])),
            files=data["files"],
        )
    except PlanError as error:
        raise SourceError(f"{file}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{file}: not a record of growformer: {in_words(error)}") from None


def read_record(file: Path) -> dict[str, Any]:
    """Read a growformer.json as plain data.

    Raises:
        SourceError: there is none, or it is not JSON.
    """
    if not file.is_file():
        raise SourceError(f"{file}: missing; only a checkpoint written by growformer has one")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{file}: not a record of growformer, and no JSON: {error}") from None
    if not isinstance(data, dict):
        raise SourceError(f"{file}: not a record of growformer: expected an object, found {type(data).__name__}")
    return data


def new_regions(tensor: TensorPlan) -> Regions:
    """Return the regions of a tensor that no source value fills: zero, mean and free blocks."""
    return [
        [_ranges(index) for index in block.region]
        for block in tensor.blocks
        if not isinstance(block.value, (Affine, Sum))
    ]


def new_region_groups(plan: Plan) -> list[dict[str, Any]]:
    """Return new regions of stored tensors, those with the same ones together."""
    groups: dict[str, dict[str, Any]] = {}
    for stored in stored_tensors(plan):
        regions: Regions = []
        for spec, index, piece in stored.parts:
            regions += [_inside(region, piece) for region in new_regions(tensor_plan(plan, spec, index))]
        if regions:
            group = groups.setdefault(json.dumps(regions), {"tensors": [], "regions": regions})
            group["tensors"].append(stored.name)
    return list(groups.values())


def _inside(region: list[Ranges], piece: Piece | None) -> list[Ranges]:
    """Return a region of a declared tensor as one of the stored tensor that holds it."""
    if piece is None:
        return region
    dims = region[::-1] if piece.transposed else list(region)
    along = np.concatenate([np.arange(a, b) for a, b in dims[piece.dim]])
    dims[piece.dim] = _ranges(piece.start + along * piece.step)
    return dims if piece.at is None else [[[piece.at, piece.at + 1]], *dims]


def _ranges(index: Index1D) -> Ranges:
    found: Ranges = []
    for position in positions(index).tolist():
        if found and position == found[-1][1]:
            found[-1][1] += 1
        else:
            found.append([position, position + 1])
    return found
