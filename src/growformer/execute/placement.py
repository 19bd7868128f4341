"""Which part of a tensor this rank holds, and how the whole is had: all that is asked of DTensor, in one place.

A tensor that is not a DTensor is whole on every rank, and everything here is the identity for it. Nothing of
``torch.distributed`` is imported unless a DTensor exists already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from growformer.errors import RequestError
from growformer.planning.blocks import Index1D, Region, compact, positions

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs


def is_sharded(tensor: Any) -> TypeIs[DTensor]:
    """Return whether a tensor is a DTensor, of whatever placements."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this rank holds of a tensor: a view, without a graph. Not a collective."""
    tensor = tensor.detach()
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor, where its own part lies or, if ranks cannot talk there, on the mesh's device.

    A collective operation of the ranks that hold it. What is not a DTensor is returned as it is.
    """
    if not is_sharded(tensor):
        return tensor.detach()
    from torch.distributed.tensor import DTensor

    part, mesh = local(tensor), tensor.device_mesh
    moved = part.to(mesh.device_type)  # parameters that were offloaded lie on the CPU, and their mesh does not
    return DTensor.from_local(
        moved, mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    ).full_tensor()


def working_device(tensor: torch.Tensor) -> torch.device:
    """Return where ``whole`` puts a tensor."""
    return torch.device(tensor.device_mesh.device_type) if is_sharded(tensor) else tensor.device


class OneWhole:
    """Whole tensors on request, of which only the last one is held: a new one comes when the last one is gone."""

    def __init__(self) -> None:
        self._key: Any = None
        self._tensor: torch.Tensor | None = None

    def get(self, key: Any, find: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return the whole of what ``find`` gives, which ``key`` names. A collective operation; see ``whole``."""
        if self._tensor is None or self._key != key:
            self._tensor = None
            self._tensor, self._key = whole(find()), key
        return self._tensor


def release(tensor: torch.Tensor) -> None:
    """Free the storage of a parameter or a buffer, and its gradient; its shape stays."""
    tensor.grad = None
    if is_sharded(tensor):
        local(tensor).untyped_storage().resize_(0)  # the module's machinery has views of it
    else:
        tensor.data = tensor.data.new_empty(()).expand(tensor.shape)


def bounds_of(tensor: torch.Tensor) -> tuple[slice, ...] | None:
    """Return the bounds of this rank's part; None: it holds the whole.

    Raises:
        RequestError: the part is not one region of the tensor.
    """
    if not is_sharded(tensor):
        return None
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    trouble = placement_trouble(tensor)
    if trouble is not None:
        raise RequestError(trouble)
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(slice(int(first), int(first) + int(size)) for first, size in zip(offset, shape, strict=True))


def placement_trouble(tensor: torch.Tensor) -> str | None:
    """Return why a tensor's placements cannot be filled region by region; None if they can."""
    if not is_sharded(tensor):
        return None
    mesh, placements = tensor.device_mesh, tensor.placements
    if mesh.get_coordinate() is None:
        return f"is on a device mesh of ranks {mesh.mesh.flatten().tolist()}, which this rank is not one of"
    for number, placement in enumerate(placements):
        if placement.is_partial():
            return f"is placed as {placement}: its parts are still to be summed; expected Shard or Replicate"
        factor = getattr(placement, "split_factor", 1)
        if factor == 1:
            continue
        later = [mesh.size(other) for other, p in enumerate(placements) if other > number and p == _shard(placement)]
        if later != [factor]:
            return (
                f"is placed as {placements}: strided shards are supported where a later mesh dimension of size "
                f"{factor} shards the same dimension, as FSDP2 after tensor parallelism does"
            )
    return None


def _shard(placement: Any) -> Any:
    from torch.distributed.tensor import Shard

    return Shard(placement.dim)


def placed_like(like: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Return a tensor of a shape and placements from this rank's part of it; no storage is copied."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def local_region(tensor: torch.Tensor, region: Region) -> Region | None:
    """Return what of a region lies in this rank's part, in the part's own coordinates; None if nothing does."""
    bounds = bounds_of(tensor)
    if bounds is None:
        return region
    found: list[Index1D] = []
    for index, inside in zip(region, bounds, strict=True):
        if isinstance(index, slice) and index.step in (None, 1):
            first, last = max(index.start, inside.start), min(index.stop, inside.stop)
            if first >= last:
                return None
            found.append(slice(first - inside.start, last - inside.start))
            continue
        where = positions(index)
        kept = where[(where >= inside.start) & (where < inside.stop)]
        if not kept.size:
            return None
        found.append(compact(np.asarray(kept - inside.start)))
    return tuple(found)


def describe_placement(tensor: torch.Tensor) -> str:
    """Return how a tensor is spread, in words that are the same on every rank that agrees about it."""
    if not is_sharded(tensor):
        return "whole on every rank"
    mesh = tensor.device_mesh
    return f"{list(tensor.placements)} on a {mesh.device_type} mesh of shape {list(mesh.shape)}"


__all__ = [
    "OneWhole",
    "bounds_of",
    "describe_placement",
    "is_sharded",
    "local",
    "local_region",
    "placed_like",
    "placement_trouble",
    "release",
    "whole",
    "working_device",
]
