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
from growformer.architecture.packing import Piece, stored_region
from growformer.errors import RequestError
from growformer.execute.slots import GrownSlots, P
from growformer.planning.blocks import Affine, Constant, Index1D, Region, compact, from_source, length, positions
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan
from growformer.training.update_rules import UpdateRules

NEGLIGIBLE = 1e-6
"""The share of a gradient in Adam's moments from which on it counts as forgotten."""


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
    """

    region: Region
    born: int
    inherited: int | None = None
    rate: float = 1.0
    ramp: int = 0
    decay: float = 1.0
    frozen: bool = False

    def check(self) -> None:
        """Refuse what no rule gives.

        Raises:
            ValueError: a number is of another kind, or less than 0.
        """
        whole = [self.born, self.ramp, *([] if self.inherited is None else [self.inherited])]
        rates = [self.rate, self.decay]
        sound = all(type(n) is int and n >= 0 for n in whole) and isinstance(self.frozen, bool)
        if not sound or not all(isinstance(n, (int, float)) and 0 <= n < math.inf for n in rates):
            raise ValueError(f"a region that no rule gives: {self}")

    @property
    def says_nothing(self) -> bool:
        """Whether updates are what they would be without it."""
        plain = self.rate == 1 and self.decay == 1 and not self.ramp and not self.frozen
        return plain and self.inherited is None

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
        """Tell whether updates are what they would be without it, from now on."""
        if self.frozen or self.decay != 1 or self.rate != 1 or now - self.born < self.ramp:
            return False
        if self.inherited is None or step is None or betas is None:
            return True
        return max(betas) ** (step - self.inherited) < NEGLIGIBLE


@dataclass(frozen=True, slots=True)
class Fade:
    """A part of a parameter that comes, in steps, to what another parameter of the same shape holds there.

    Attributes:
        region: one index per dimension, in both.
        towards: the other parameter: itself, its name or its number, as regions are kept.
        steps: how many it takes.
        done: how many of them have been taken.
        start: what all its values were when it came to be.
    """

    region: Region
    towards: Any
    steps: int
    done: int = 0
    start: float = 0.0

    def check(self) -> None:
        """Refuse what no rule gives.

        Raises:
            ValueError: a number is of another kind, or out of its range.
        """
        sound = type(self.steps) is int and type(self.done) is int and 0 <= self.done < self.steps
        if not sound or self.towards is None or not isinstance(self.start, float) or not math.isfinite(self.start):
            raise ValueError(f"a fade that no rule gives: {self}")


Followed = UpdateRegion | Fade
"""What is kept of a parameter."""


def correction(age: int, step: int, betas: tuple[float, float]) -> float:
    """Return Adam's bias correction for moments that saw ``age`` gradients, over that for ``step`` of them.

    Raises:
        ValueError: an age below 1: there is no update yet.
    """
    if age < 1:
        raise ValueError(f"age {age}: expected 1 or more")

    def of(count: int) -> float:
        return math.sqrt(1 - betas[1] ** count) / (1 - betas[0] ** count)

    return of(age) / of(step)


def grown_regions(
    plan: Plan,
    grown: Iterable[GrownSlots[P]],
    regions: Mapping[P, Sequence[Followed]],
    rules: UpdateRules,
    steps: Mapping[P, int],
    *,
    state: str,
    now: int,
    normalised: bool,
) -> dict[P, list[Followed]]:
    """Return the regions after a growth: those that there are move with what they are in, what is new gets its own.

    Args:
        plan: what was grown by it.
        grown: what an optimizer executor made.
        regions: the source's parameters -> their regions so far.
        rules: for what is new, and for what is old.
        steps: the source's parameters -> their step counts before the growth.
        state: the policy by which the state was grown.
        now: the controller's steps, from which ages count.
        normalised: whether the optimizer's updates do not depend on the size of gradients.

    Raises:
        RequestError: a layer fades in from one that the optimizer does not have.
    """
    grown = list(grown)
    holders = {
        spec.name(index): (slots.parameter, piece) for slots in grown for spec, index, piece in slots.stored.parts
    }
    renamed = {slots.before: slots.parameter for slots in grown if not plan.is_new(slots.stored.parts[0][1])}
    following: dict[P, list[Followed]] = {}
    for slots in grown:
        found: list[Followed] = []
        for spec, index, piece in slots.stored.parts:
            is_new = plan.is_new(index)
            for block in tensor_plan(plan, spec, index).blocks:
                value, target = from_source(block.value), stored_region(piece, block.region)
                moved: list[Followed] = []
                if value is not None:
                    origin = stored_region(plan.source.tensors[value.tensor].piece, value.region)
                    moved = _moved(regions.get(slots.before, ()), origin, target)
                if value is not None and not is_new:
                    found += [_towards(m, renamed) if isinstance(m, Fade) else m for m in moved]
                    factor = _function_space(value, normalised) if rules.policy == "function_space" else 1.0
                    found.append(UpdateRegion(target, now, rate=factor, frozen=rules.freeze_old))
                    continue
                inherited = None
                if slots.carried and rules.bias_correction:
                    if value is None or state != "carry":
                        inherited = steps.get(slots.before)
                    else:  # moments that are as young as those that they are copies of
                        found += [
                            UpdateRegion(m.region, now, m.inherited)
                            for m in moved
                            if isinstance(m, UpdateRegion) and m.inherited is not None
                        ]
                found.append(UpdateRegion(target, now, inherited, rules.new_rate, rules.ramp, rules.new_decay))
                if rules.fade_steps and isinstance(block.value, Constant):
                    for region, towards in _faded(plan, spec, index, block.region, holders, piece):
                        found.append(Fade(region, towards, rules.fade_steps, start=float(block.value.value)))
        following[slots.parameter] = [r for r in found if isinstance(r, Fade) or not r.says_nothing]
    return {parameter: found for parameter, found in following.items() if found}


def _towards(fade: Fade, renamed: Mapping[Any, Any]) -> Fade:
    """Return a fade that is under way, towards what its parameter has become."""
    if fade.towards not in renamed:
        raise RequestError(
            "a copied layer is still fading in, from one that this optimizer does not have: grow when that has come to "
            "its end, or begin with fade_in=0"
        )
    return replace(fade, towards=renamed[fade.towards])


def _faded(
    plan: Plan,
    spec: TensorSpec,
    index: Mapping[str, int],
    region: Region,
    holders: Mapping[str, tuple[P, Piece | None]],
    piece: Piece | None,
) -> Iterator[tuple[Region, P]]:
    """Yield what of a constant region of a new layer the layer that it copies has from the source, and its holder.

    Heads and experts that are new in a layer do not fade in: beside the ones that they copy they would count twice.
    """
    origin = plan.origin(index)
    if not index or origin is None:
        return
    depth = min(index, key=lambda axis: spec.template.index(f"{{{axis}}}"))
    if plan.outermost_new(dict(index)) != depth:
        return
    place = int(np.flatnonzero(plan.axis_map(depth, dict(index)).array() == origin[depth])[0])
    copied = {**index, depth: place}
    if plan.is_new(copied):
        return
    if spec.name(copied) not in holders:
        raise RequestError(
            f"{spec.name(index)} is to fade in from {spec.name(copied)}, which this optimizer does not have: pass one "
            "that has both, or UpdateRules(fade_in=0)"
        )
    holder, other = holders[spec.name(copied)]
    for block in tensor_plan(plan, spec, copied).blocks:
        if from_source(block.value) is None:
            continue
        inside = tuple(
            compact(np.intersect1d(positions(mine), positions(theirs)))
            for mine, theirs in zip(region, block.region, strict=True)
        )
        if not all(length(i) for i in inside):
            continue
        here, there = stored_region(piece, inside), stored_region(other, inside)
        if all(np.array_equal(positions(a), positions(b)) for a, b in zip(here, there, strict=True)):
            yield here, holder


def _function_space(value: Affine, normalised: bool) -> float:
    """Return the factor on a rescaled weight's update under which the function moves as without the rescaling."""
    return float(value.scale if normalised else value.scale / value.slope)


def _moved(regions: Sequence[Followed], origin: Region, target: Region) -> list[Followed]:
    """Return regions of a source parameter as regions of a block of the target that comes from there."""
    found: list[Followed] = []
    for region in regions:
        picked = []
        for inside, source, along in zip(region.region, origin, target, strict=True):
            where = np.flatnonzero(np.isin(positions(source), positions(inside)))
            picked.append(compact(positions(along)[where]))
        if all(length(p) for p in picked):
            found.append(replace(region, region=tuple(picked)))
    return found


def rekeyed(regions: Mapping[Any, Sequence[Followed]], keys: Mapping[Any, P]) -> dict[P, list[Followed]]:
    """Return regions by another name of each parameter, such as its number in place of itself.

    Raises:
        RequestError: a layer fades in from a parameter that has no such name.
    """

    def renamed(region: Followed) -> Followed:
        if isinstance(region, UpdateRegion):
            return region
        if region.towards not in keys:
            raise RequestError("a layer fades in from a parameter that is not there: it belongs to another model")
        return replace(region, towards=keys[region.towards])

    return {keys[key]: [renamed(region) for region in some] for key, some in regions.items()}


def regions_to_json(regions: Mapping[Any, Sequence[Followed]]) -> dict[Any, list[dict[str, Any]]]:
    """Return regions by parameter as plain data."""
    return {
        key: [
            {**{f.name: getattr(r, f.name) for f in fields(r)}, "region": [_index_to_json(i) for i in r.region]}
            for r in some
        ]
        for key, some in regions.items()
    }


def regions_from_json(
    data: Mapping[P, Sequence[Mapping[str, Any]]], shapes: Mapping[P, tuple[int, ...]]
) -> dict[P, list[Followed]]:
    """Read what ``regions_to_json`` gave.

    Args:
        data: parameter (its name, or its number) -> regions.
        shapes: of all parameters that there are.

    Raises:
        RequestError: a region lies outside of its parameter, or there is no such parameter.
    """
    found: dict[P, list[Followed]] = {}
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
            made: Followed = (Fade if "towards" in entry else UpdateRegion)(**{**entry, "region": region})
            made.check()
            if isinstance(made, Fade) and shapes.get(made.towards) != shapes[key]:
                raise RequestError(
                    f"a region of parameter {key} fades in from {made.towards}, which is none of the same shape: the "
                    "region updates belong to another model"
                )
            found.setdefault(key, []).append(made)
    return found


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
    "Fade",
    "Followed",
    "UpdateRegion",
    "correction",
    "grown_regions",
    "regions_from_json",
    "regions_to_json",
    "rekeyed",
]
