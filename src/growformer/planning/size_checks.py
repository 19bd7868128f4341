"""Whether a complete request is one that a model can have; where not, the nearest that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from growformer.architecture.declaration import Architecture
from growformer.architecture.exact import mentions, names_in
from growformer.errors import ArchitectureError, RequestError
from growformer.planning.axis_map import origin_of

_TRIES = 10_000
"""How far from what was asked for a value is looked for that works: what a message says must not take minutes."""


def check_sizes(
    architecture: Architecture,
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    asked: Mapping[str, Any],
    layers: Mapping[str, Mapping[tuple[int, ...], tuple[int, ...]]],
) -> None:
    """Refuse sizes that would be no whole number, or smaller, or change an axis that cannot.

    Raises:
        RequestError: with the nearest values that work.
    """
    for axis, expression in architecture.sizes.items():
        if axis in architecture.index_axes:
            continue
        for instance in architecture.instances(architecture.size_index(axis), target):
            before_at = origin_of(architecture, layers, instance)
            if before_at is None:
                continue
            before = architecture.size(axis, source, before_at)
            try:
                after = architecture.size(axis, target, instance)
            except ArchitectureError:
                after = None
            is_fixed = axis in architecture.fixed
            if after is not None and (after == before or (after > before and not is_fixed)):
                continue
            used = names_in(expression)
            name = next((n for n in used if n in asked), next((n for n in used if target[n] != source[n]), used[0]))
            rest = ", ".join(f"{n} = {target[n]}" for n in used if n != name)
            if is_fixed and after is not None:
                raise RequestError(
                    f"cannot grow {name} {source[name]} -> {target[name]}: {axis} = {expression} would change from "
                    f"{before} to {after}, and {architecture.fixed[axis]}"
                )
            if after is None:
                why = f"{axis} = {expression} is not a whole number" + (f" with {rest}" if rest else "")
            else:
                why = f"{axis} = {expression} would shrink from {before} to {after}" + (f" with {rest}" if rest else "")
            at = f" at {dict(instance)}" if instance else ""
            nearest = _nearest(architecture, axis, name, source, target, before)
            raise RequestError(f"cannot grow {name} {source[name]} -> {target[name]}{at}: {why}{nearest}")


def check_tensors(
    architecture: Architecture,
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    asked: Mapping[str, Any],
    layers: Mapping[str, Mapping[tuple[int, ...], tuple[int, ...]]],
) -> None:
    """Refuse sizes with which a layer of the source would have other tensors: a part made from nothing, say."""
    checked: set[tuple[str | None, str | bool]] = set()
    for spec in architecture.tensors.values():
        arrow = architecture.arrows[spec.owner]
        conditions = (arrow.when, arrow.bias if spec.part == "bias" else False)
        named = [c for c in conditions if isinstance(c, str)]
        if not named or conditions in checked:
            continue
        checked.add(conditions)
        axes = tuple(a for a in spec.index if any(mentions(c, a) for c in named) and not architecture.size_index(a))
        for index in architecture.instances(axes, target):
            origin = {axis: layers[axis][()][at] for axis, at in index.items()}
            if -1 in origin.values():
                continue
            before, after = (architecture.exists(spec, c, i) for c, i in ((source, origin), (target, index)))
            if before == after:
                continue
            name = next((n for n in asked if any(mentions(c, n) for c in named)), next(iter(asked), "a size"))
            at = "".join(f" in {axis} {number}" for axis, number in origin.items())
            has, would = ("has no", "have one") if after else ("has a", "have none")
            raise RequestError(
                f"cannot grow {name} {source.get(name)} -> {target.get(name)}: the source {has} {spec.template}{at}, "
                f"and the target would {would}; growth only makes larger what is there"
            )


def check_multiples(architecture: Architecture, source: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    """Refuse sizes of which the class wants one to be a multiple of another.

    Raises:
        RequestError: with the nearest values that work.
    """
    for rule in architecture.multiples:
        value, unit = target[rule.field], target[rule.of]
        if value % unit and (value, unit) != (source[rule.field], source[rule.of]):
            nearest = [v for v in (value // unit * unit, (value // unit + 1) * unit) if v >= source[rule.field]]
            raise RequestError(
                f"cannot grow {rule.field} {source[rule.field]} -> {value} with {rule.of} = {unit}: {rule.because}; "
                f"nearest {rule.field}: {', '.join(map(str, nearest))}"
            )


def _fits(architecture: Architecture, axis: str, config: Mapping[str, Any], least: int) -> bool:
    """Tell whether an axis has a size under a config, and one that is no smaller than the source's."""
    try:
        return architecture.size(axis, config) >= least
    except ArchitectureError:
        return False


def _together(architecture: Architecture, axis: str, name: str, target: Mapping[str, Any], least: int) -> str:
    """Return the smallest value of another field that makes a request possible."""
    for other in names_in(architecture.sizes[axis]):
        if other == name or not isinstance(target[other], int):
            continue
        for value in range(target[other], min(64 * target[other], target[other] + _TRIES)):
            if _fits(architecture, axis, {**target, other: value}, least):
                return f"ask for {name}={target[name]} and {other}={value}"
    return ""


def _nearest(
    architecture: Architecture, axis: str, name: str, source: Mapping[str, Any], target: Mapping[str, Any], least: int
) -> str:
    wanted = target[name]
    if not isinstance(wanted, int):
        return ""
    first, last = source[name], 4 * max(wanted, source[name])
    below = (*range(wanted - 1, max(first, wanted - _TRIES) - 1, -1), *((first,) if first < wanted else ()))
    above = range(max(first, wanted + 1), min(last, wanted + _TRIES) + 1)
    nearest = [
        value
        for values in (below, above)
        if (value := next((v for v in values if _fits(architecture, axis, {**target, name: v}, least)), None))
        is not None
    ]
    if nearest == [source[name]]:
        together = _together(architecture, axis, name, target, least)
        return "; no larger value fits while the others stay" + (f": {together}" if together else "")
    return f"; nearest: {', '.join(map(str, nearest))}" if nearest else ""
