"""Records of growths written by hand: no planner takes part, so that conditions are tested alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from growformer.architecture import Architecture
from growformer.architecture.exact import Root
from growformer.architecture.serialise import architecture_to_json
from growformer.architecture.source import describe
from growformer.verification.held import take
from growformer.verification.recorded import Recorded
from growformer.verification.regions import spread
from growformer.verification.requirements import Free, MeanOf, Requirement, Scaled, Value, requirements

Positions = Mapping[str, Sequence[int]]


def record(
    architecture: Architecture,
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    *,
    new: Mapping[str, Mapping[str, str]] | None = None,
    scales: Mapping[str, Mapping[tuple[int, ...], Root]] | None = None,
    positions: Positions | None = None,
    epsilons: Mapping[str, str] | None = None,
    tensors: Mapping[str, tuple[tuple[int, ...], str]] | None = None,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Return a record. New coordinates come last, new layers too, unless ``positions`` says where they come from."""
    before, after = architecture.resolve_config(source), architecture.resolve_config(target)
    found = dict(tensors or shapes(architecture, source, dtype))
    info = describe(architecture, source, found)
    maps: dict[str, list[dict[str, Any]]] = {}
    templates: dict[str, list[dict[str, Any]]] = {}
    for axis in architecture.sizes:
        maps[axis] = []
        for index in architecture.instances(architecture.size_index(axis), after):
            old, size = architecture.size(axis, before, index), architecture.size(axis, after, index)
            origins = (positions or {}).get(axis) or [i if i < old else -1 for i in range(size)]
            runs = [[origin, 1] for origin in origins]
            maps[axis].append({"index": list(index.values()), "source_size": old, "runs": runs})
            if axis in architecture.index_axes:
                copied = [origin if origin >= 0 else max(0, old - 1) for origin in origins]
                templates.setdefault(axis, []).append({"index": list(index.values()), "source": copied})
    spaces = {
        name: {
            "new": dict((new or {}).get(name, {})),
            "scales": [
                {"index": list(key), "scale": str(scale)} for key, scale in ((scales or {}).get(name) or {}).items()
            ],
        }
        for name in architecture.spaces
    }
    data = {
        "architecture": architecture_to_json(architecture), "source": info.to_json(), "target_config": dict(target),
        "axis_maps": maps, "templates": templates, "spaces": spaces, "epsilon_factors": dict(epsilons or {}),
    }  # fmt: skip
    return json.loads(json.dumps(data))  # type: ignore[no-any-return]


def shapes(architecture: Architecture, config: Mapping[str, Any], dtype: str = "float32") -> dict[str, Any]:
    """Return the shape and dtype of every tensor that a config has, by its declared name."""
    resolved = architecture.resolve_config(config)
    return {
        spec.name(index): (architecture.shape(spec, resolved, index), dtype)
        for spec in architecture.tensors.values()
        for index in architecture.instances_of(spec, resolved)
    }


# Checkpoints that meet what a record asks for.


def random_source(data: Mapping[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random tensors for a record's source, by stored names, in float64."""
    generator = torch.Generator().manual_seed(seed)
    rec = Recorded.read(data)
    found: dict[str, torch.Tensor] = {}
    for name in rec.tensors:
        held = rec.source_held(name)
        shape = rec.tensors[name].shape if held.piece is None else held.shape
        if held.stored not in found:
            found[held.stored] = torch.randn(shape, generator=generator, dtype=torch.float64)
    return found


def satisfying(data: Mapping[str, Any], source: Mapping[str, torch.Tensor], seed: int = 1) -> dict[str, torch.Tensor]:
    """Return a target that meets all requirements, free values random."""
    generator = torch.Generator().manual_seed(seed)
    rec = Recorded.read(data)
    target: dict[str, torch.Tensor] = {}
    for spec, index in rec.specs():
        needed = requirements(rec, spec.template, index)
        whole = needed.held.shape if needed.held.piece is not None else needed.shape
        target.setdefault(needed.stored, torch.zeros(whole, dtype=torch.float64))
        tensor = take(target[needed.stored], needed.held.piece)
        for use in needed.uses:
            for requirement in use:
                _meet(tensor, requirement, rec, source, generator)
    return target


def _meet(
    tensor: torch.Tensor,
    requirement: Requirement,
    rec: Recorded,
    source: Mapping[str, torch.Tensor],
    generator: torch.Generator,
) -> None:
    must = requirement.must
    for number, region in enumerate(requirement.copies):
        where = np.ix_(*map(spread, region))
        shape = [spread(along).size for along in region]
        if isinstance(must, Free):
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
        elif isinstance(must, Value):
            values = torch.full(shape, float(must), dtype=torch.float64)
        else:
            held = rec.source_held(must.tensor)
            read = take(source[held.stored], held.piece)[np.ix_(*map(spread, must.region))]
            if isinstance(must, MeanOf):
                values = (read.mean(dim=must.dim, keepdim=True) * float(must.scale)).expand(shape)
            else:
                values = float(must.scale) * (read + must.offset) - must.offset
        tensor[where] = values if number == 0 or isinstance(must, Free) else torch.zeros_like(values)


def kinds_of(violations: Iterator[Any] | Sequence[Any]) -> set[str]:
    """Return what kinds of violations there are."""
    return {violation.kind for violation in violations}


__all__ = ["Scaled", "kinds_of", "random_source", "record", "satisfying", "shapes"]
