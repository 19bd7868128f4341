"""The declared tensors of a live model: where each is stored, and which of its regions no source value fills."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from growformer.architecture.declaration import TensorSpec
from growformer.architecture.source import stored_name
from growformer.verification.held import Held, LiveNames, held_tensor, parts_of, ranges_inside, take
from growformer.verification.recorded import Recorded
from growformer.verification.regions import Positions, Region, spread
from growformer.verification.requirements import Scaled, requirements

if TYPE_CHECKING:
    import torch

Ranges = list[list[int]]
"""Positions along one dimension: ``[start, stop)`` each."""


@dataclass(frozen=True, slots=True)
class LiveTensor:
    """One declared tensor of a grown model in memory.

    Attributes:
        spec, index: its template, and its instance in the target.
        held: the parameter that holds it, and where in it.
        is_new: whether the whole instance is new, as a layer is.
        new: regions that no source value fills: zeros, means, constants and free values.
        kept: regions that hold source values, rescaled or not.
    """

    spec: TensorSpec
    index: Mapping[str, int]
    held: Held
    is_new: bool
    new: tuple[Region, ...]
    kept: tuple[Region, ...]

    def take(self, stored: torch.Tensor) -> torch.Tensor:
        """Return the declared tensor out of its parameter, or out of what has the parameter's shape (a view)."""
        return take(stored, self.held.piece)

    def stored_region(self, region: Region) -> list[Ranges]:
        """Return a region as ranges per dimension of the parameter that holds it."""
        return ranges_inside([_ranges(along) for along in region], self.held.piece)


def live_tensors(rec: Recorded, names: Collection[str]) -> Iterator[LiveTensor]:
    """Yield the declared tensors of a live model, which may store them otherwise than its source on disk.

    Args:
        rec: how it was grown.
        names: of its parameters. Tensors that are none of them are left out.

    Raises:
        PlanError: the record contradicts itself.
    """
    architecture = rec.architecture
    base = f"{architecture.prefix}."
    prefix = base if architecture.prefix and any(name.startswith(base) for name in names) else ""
    live = LiveNames(architecture, prefix, rec.spelling, tuple(architecture.packed))
    inside = {name: held for name, held in parts_of(live, rec.target_config) if held.stored in names}
    for spec, index in rec.specs():
        canonical = spec.name(index)
        held = inside.get(canonical) or held_tensor(live, spec, index)
        if held.stored not in names:
            held = Held(stored_name(architecture, prefix, canonical), canonical)
        if held.stored not in names:
            continue
        new: list[Region] = []
        kept: list[Region] = []
        for requirement in requirements(rec, spec.template, index).uses[0]:
            (kept if isinstance(requirement.must, Scaled) else new).extend(requirement.copies)
        yield LiveTensor(spec, index, held, rec.is_new(index), tuple(new), tuple(kept))


def select(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    """Return a region of a tensor; a view where all its positions are consecutive."""
    import torch

    for dim, along in enumerate(region):
        if isinstance(along, slice):
            tensor = tensor.narrow(dim, along.start, along.stop - along.start)
        else:
            tensor = tensor.index_select(dim, torch.from_numpy(along).to(tensor.device))
    return tensor


def _ranges(along: Positions) -> Ranges:
    if isinstance(along, slice):
        return [[along.start, along.stop]]
    found: Ranges = []
    for position in spread(along).tolist():
        if found and position == found[-1][1]:
            found[-1][1] += 1
        else:
            found.append([position, position + 1])
    return found


__all__ = ["LiveTensor", "Ranges", "live_tensors", "select"]
