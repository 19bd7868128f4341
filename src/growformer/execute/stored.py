"""The target's stored tensors: which declared tensors each holds, and how they are put in and taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from growformer.architecture.declaration import TensorSpec
from growformer.architecture.packing import Piece, declared_bounds, packed_shape, pieces, stored_region
from growformer.architecture.source import spelled
from growformer.errors import PlanError
from growformer.planning.blocks import TensorPlan, shifted
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan

if TYPE_CHECKING:
    import torch

Part = tuple[TensorSpec, dict[str, int], Piece | None]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of the target as it is stored.

    Attributes:
        name: its stored name, spelled as in the source.
        shape, dtype: of the whole.
        parts: the declared tensors in it: template, index, where it lies (None: it is the whole).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[Part, ...]

    @property
    def num_elements(self) -> int:
        """How many values it has."""
        return prod(self.shape)


def stored_tensors(plan: Plan, dtype: str | None = None) -> Iterator[StoredTensor]:
    """Yield the target's stored tensors, layer by layer.

    Args:
        plan: what becomes of each declared tensor.
        dtype: of floating-point tensors; by default each keeps its own.
    """
    architecture, source = plan.architecture, plan.source
    holder = {part: name for name in source.packed for part in architecture.packed[name].parts}
    done: set[str] = set()
    for spec, index in plan.specs():
        own = plan.source_dtype(spec, index)
        kind = dtype if dtype is not None and "float" in own else own
        template = holder.get(spec.template)
        if template is None:
            shape = tuple(plan.term_size(dim.term, index) for dim in spec.dims)
            yield StoredTensor(spelled(architecture, source, spec.template, index), shape, kind, ((spec, index, None),))
            continue
        packed = architecture.packed[template]
        outer = {axis: at for axis, at in index.items() if axis != packed.stack}
        name = spelled(architecture, source, template, outer)
        if name not in done:
            done.add(name)
            whole = packed_shape(architecture, packed, plan.target_sizes, outer)
            yield StoredTensor(name, whole, kind, tuple(pieces(architecture, packed, plan.target_sizes, outer)))


def materialise_stored(
    stored: StoredTensor,
    plan: Plan,
    read: Callable[[str], torch.Tensor],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    within: tuple[slice, ...] | None = None,
    planned: Callable[[TensorPlan], TensorPlan] | None = None,
) -> torch.Tensor:
    """Return the values of a stored tensor, or of the part of it inside bounds; see ``materialise``.

    Args:
        stored: which.
        plan: what becomes of each declared tensor.
        read: gives declared source tensors.
        dtype: of the result.
        device: of the result.
        within: bounds of what is wanted; by default all.
        planned: turns the plan of each declared tensor into that of what belongs to it, such as optimizer state.
    """
    import torch

    from growformer.execute.values import assign, materialise

    out: torch.Tensor | None = None
    for spec, index, piece in stored.parts:
        tensor = tensor_plan(plan, spec, index)
        tensor = tensor if planned is None else planned(tensor)
        bounds = None if within is None else declared_bounds(piece, within)
        if within is not None and bounds is None:
            bounds = (slice(0, 0),) * len(tensor.shape)  # nothing, but its sources are read in step with other ranks
        values = materialise(tensor, plan.init, read, dtype, device, within=bounds)
        if piece is None:
            return values
        if out is None:
            shape = stored.shape if within is None else tuple(b.stop - b.start for b in within)
            out = torch.empty(shape, dtype=dtype, device=device)
        if not values.numel():
            continue
        place = stored_region(piece, bounds or tuple(slice(0, size) for size in tensor.shape))
        if within is not None:
            place = tuple(shifted(index_, b.start) for index_, b in zip(place, within, strict=True))
        assign(out, place, values.T if piece.transposed else values)
    if out is None:
        raise PlanError(f"{stored.name} holds no declared tensor")
    return out


def take(stored: torch.Tensor, piece: Piece | None) -> torch.Tensor:
    """Return a declared tensor out of the stored one that holds it (a view)."""
    if piece is None:
        return stored
    part = (stored if piece.at is None else stored[piece.at])[piece.slices]
    return part.T if piece.transposed else part


__all__ = ["StoredTensor", "materialise_stored", "stored_tensors", "take"]
