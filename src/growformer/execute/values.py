"""Turns a tensor's planned blocks into numbers: the one interpreter that every executor shares."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from growformer.errors import PlanError
from growformer.execute.numbers import SPAN
from growformer.planning.blocks import (
    Affine,
    Constant,
    Fill,
    Index1D,
    Mean,
    Noise,
    Region,
    Sum,
    TensorPlan,
    Value,
    found_in,
    length,
    restrict,
    shifted,
)
from growformer.planning.initialisation import Initialisation

Read = Callable[[str], torch.Tensor]
"""Canonical name in the source -> its tensor."""

_AT_ONCE = 1 << 22
"""Values that are computed at a time, so that their float64 take no memory to speak of."""


def materialise(
    tensor: TensorPlan,
    init: Initialisation,
    read: Read,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    within: tuple[slice, ...] | None = None,
) -> torch.Tensor:
    """Return one tensor of the target, or the part of it inside bounds: the same bits as in the whole.

    Copies are bitwise where the dtype stays; rescaled and averaged values are computed in float64 and rounded once.

    Args:
        tensor: its plan.
        init: how free blocks are filled.
        read: gives source tensors. It is asked for the same ones in the same order whatever the bounds, so that it may
            be a collective operation among ranks with bounds of their own.
        dtype: of the result.
        device: of the result; source tensors must lie there.
        within: bounds of what is wanted, which may be empty; by default all.
    """
    shape = tensor.shape if within is None else tuple(length(bounds) for bounds in within)
    out = torch.empty(shape, dtype=dtype, device=device)
    for block in tensor.blocks:
        for name in block.sources(copies=init.copies()):
            read(name)
        inside = block if within is None else restrict(block, within)
        if inside is None:
            continue
        values = evaluate(inside.value, init, read, dtype, device, whole=block.value)
        if isinstance(values, float):
            values = torch.tensor(values, dtype=dtype, device=device)
        region = inside.region
        if within is not None:
            region = tuple(shifted(index, bounds.start) for index, bounds in zip(region, within, strict=True))
        assign(out, region, values)
    return out


def evaluate(
    value: Value,
    init: Initialisation,
    read: Read,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    whole: Value | None = None,
) -> torch.Tensor | float:
    """Return a block's values, rounded to ``dtype``.

    Args:
        value: of the block, or of a part of it.
        init: how free blocks are filled.
        read: gives source tensors.
        dtype: of the result.
        device: of the result.
        whole: the value of the whole block, on which some initialisations depend.
    """
    if isinstance(value, Constant):
        return value.value
    if isinstance(value, Affine):
        return _affine(value, read, dtype)
    if isinstance(value, Mean):
        mean = _ordered_mean(select(read(value.tensor), value.region).double(), value.dim)
        return (mean * float(value.scale)).to(dtype)
    if isinstance(value, Fill):
        if value.template is not None and init.copies():
            name, region = value.template
            copied = select(read(name), region).double()
            return (copied + torch.from_numpy(init.copy_noise(value)).to(device)).to(dtype)
        if isinstance(whole, Fill) and init.pointwise(value) is None:
            values = init.values(whole)[np.ix_(*map(found_in, whole.coordinates, value.coordinates))]
        else:
            values = init.values(value)
        return torch.from_numpy(values).to(device=device, dtype=dtype)
    assert isinstance(value, Sum)
    total: torch.Tensor | None = None
    for part in value.parts:
        if isinstance(part, Noise):
            term = torch.from_numpy(init.cancelling(part)).to(device).double()
        else:
            term = _affine(part, read, torch.float64)
        total = term if total is None else total + term
    assert total is not None
    return total.to(dtype)


def _ordered_mean(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the mean along a dimension, added up in the fixed order of ``numbers.OrderedSum`` on every device."""
    rows = values.movedim(dim, 0)
    total: torch.Tensor | None = None
    for part in torch.split(rows, SPAN):
        while part.shape[0] > 1:
            even = part.shape[0] // 2 * 2
            pairs = part[:even:2] + part[1:even:2]
            part = pairs if even == part.shape[0] else torch.cat([pairs, part[-1:]])
        total = part[0] if total is None else total + part[0]
    if total is None:
        raise PlanError("a mean of nothing")
    return (total / rows.shape[0]).unsqueeze(dim)


def _affine(value: Affine, read: Read, dtype: torch.dtype) -> torch.Tensor:
    selected = select(read(value.tensor), value.region)
    if value.is_copy:
        return selected.to(dtype)
    if not selected.ndim:
        return (selected.double() * float(value.scale) + value.shift).to(dtype)
    out = torch.empty(selected.shape, dtype=dtype, device=selected.device)
    step = max(1, _AT_ONCE * selected.shape[0] // max(1, selected.numel()))
    for rows, into in zip(torch.split(selected, step), torch.split(out, step), strict=True):
        into.copy_(rows.double() * float(value.scale) + value.shift)
    return out


def select(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    """Return the values at a region: a view where it is of slices alone."""
    for dim, index in enumerate(region):
        if isinstance(index, slice):
            tensor = tensor[(slice(None),) * dim + (index,)]
        else:
            tensor = tensor.index_select(dim, torch.from_numpy(index).to(tensor.device))
    return tensor


def assign(out: torch.Tensor, region: Region, values: torch.Tensor) -> None:
    """Write values (broadcast over the region) into a region that may be scattered along several dimensions."""
    view, scattered = out, []
    for dim, index in enumerate(region):
        if isinstance(index, slice):
            view = view[(slice(None),) * dim + (index,)]
        else:
            scattered.append((dim, index))
    if not scattered:
        view.copy_(values.expand_as(view) if values.ndim else values)
        return
    shape = list(view.shape)
    for dim, index in scattered:
        shape[dim] = index.size
    values = values.expand(shape)
    indices: list[Index1D | torch.Tensor] = [slice(None)] * view.ndim
    if len(scattered) == 1:
        dim, index = scattered[0]
        view.index_copy_(dim, torch.from_numpy(index).to(view.device), values.contiguous())
        return
    for dim, index in scattered:
        expand = tuple(-1 if d == dim else 1 for d in range(view.ndim))
        indices[dim] = torch.from_numpy(index).to(view.device).reshape(expand)
    for dim in range(view.ndim):
        if isinstance(indices[dim], slice):
            expand = tuple(-1 if d == dim else 1 for d in range(view.ndim))
            indices[dim] = torch.arange(view.shape[dim], device=view.device).reshape(expand)
    view[tuple(indices)] = values
