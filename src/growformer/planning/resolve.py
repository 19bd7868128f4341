"""From a request in config fields to a complete target config: every derived size is decided here and noted."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from growformer.architecture.declaration import Architecture
from growformer.architecture.exact import compute, evaluate, names_in
from growformer.architecture.facts import Rotary
from growformer.errors import ArchitectureError, RequestError, did_you_mean
from growformer.planning.layers import NewLayersAt, place_indices, settle_kinds
from growformer.planning.size_checks import check_multiples, check_sizes, check_tensors


@dataclass(frozen=True, slots=True)
class Resolved:
    """A complete request.

    Attributes:
        target: config with the target's sizes, written as config.json holds them.
        layers: index axis -> instance around it -> for every target position its source position, or -1.
        notes: decisions that the user did not spell out.
        requested: config fields that were asked for.
    """

    target: dict[str, Any]
    layers: dict[str, dict[tuple[int, ...], tuple[int, ...]]]
    notes: tuple[str, ...] = field(default=())
    requested: tuple[str, ...] = field(default=())


def resolve(
    architecture: Architecture,
    config: Mapping[str, Any],
    request: Mapping[str, Any],
    new_layers_at: NewLayersAt = "interleave",
    set_fields: Mapping[str, Any] | None = None,
) -> Resolved:
    """Complete a request.

    Args:
        architecture: the declaration.
        config: the source's config.
        request: config field (or a common alias of it) -> size; a list where the family's field is one.
        new_layers_at: ``end``, ``interleave``, or the positions that new layers have in the target.
        set_fields: other config fields to change.

    Raises:
        RequestError: an unknown field, a smaller or indivisible size, or sizes that cannot vary alone; the message
            names the nearest values that work.
    """
    stood_for = {into: config[n] for n, into in architecture.overriding.items() if config.get(n) is not None}
    config = {name: value for name, value in {**config, **stood_for}.items() if name not in architecture.overriding}
    source = architecture.resolve_config(config)
    fields = architecture.size_fields()
    asked = _by_field(architecture, request, fields)
    _check_set_fields(architecture, fields, set_fields or {})
    pinned = {name: source[name] for name in fields if name in source}
    target = {**source, **(set_fields or {}), **pinned, **asked}
    notes: list[str] = []
    _check_numbers(architecture, source, asked)
    layers = place_indices(architecture, source, target, asked, new_layers_at)
    _complete(architecture, source, target, asked, notes)
    settled = settle_kinds(architecture, source, target, layers)
    _keep_rotated_size(architecture, source, target)
    check_sizes(architecture, source, target, asked, layers)
    check_multiples(architecture, source, target)
    check_tensors(architecture, source, target, asked, layers)
    written = copy.deepcopy({**config, **(set_fields or {})})
    kept = [n for axis in architecture.fixed for n in names_in(architecture.sizes[axis])]  # whatever they default to
    for name in dict.fromkeys([*fields, *architecture.layer_lists, *architecture.layer_numbers, *settled, *kept]):
        if name not in target:
            continue
        implied = architecture.resolve_config({k: v for k, v in _flat(architecture, target).items() if k != name})
        if _is_given(config, name) or implied.get(name) != target[name]:
            write_field(written, name, target[name])
    for name, expression in architecture.follows.items():
        wanted = compute(expression, target)
        implied = architecture.resolve_config({k: v for k, v in _flat(architecture, target).items() if k != name})
        if _is_given(config, name) or implied.get(name, wanted) != wanted:
            write_field(written, name, wanted)
    for name, own in architecture.aliases.items():
        if own in fields and name not in fields and _is_given(config, name) and source[name] == source.get(own):
            write_field(written, name, target[own])
    for count, _ in architecture.beyond.values():
        if source.get(count):
            write_field(written, count, 0)
    for rotary in architecture.rotary:
        if rotary.fraction is not None and target.get(rotary.fraction) != source.get(rotary.fraction):
            write_share(written, rotary, target[rotary.fraction])
    return Resolved(written, layers, tuple(notes), (*asked, *(set_fields or ())))


def _flat(architecture: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved config without the dictionaries that its dotted fields spell out."""
    return {name: value for name, value in config.items() if name not in architecture.nested}


def _is_given(config: Mapping[str, Any], name: str) -> bool:
    outer, _, inner = name.partition(".")
    value = config.get(outer)
    return value is not None if not inner else isinstance(value, Mapping) and value.get(inner) is not None


def write_field(config: dict[str, Any], name: str, value: Any) -> None:
    """Write a field, which may be one of a config inside of the config: ``text_config.hidden_size``."""
    outer, _, inner = name.partition(".")
    if inner:
        config[outer] = {**(config.get(outer) or {}), inner: value}
    else:
        config[name] = value


def _check_set_fields(architecture: Architecture, fields: Sequence[str], set_fields: Mapping[str, Any]) -> None:
    """Refuse to set what is a size, or follows from the sizes."""
    derived = {str(a.eps) for a in architecture.arrows.values() if isinstance(a.eps, str)}
    derived |= {n for r in architecture.rotary for n in (r.parameters, r.legacy_theta, *r.legacy.values())}
    derived |= {"rope_theta", "rope_scaling", "model_type"}
    derived |= {n for axis in architecture.fixed for n in names_in(architecture.sizes[axis])}
    derived |= {architecture.tie_field or ""} | set(architecture.layer_lists) | set(architecture.layer_numbers)
    for name in set_fields:
        if architecture.aliases.get(name, name) in fields:
            raise RequestError(f"{name} is a size: ask for it as one, not through set_fields")
        if name in derived:
            raise RequestError(f"{name} cannot be set: growth keeps it, or derives it from the sizes")


def _by_field(architecture: Architecture, request: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    known = [*fields, *(a for a, f in architecture.aliases.items() if f in fields)]
    for name, value in request.items():
        own = architecture.aliases.get(name, name)
        if hasattr(value, "__index__") and not isinstance(value, bool):
            value = operator.index(value)  # numpy's integers as well
        if own in fields:
            if own in asked and asked[own] != value:
                raise RequestError(f"{own} is asked for twice: {asked[own]} and {value}")
            asked[own] = value
            continue
        fixed = next((r for a, r in architecture.fixed.items() if own in names_in(architecture.sizes[a])), None)
        if fixed:
            raise RequestError(
                f"cannot grow {name} of {architecture.name}: {fixed}; sizes that can grow: {', '.join(known)}"
            )
        because = next((c.because for c in architecture.coupled if name in (c.keeps, "head_dim")), None)
        hint = f" ({because})" if because else did_you_mean(name, known)
        raise RequestError(f"{architecture.name} has no size {name!r}{hint}; sizes that can grow: {', '.join(known)}")
    return asked


def _check_numbers(architecture: Architecture, source: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for name, value in asked.items():
        before = source.get(name)
        if isinstance(value, (list, tuple)):
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise RequestError(f"{name} must be a whole number, got {value!r}")
        if isinstance(before, int) and value < before:
            raise RequestError(
                f"cannot grow {name} {before} -> {value}: smaller than the source; growth never removes anything. "
                f"Nearest: {before}"
            )


def _keep_rotated_size(architecture: Architecture, source: Mapping[str, Any], target: dict[str, Any]) -> None:
    """Lower the rotated share of a head so that as much of it is rotated as before (MATHEMATICS: rotary)."""
    for rotary in architecture.rotary:
        if rotary.fraction is None:
            continue
        before, after = (int(evaluate(rotary.of, config).rational()) for config in (source, target))
        share = source.get(rotary.fraction, 1.0)
        rotated = int(before * share)
        # All of it is rotated, and grows so, unless heads are declared as a whole, without planes.
        in_planes = any(rotary.frequency in space.axes for space in architecture.spaces.values())
        if before != after and share is not None:
            target[rotary.fraction] = share if rotated == before and in_planes else share_of(rotated, after)


def write_share(config: dict[str, Any], rotary: Rotary, share: float) -> None:
    """Write the rotated share of a head wherever the config spells it, and where the class reads it."""
    name = str(rotary.fraction)
    parameters = config.get(rotary.parameters)
    if isinstance(parameters, dict):
        inner = [value for value in parameters.values() if isinstance(value, dict)]
        for entry in inner or [parameters]:
            entry[name] = share
    spelled = rotary.legacy_fraction or name
    for field_name in dict.fromkeys((name, spelled)):
        if field_name in config or (field_name == spelled and not isinstance(parameters, dict)):
            config[field_name] = share


def share_of(rotated: int, size: int) -> float:
    """Return a share that gives a rotated size when a class rounds ``size * share`` down."""
    share = rotated / size
    return share if int(size * share) == rotated else (rotated + 0.5) / size


def _complete(
    architecture: Architecture,
    source: Mapping[str, Any],
    target: dict[str, Any],
    asked: Mapping[str, Any],
    notes: list[str],
) -> None:
    """Decide fields that must follow others."""
    heads, kv_heads = architecture.roles.get("heads"), architecture.roles.get("kv_heads")
    if heads in asked and heads and kv_heads and kv_heads not in asked and source[kv_heads] == source[heads]:
        target[kv_heads] = target[heads]
        notes.append(f"{kv_heads} follows {heads} = {target[heads]}: the source has as many of both")
    for coupling in architecture.coupled:
        keep = architecture.size(coupling.keeps, source)
        if coupling.field in asked:
            continue
        value = evaluate(coupling.formula, {**target, "keep": keep}).rational()
        if value.denominator == 1 and value >= source[coupling.field]:
            if value != source[coupling.field]:
                target[coupling.field] = int(value)
                notes.append(
                    f"{coupling.field} follows: {source[coupling.field]} -> {int(value)} keeps "
                    f"{coupling.keeps} = {keep}"
                )
            continue
        growing = [n for n in asked if n in names_in(coupling.formula)]
        name = growing[0] if growing else coupling.field
        raise RequestError(
            f"cannot grow {name} {source.get(name)} -> {target.get(name)} alone: {coupling.because}, and "
            f"{coupling.keeps} = {keep} does not divide it. "
            + _completions(architecture, coupling.field, coupling.keeps, name, source, target)
        )


def _completions(
    architecture: Architecture, field_name: str, axis: str, name: str, source: Mapping[str, Any], target: dict[str, Any]
) -> str:
    keep = architecture.size(axis, source)
    options: list[str] = []
    for heads in range(source[field_name], min(source[field_name] * 4, source[field_name] + 10_000) + 1):
        if len(options) == 4:
            break
        try:
            size = architecture.size(axis, {**target, field_name: heads})
        except ArchitectureError:
            continue
        if size >= keep:
            options.append(f"{field_name}={heads} ({axis} {size})")
    below = target[name] // keep * keep
    nearest = [v for v in (below, below + keep) if v >= source[name]]
    found = f"Complete the request with {' or '.join(options[:4])}; or nearest" if options else "Nearest"
    return f"{found} {name}: {', '.join(map(str, nearest))}"
