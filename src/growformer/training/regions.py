"""Regions of parameters whose updates are scaled: what is said of each, how it follows a growth, how it is saved.

Regions are kept by parameter: by the parameter itself in a run, by its name or its number in a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from growformer.architecture.declaration import TensorSpec
from growformer.architecture.packing import Piece
from growformer.errors import RequestError
from growformer.execute.slots import GrownSlots, P
from growformer.execute.stored import held
from growformer.planning.blocks import Affine, Constant, Index1D, Region, Sum, compact, length, positions
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan
from growformer.training.update_rules import UpdateRules

NEGLIGIBLE = 1e-6
"""A bias correction this near to 1 is over."""
ADAM = ("Adam", "AdamW")
"""Optimizers that correct a bias by their step count."""
_NORMALISED = (*ADAM, "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Muon")
"""Optimizers whose update does not depend on the size of gradients."""


@dataclass(frozen=True, slots=True)
class UpdateRegion:
    """A part of one parameter, and what happens to its updates.

    Attributes:
        region: one index per dimension.
        born: steps of the controller when it came to be.
        inherited: the parameter's own step count then, for bias correction; None: none is needed.
        rate: factor that it reaches.
        ramp: over how many steps.
        decay: factor on decoupled weight decay.
        frozen: whether it stays as it is.
        fade: over how many steps it comes to what ``towards`` holds in the same region.
        towards: the parameter that it fades in from: itself, its name or its number, as the regions are kept.
        start: what all its values were when it came to be.
    """

    region: Region
    born: int
    inherited: int | None = None
    rate: float = 1.0
    ramp: int = 0
    decay: float = 1.0
    frozen: bool = False
    fade: int = 0
    towards: Any = None
    start: float = 0.0

    def check(self) -> None:
        """Refuse what no rule gives.

        Raises:
            ValueError: a number is of another kind, or less than 0.
        """
        whole = [self.born, self.ramp, self.fade, *([] if self.inherited is None else [self.inherited])]
        rates = [self.rate, self.decay]
        sound = all(type(n) is int and n >= 0 for n in whole) and isinstance(self.frozen, bool)
        sound = sound and (self.towards is not None) == (self.fade > 0) and math.isfinite(self.start)
        if not sound or not all(isinstance(n, (int, float)) and 0 <= n < math.inf for n in rates):
            raise ValueError(f"a region that no rule gives: {self}")

    def factor(self, now: int, step: int | None, betas: tuple[float, float] | None) -> float:
        """Return the factor on an update.

        Args:
            now: the controller's step; the first one after birth is born + 1.
            step: the parameter's own step count, this update included.
            betas: Adam's, where it is one.
        """
        factor = self.rate * (min(1.0, (now - self.born) / self.ramp) if self.ramp else 1.0)
        if self.inherited is not None and step is not None and betas is not None:
            factor *= correction(step - self.inherited, step, betas)
        return factor

    def is_over(self, now: int, step: int | None, betas: tuple[float, float] | None) -> bool:
        """Tell whether the factor is 1 from now on, and it has faded in."""
        if self.frozen or self.decay != 1 or self.rate != 1 or now - self.born < max(self.ramp, self.fade):
            return False
        return abs(self.factor(now, step, betas) - 1) < NEGLIGIBLE


def correction(age: int, step: int, betas: tuple[float, float]) -> float:
    """Return Adam's bias correction for moments that saw ``age`` gradients, over that for ``step`` of them."""

    def of(count: int) -> float:
        return math.sqrt(1 - betas[1] ** count) / (1 - betas[0] ** count)

    return of(age) / of(step)


def grown_regions(
    plan: Plan,
    grown: Iterable[GrownSlots[P]],
    regions: Mapping[P, Sequence[UpdateRegion]],
    rules: UpdateRules,
    steps: Mapping[P, int],
    *,
    state: str,
    now: int,
    kind: str,
) -> dict[P, list[UpdateRegion]]:
    """Return the regions after a growth: old ones move with what they are in, and what is new gets some by the rules.

    Args:
        plan: what was grown by it.
        grown: what an optimizer executor made.
        regions: the source's parameters -> their regions so far.
        rules: for what is new, and for what is old.
        steps: the source's parameters -> their step counts before the growth.
        state: the policy by which the state was grown.
        now: the controller's steps, from which ages count.
        kind: the optimizer's name.
    """
    grown = list(grown)
    holders = {
        spec.name(index): (slots.parameter, piece) for slots in grown for spec, index, piece in slots.stored.parts
    }
    renamed = {slots.before: slots.parameter for slots in grown if not plan.is_new(slots.stored.parts[0][1])}
    following: dict[P, list[UpdateRegion]] = {}
    for slots in grown:
        found: list[UpdateRegion] = []
        for spec, index, piece in slots.stored.parts:
            is_new = plan.is_new(index)
            for block in tensor_plan(plan, spec, index).blocks:
                value, target = block.value, held(piece, block.region)
                if isinstance(value, Sum):
                    value = next(part for part in value.parts if isinstance(part, Affine))
                copied = isinstance(value, Affine)
                if isinstance(value, Affine) and not is_new:
                    info = plan.source.tensors[value.tensor]
                    for moved in _moved(regions.get(slots.before, ()), held(info.piece, value.region), target):
                        found.append(moved if moved.towards is None else _following(moved, renamed))
                    factor = _function_space(value, kind in _NORMALISED) if rules.policy == "function_space" else 1.0
                    found.append(UpdateRegion(target, now, rate=factor, frozen=rules.freeze_old))
                    continue
                has_state = copied and state == "carry"
                inherited = steps.get(slots.before) if slots.carried and not has_state else None
                found.append(
                    UpdateRegion(
                        target,
                        now,
                        inherited if rules.bias_correction else None,
                        rules.new_rate,
                        rules.ramp,
                        rules.new_decay,
                    )
                )
                if rules.fade_steps and isinstance(value, Constant) and plan.is_new(index):
                    for region, towards in _faded(plan, spec, index, block.region, holders, piece):
                        found.append(
                            UpdateRegion(region, now, fade=rules.fade_steps, towards=towards, start=float(value.value))
                        )
        following[slots.parameter] = [region for region in found if not _says_nothing(region)]
    return {parameter: found for parameter, found in following.items() if found}


def _following(region: UpdateRegion, renamed: Mapping[Any, Any]) -> UpdateRegion:
    """Return a region that is still fading in, towards what its parameter has become."""
    return replace(region, towards=renamed[region.towards])


def _faded(
    plan: Plan,
    spec: TensorSpec,
    index: Mapping[str, int],
    region: Region,
    holders: Mapping[str, tuple[P, Piece | None]],
    piece: Piece | None,
) -> Iterator[tuple[Region, P]]:
    """Yield what of a constant region of a new layer the layer that it copies has from the source, and its holder."""
    origin = plan.origin(index)
    if origin is None:
        return
    copied: dict[str, int] = {}
    for axis in index:  # the outer ones first: the place of a head depends on its layer
        copied[axis] = int(np.flatnonzero(plan.axis_map(axis, {**index, **copied}).array() == origin[axis])[0])
    holder, other = holders[spec.name(copied)]
    for block in tensor_plan(plan, spec, copied).blocks:
        value = block.value
        if isinstance(value, Sum):
            value = next(part for part in value.parts if isinstance(part, Affine))
        if not isinstance(value, Affine):
            continue
        inside = tuple(
            compact(np.intersect1d(positions(mine), positions(theirs)))
            for mine, theirs in zip(region, block.region, strict=True)
        )
        if not all(length(i) for i in inside):
            continue
        here, there = held(piece, inside), held(other, inside)
        if all(np.array_equal(positions(a), positions(b)) for a, b in zip(here, there, strict=True)):
            yield here, holder


def _says_nothing(region: UpdateRegion) -> bool:
    neutral = region.rate == 1 and region.decay == 1 and not region.ramp and not region.frozen
    return neutral and region.inherited is None and not region.fade


def _function_space(value: Affine, normalised: bool) -> float:
    """Return the factor on a rescaled weight's update under which the function moves as without the rescaling."""
    return float(value.scale if normalised else value.scale / value.slope)


def _moved(regions: Sequence[UpdateRegion], origin: Region, target: Region) -> list[UpdateRegion]:
    """Return regions of a source parameter as regions of a block of the target that comes from there."""
    found = []
    for region in regions:
        picked = []
        for inside, source, along in zip(region.region, origin, target, strict=True):
            where = np.flatnonzero(np.isin(positions(source), positions(inside)))
            picked.append(compact(positions(along)[where]))
        if all(not isinstance(p, np.ndarray) or p.size for p in picked):
            found.append(replace(region, region=tuple(picked)))
    return found


def rekeyed(regions: Mapping[Any, Sequence[UpdateRegion]], keys: Mapping[Any, P]) -> dict[P, list[UpdateRegion]]:
    """Return regions by another name of each parameter, such as its number in place of itself."""
    return {
        keys[key]: [r if r.towards is None else replace(r, towards=keys[r.towards]) for r in some]
        for key, some in regions.items()
    }


def regions_to_json(regions: Mapping[Any, Sequence[UpdateRegion]]) -> dict[Any, list[dict[str, Any]]]:
    """Return regions by parameter as plain data."""
    return {
        key: [{**_fields(r), "region": [_index_to_json(i) for i in r.region]} for r in some]
        for key, some in regions.items()
    }


def regions_from_json(
    data: Mapping[P, Sequence[Mapping[str, Any]]], shapes: Mapping[P, tuple[int, ...]]
) -> dict[P, list[UpdateRegion]]:
    """Read what ``regions_to_json`` gave.

    Args:
        data: parameter (its name, or its number) -> regions.
        shapes: of all parameters that there are.

    Raises:
        RequestError: a region lies outside of its parameter, or there is no such parameter.
    """
    found: dict[P, list[UpdateRegion]] = {}
    for key, regions in data.items():
        if key not in shapes:
            raise RequestError(
                f"region updates of parameter {key}, which is none of the {len(shapes)}: they belong to another model"
            )
        for entry in regions:
            region = tuple(_index_from_json(index) for index in entry["region"])
            fits = len(region) == len(shapes[key]) and all(
                _reach(index) <= size for index, size in zip(region, shapes[key], strict=True)
            )
            if not fits:
                raise RequestError(
                    f"a region of parameter {key} lies outside of its shape {list(shapes[key])}: the region updates "
                    "belong to another model"
                )
            made = UpdateRegion(**{**entry, "region": region})
            made.check()
            if made.towards is not None and shapes.get(made.towards) != shapes[key]:
                raise RequestError(
                    f"a region of parameter {key} fades in from {made.towards}, which is none of the same shape: the "
                    "region updates belong to another model"
                )
            found.setdefault(key, []).append(made)
    return found


def _fields(region: UpdateRegion) -> dict[str, Any]:
    return {f.name: getattr(region, f.name) for f in fields(region)}


def _reach(index: Index1D) -> float:
    """Return how long a dimension must be for an index; infinity for one that starts before it."""
    if isinstance(index, slice):
        return index.stop if 0 <= index.start <= index.stop else math.inf
    return int(index.max(initial=-1)) + 1 if int(index.min(initial=0)) >= 0 else math.inf


def _index_to_json(index: Index1D) -> list[int] | dict[str, list[int]]:
    if isinstance(index, slice) and index.step in (None, 1):
        return [index.start, index.stop]
    return {"at": positions(index).tolist()}


def _index_from_json(data: Any) -> Index1D:
    if isinstance(data, Mapping):
        return np.array(data["at"], dtype=np.int64)
    return slice(int(data[0]), int(data[1]))


__all__ = [
    "ADAM",
    "UpdateRegion",
    "correction",
    "grown_regions",
    "regions_from_json",
    "regions_to_json",
    "rekeyed",
]
