"""Makes plans: resolves a request, solves what every space must carry, and finishes the target config."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from growformer.architecture.declaration import Architecture
from growformer.architecture.exact import compute
from growformer.architecture.facts import Alibi
from growformer.architecture.source import SourceInfo
from growformer.errors import PlanError, RequestError
from growformer.planning.alibi import place_heads
from growformer.planning.axis_map import NEW, AxisMap, origin_of
from growformer.planning.initialisation import CUSTOM, Custom, Initialisation
from growformer.planning.layers import NewLayersAt, with_templates
from growformer.planning.plan import Plan
from growformer.planning.resolve import Resolved, resolve, write_field, write_share
from growformer.planning.rotary import finish_rotary, holder, rotary_notes
from growformer.planning.rules import arrow_is_on_the_residual_path
from growformer.planning.scales import rounding_notes, solve_scales
from growformer.planning.spaces import New, Sizes, place, solve_new

NEW_LAYERS = ("copy", "random")


def make_plan(
    architecture: Architecture,
    source: SourceInfo,
    request: Mapping[str, Any],
    *,
    new_layers_at: NewLayersAt = "interleave",
    new_layers: str = "copy",
    init: str | Custom = "normal",
    seed: int = 0,
    set_fields: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan the growth of a source to requested sizes.

    Args:
        architecture: its declaration.
        source: the source, described.
        request: config field -> size.
        new_layers_at: where new layers go: ``end``, ``interleave``, or their positions in the target.
        new_layers: ``copy``: start from a neighbour; ``random``: from fresh values. Their last weights are zero.
        init: how free blocks are filled (see ``Initialisation``), or a function.
        seed: of all fresh values.
        set_fields: config fields to change besides.

    Raises:
        RequestError: the request cannot be met as it is.
        NotPreservableError: no weights of these sizes compute the same function.
    """
    resolved = resolve(architecture, source.sizes, request, new_layers_at, set_fields)
    return plan_resolved(architecture, source, resolved, new_layers=new_layers, init=init, seed=seed)


def plan_resolved(
    architecture: Architecture,
    source: SourceInfo,
    resolved: Resolved,
    *,
    new_layers: str = "copy",
    init: str | Custom = "normal",
    seed: int = 0,
    start_from: Mapping[str, Mapping[tuple[int, ...], tuple[int, ...]]] | None = None,
) -> Plan:
    """Plan a complete request; see ``make_plan``.

    ``start_from`` says for every index axis and target position which source position it comes from or copies (-1:
    none), where that is not what ``new_layers`` implies.
    """
    if new_layers not in NEW_LAYERS:
        raise RequestError(f"new_layers must be one of {', '.join(NEW_LAYERS)}, got {new_layers!r}")
    source_sizes = architecture.resolve_config(source.sizes)
    target_sizes = architecture.resolve_config({**resolved.target, **source.inferred})
    index_maps: dict[str, dict[tuple[int, ...], AxisMap]] = {}
    templates: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {}
    for axis, maps in resolved.layers.items():
        index_maps[axis], templates[axis] = {}, {}
        for key, positions in maps.items():
            size = max(positions, default=-1) + 1
            index_maps[axis][key] = AxisMap.from_array(size, _as_array(positions))
            found = with_templates(positions)
            implied = tuple(NEW if new and new_layers == "random" else at for at, new in found)
            templates[axis][key] = implied if start_from is None else start_from[axis][key]

    origin = partial(origin_of, architecture, templates)
    sizes = Sizes(
        architecture=architecture,
        source=source_sizes,
        target=target_sizes,
        origin=origin,
        dtypes=_dtypes(architecture, source),
    )
    new = solve_new(sizes)
    states, rho = solve_scales(sizes, new, source.tied)
    target = finish_config(architecture, source, sizes, dict(resolved.target), rho)
    axis_maps: dict[str, dict[tuple[int, ...], AxisMap]] = {}
    for axis in architecture.sizes:
        if axis in index_maps:
            axis_maps[axis] = index_maps[axis]
            continue
        kinds: set[New] = {state.new[axis] for state in states.values() if axis in state.new}
        slopes = _alibi_of(architecture, sizes, axis)
        axis_maps[axis] = {
            tuple(index.values()): place_heads(slopes, sizes, *sizes.pair(axis, index))
            if slopes is not None and "copy" not in kinds
            else place(kinds, *sizes.pair(axis, index))
            for index in sizes.instances(architecture.size_index(axis))
        }
    std = source_sizes.get(architecture.std)
    std = float(std) if isinstance(std, (int, float)) and std else 0.02
    initialisation = (
        Initialisation(init, seed, std) if isinstance(init, str) else Initialisation(CUSTOM, seed, std, custom=init)
    )
    plan = Plan(
        architecture=architecture,
        source=source,
        target_config=target,
        axis_maps=axis_maps,
        templates=templates,
        spaces=states,
        rho=rho,
        init=initialisation,
        notes=(*resolved.notes, *rotary_notes(architecture, sizes, target), *rounding_notes(sizes)),
        requested=resolved.requested,
    )
    plan = replace(plan, notes=tuple(dict.fromkeys((*plan.notes, *_post_norm_notes(plan)))))
    _refuse_impossible_positions(plan)
    return plan


def _dtypes(architecture: Architecture, source: SourceInfo) -> dict[str, str]:
    """Return the dtypes of the tables whose dtype decides over a factor."""
    rounded = {add.rounded for add in architecture.adds if add.rounded is not None}
    return {name: source.tensors[name].dtype for name in rounded if name in source.tensors}


def _alibi_of(architecture: Architecture, sizes: Sizes, axis: str) -> Alibi | None:
    """Return the linear biases that decide where the heads of an axis go, if there are any."""
    for alibi in architecture.alibi:
        if alibi.heads == axis and (alibi.when is None or compute(alibi.when, sizes.source)):
            return alibi
    return None


def finish_config(
    architecture: Architecture, source: SourceInfo, sizes: Sizes, target: dict[str, Any], rho: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the target config with epsilons, rotary bases and their legacy spellings in place."""
    target = {name: value for name, value in copy.deepcopy(target).items() if name not in source.inferred}
    for name, factor in rho.items():
        write_field(target, name, float(sizes.source[name] * factor))
    for rotary in architecture.rotary:
        before, after = sizes.pair(rotary.frequency, {})
        inside, own = holder(target, rotary)
        defaults = sizes.source if inside is target else holder(dict(source.config), rotary)[0]
        finish_rotary(inside, own, before, after, defaults)
    return target


def _post_norm_notes(plan: Plan) -> tuple[str, ...]:
    """Say that a new post-norm layer is exact only as far as epsilon is small against the variance it meets."""
    for arrow in plan.architecture.arrows.values():
        if arrow.kind != "norm" or not arrow_is_on_the_residual_path(plan, arrow):
            continue
        if any(plan.is_new(dict(index)) for _, index in plan.norm_chain(arrow)):
            eps = float(plan.epsilon(arrow))
            return (
                f"new post-norm layers change what they read by up to eps / (2 variance), and eps is {eps:g}: "
                + ("nothing next to float32" if eps <= 1e-9 else "compare outputs where activations are small"),
            )
    return ()


def _as_array(positions: tuple[int, ...]) -> Any:
    return np.array(positions, dtype=np.int64)


def _refuse_impossible_positions(plan: Plan) -> None:
    """Refuse a new post-norm layer in front of everything, where no norm can hand over its affine."""
    for name, arrow in plan.architecture.arrows.items():
        if arrow.kind != "norm" or not arrow.target:
            continue
        if not arrow_is_on_the_residual_path(plan, arrow):
            continue
        chain = plan.norm_chain(arrow)
        if chain and plan.is_new(dict(chain[0][1])):
            raise RequestError(f"a new layer cannot stand in front of {name}: no norm before it hands over its gain")


def _computed_with(plan: Plan, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a config that two plans must agree on, however the rotary base is spelled."""
    eps = {str(arrow.eps) for arrow in plan.architecture.arrows.values() if isinstance(arrow.eps, str)}
    names = {*plan.architecture.size_fields(), *plan.architecture.layer_lists, *eps}
    found = {name: config.get(name) for name in sorted(names)}
    for rotary in plan.architecture.rotary:
        parameters = config.get(rotary.parameters)
        inner = parameters.values() if isinstance(parameters, Mapping) else ()
        bases = [value.get("rope_theta") for value in inner if isinstance(value, Mapping)]
        single = parameters.get("rope_theta") if isinstance(parameters, Mapping) else None
        found[f"theta of {rotary.frequency}"] = bases or single or config.get(rotary.legacy_theta)
    return {"architecture": plan.architecture, **found}


def compose(first: Plan, second: Plan) -> Plan:
    """Return one plan that leads from the first plan's source to the second's target.

    Source coordinates land where the two steps put them, with the product of their exact factors. Free blocks are
    filled once, by the second plan's initialisation.

    Raises:
        PlanError: the second plan does not start where the first ends.
    """
    if _computed_with(first, first.target_sizes) != _computed_with(second, second.source_sizes):
        raise PlanError("cannot compose plans: the second does not start from the first one's target config")
    layers: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {}
    start_from: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {}
    for axis in first.architecture.index_axes:
        layers[axis], start_from[axis] = {}, {}
        for key, later in second.axis_maps[axis].items():
            outer = first.architecture.size_index(axis)
            origin = second.origin(dict(zip(outer, key, strict=True)))
            earlier = first.axis_maps[axis][tuple(origin.values())] if origin is not None else None
            composed = later.after(earlier) if earlier is not None else later
            layers[axis][key] = tuple(composed.array().tolist())
            middle = first.templates[axis][tuple(origin.values())] if origin is not None else ()
            start_from[axis][key] = tuple(
                middle[at] if at != NEW and middle else NEW for at in second.templates[axis][key]
            )
    resolved = Resolved(
        dict(second.target_config), layers, (*first.notes, *second.notes), (*first.requested, *second.requested)
    )
    for name in (*first.rho, *second.rho):
        write_field(resolved.target, name, first.source_sizes[name])
    for rotary in first.architecture.rotary:
        share = second.target_sizes.get(rotary.fraction or "")
        inside, own = holder(resolved.target, rotary)
        before = holder(dict(first.source.config), rotary)[0]
        for name in (own.parameters, own.legacy_theta, "rope_scaling", *own.legacy.values()):
            if name in before:
                inside[name] = before[name]
            else:
                inside.pop(name, None)
        if share is not None:
            inside[own.parameters] = copy.deepcopy(inside.get(own.parameters))
            write_share(inside, own, share)
    init = second.init.custom or second.init.name
    return plan_resolved(
        first.architecture, first.source, resolved, init=init, seed=second.init.seed, start_from=start_from
    )
