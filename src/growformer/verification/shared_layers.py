"""Which layers of a source and of what was grown from it hold the same stream, and in which coordinates, by the record.

After a source layer the residual stream of both models is the same vector: the grown one has it at the coordinates
that the axis map names, times the factor that the record states for the space. New layers leave it as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from growformer.architecture.declaration import spaces_in
from growformer.verification.recorded import Recorded


@dataclass(frozen=True, slots=True)
class SharedLayer:
    """One source layer and the grown layer after which both streams must agree.

    Attributes:
        stack: name of the axis that numbers the layers; an encoder-decoder has two.
        layer, grown_layer: their numbers.
        first_grown: the first grown layer that a difference can come from: what lies between the last shared layer
            and this one.
        module, grown_module: names of their modules.
        coordinates: of the source's stream in the grown one.
        factors: of the source's coordinates there.
    """

    stack: str
    layer: int
    grown_layer: int
    first_grown: int
    module: str
    grown_module: str
    coordinates: torch.Tensor
    factors: torch.Tensor

    def of_source(self, stream: torch.Tensor | None) -> torch.Tensor | None:
        """Return the source's stream where it is what the record says, else None."""
        return stream if stream is not None and stream.shape[-1] == self.coordinates.numel() else None

    def of_grown(self, stream: torch.Tensor | None) -> torch.Tensor | None:
        """Return the grown stream in the source's coordinates, in float64; None where it is not what is recorded."""
        if stream is None or stream.shape[-1] <= int(self.coordinates.max()):
            return None
        return stream.index_select(-1, self.coordinates).double() / self.factors


def shared_layers(rec: Recorded, source: nn.Module, grown: nn.Module) -> list[SharedLayer]:
    """Return the pairs of layers whose outputs can be compared, in order; none where modules are no layers.

    Args:
        rec: what is recorded of the growth.
        source: the source, whose modules are looked for; its weights may be on the meta device.
        grown: the grown model; likewise.
    """
    found: list[SharedLayer] = []
    for axis in rec.index_axes:
        place = _place_of(rec, axis)
        names = [_modules(model, place, axis) for model in (source, grown)] if place else [{}, {}]
        space = _stream_of(rec, place, axis) if place else None
        if (
            space is None
            or not all(names)
            or len(rec.architecture.spaces[space].axes) != 1
            or rec.architecture.spaces[space].index
        ):
            continue
        along = rec.along(axis, {}).source if not rec.size_indices[axis] else np.zeros(0, dtype=np.int64)
        if along.size != len(names[1]) or int(along.max(initial=-1)) + 1 != len(names[0]):
            continue
        found += _pairs(rec, axis, space, along, names[0], names[1])
    return found


def _pairs(
    rec: Recorded, axis: str, space: str, along: np.ndarray, before: dict[int, str], after: dict[int, str]
) -> Iterator[SharedLayer]:
    first = 0
    normed = _normed_twice(rec, space)
    for grown_layer, layer in enumerate(along.tolist()):
        if layer < 0:
            continue
        last = grown_layer
        # New post-norm layers take over the affine of the norm before them: the streams agree after the last of them.
        while normed and last + 1 < along.size and along[last + 1] < 0:
            last += 1
        index = {axis: last}
        coordinates, factors = _coordinates(rec, space, index)
        if coordinates is None:
            return
        yield SharedLayer(
            axis, layer, last, min(first, last), before[layer], after[last], coordinates,
            factors * float(rec.scale(space, index)),
        )  # fmt: skip
        first = last + 1


def _coordinates(rec: Recorded, space: str, index: dict[str, int]) -> tuple[torch.Tensor | None, torch.Tensor]:
    (axis,) = rec.architecture.spaces[space].axes
    origins, codes, squares = rec.parts(space, axis, index)
    size = rec.along(axis, index).source_size
    first = {int(origin): at for at, origin in reversed(list(enumerate(origins.tolist()))) if origin >= 0}
    if sorted(first) != list(range(size)):
        return None, torch.zeros(0)
    at = [first[origin] for origin in range(size)]
    factors = [float(squares[int(codes[target])]) ** 0.5 for target in at]
    return torch.tensor(at), torch.tensor(factors, dtype=torch.float64)


def _place_of(rec: Recorded, axis: str) -> str | None:
    """Return the name of a layer's module, with its number in braces, if all of it lies in one."""
    places = {name[: name.index(f"{{{axis}}}") + len(axis) + 2] for name in rec.arrows if f"{{{axis}}}" in name}
    place = next(iter(places)) if len(places) == 1 else ""
    return place if place.count("{") == 1 and place.endswith(f".{{{axis}}}") else None


def _modules(model: nn.Module, place: str, axis: str) -> dict[int, str]:
    """Return number -> name of a model's layers; none where they are no list of modules, or there are several."""
    pattern = re.compile(r"(?:.+\.)?" + re.escape(place).replace(re.escape(f"{{{axis}}}"), r"(\d+)"))
    found: dict[int, str] = {}
    for name, _ in model.named_modules():
        match = pattern.fullmatch(name)
        if match and int(match[1]) in found:
            return {}
        if match:
            found[int(match[1])] = name
    return found if sorted(found) == list(range(len(found))) else {}


def _stream_of(rec: Recorded, place: str, axis: str) -> str | None:
    """Return the space that layers hand on: what they read and write that is local to none of them."""
    inside = [arrow for name, arrow in rec.arrows.items() if name.startswith(f"{place}.")]
    read = {space for arrow in inside for space in spaces_in(arrow.source)}
    written = {space for arrow in inside for space in spaces_in(arrow.target)}
    written |= {add.target for add in rec.adds if add.source in written}
    found = [space for space in read & written if axis not in rec.architecture.spaces[space].index]
    if len(found) > 1:  # post-norm: the sum that a norm reads, and what the norm makes of it
        found = [space for space in found if _normed_twice(rec, space)]
    return found[0] if len(found) == 1 else None


def _normed_twice(rec: Recorded, space: str) -> bool:
    """Tell whether a stream is what a norm gives (post-norm)."""
    return any(space in spaces_in(arrow.target) for arrow in rec.norms.values())


def post_norm_allowance(rec: Recorded) -> float:
    """Return the largest epsilon of norms in new post-norm layers, which are exact up to eps / (2 variance); else 0."""
    found = [0.0]
    for name, arrow in rec.norms.items():
        if rec.residual(arrow) is None or not any(rec.is_new(index) for index in rec.instances_of(name)):
            continue
        eps = rec.target_config.get(arrow.eps) if isinstance(arrow.eps, str) else arrow.eps
        found.append(float(eps or 0.0))
    return max(found)


__all__ = ["SharedLayer", "post_norm_allowance", "shared_layers"]
