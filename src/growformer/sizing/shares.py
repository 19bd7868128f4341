"""Which part of the target each rank of tensor parallelism holds, and how much of it comes from the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from growformer.planning.plan import Plan
from growformer.sizing.consumers import Consumer

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one rank holds of every layer: contiguous query heads, kv heads and MLP units.

    Attributes:
        rank: which one.
        heads, kv_heads, mlp: (how many it holds, how many of those come from the source); None where the family has
            none, or one number per layer.
    """

    rank: int
    heads: tuple[int, int] | None
    kv_heads: tuple[int, int] | None
    mlp: tuple[int, int] | None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def shares(plan: Plan, ranks: int, consumer: Consumer) -> list[Share]:
    """Return what every rank holds; an empty list where heads cannot be split evenly."""
    architecture = plan.architecture
    heads = kv_heads = None
    for contraction in architecture.attention[:1]:
        heads, kv_heads = (
            _of_source(plan, [a for a in architecture.spaces[space].axes if a not in contraction.over])
            for space in contraction.pairs[0]
        )
    width = next((a for a, e in architecture.sizes.items() if e == architecture.roles.get("mlp")), None)
    mlp = _of_source(plan, [width]) if width is not None else None
    if any(mask is not None and mask.size % ranks for mask in (heads, mlp)):
        return []
    if kv_heads is not None and not consumer.splits_kv_heads(kv_heads.size, ranks):
        return []
    return [
        Share(rank=r, heads=_part(heads, r, ranks), kv_heads=_part(kv_heads, r, ranks), mlp=_part(mlp, r, ranks))
        for r in range(ranks)
    ]


def idle_ranks(found: Sequence[Share]) -> list[int]:
    """Return the ranks whose heads are all new."""
    return [share.rank for share in found if share.heads is not None and not share.heads[1]]


def _of_source(plan: Plan, axes: Sequence[str]) -> Mask | None:
    """Return for every coordinate of a product of axes whether it comes from the source."""
    mask: Mask = np.ones(1, dtype=np.bool_)
    for axis in axes:
        if plan.architecture.size_index(axis):
            return None
        mask = np.logical_and.outer(mask, plan.axis_map(axis, {}).array() >= 0).reshape(-1)
    return mask


def _part(mask: Mask | None, rank: int, ranks: int) -> tuple[int, int] | None:
    if mask is None:
        return None
    if mask.size < ranks:  # several ranks hold the same one
        start, count = rank * mask.size // ranks, 1
    else:
        count = mask.size // ranks
        start = rank * count
    return count, int(mask[start : start + count].sum())
