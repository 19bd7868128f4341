"""From a request in config fields to a complete target config: every derived size is decided here and noted."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from growformer.architecture.declaration import Architecture
from growformer.architecture.exact import compute, evaluate, mentions, names_in
from growformer.architecture.facts import Rotary
from growformer.errors import ArchitectureError, RequestError, did_you_mean
from growformer.planning.axis_map import origin_of

NewLayersAt = str | Sequence[int] | Mapping[str, Any]
"""``end``, ``interleave`` or positions; or one of these for each numbered axis (``{"decoder_layer": [0, 4]}``)."""


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
    layers = _place_indices(architecture, source, target, asked, new_layers_at)
    _complete(architecture, source, target, asked, notes)
    settled = _settle_kinds(architecture, source, target, layers)
    _keep_rotated_size(architecture, source, target)
    _check_sizes(architecture, source, target, asked, layers)
    _check_multiples(architecture, source, target)
    _check_tensors(architecture, source, target, asked, layers)
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
            raise RequestError(f"cannot grow {name} of {architecture.name}: {fixed}")
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


def _place_indices(
    architecture: Architecture,
    source: Mapping[str, Any],
    target: dict[str, Any],
    asked: Mapping[str, Any],
    new_layers_at: NewLayersAt,
) -> dict[str, dict[tuple[int, ...], tuple[int, ...]]]:
    """Place new layers (and other numbered parts), and let every per-layer list follow its layer."""
    found: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {}
    for axis in architecture.index_axes:
        outer = architecture.size_index(axis)
        found[axis] = {}
        if not outer:
            before, after = architecture.size(axis, source), architecture.size(axis, target)
            if after < before:
                raise RequestError(f"cannot grow {architecture.sizes[axis]} {before} -> {after}: smaller")
            found[axis][()] = place_layers(before, after, _at(architecture, axis, before == after, new_layers_at))
            origins = [o for o, _ in with_templates(found[axis][()])]
            lists = {n for e in architecture.sizes.values() if f"[{axis}]" in e for n in names_in(e)}
            lists |= _lists_of(architecture, axis)
            if axis == _depth(architecture):
                _renumber(architecture, target, found[axis][()])
            for name in sorted(lists):
                values = target.get(name)
                if name not in asked and isinstance(values, list) and len(values) == before:
                    target[name] = [values[origin] for origin in origins]
                elif isinstance(values, list) and len(values) != after:
                    raise RequestError(f"{name} lists {len(values)} layers; the target has {after}")
            continue
        for instance in architecture.instances(outer, target):
            origin = {a: with_templates(found[a][()])[instance[a]][0] for a in outer}
            before = architecture.size(axis, source, origin)
            after = architecture.size(axis, target, instance)
            if after < before:
                raise RequestError(f"cannot grow {architecture.sizes[axis]} {before} -> {after} at {instance}: smaller")
            key = tuple(instance.values())
            found[axis][key] = (*range(before), *(-1 for _ in range(after - before)))
    return found


def _renumber(architecture: Architecture, target: dict[str, Any], positions: tuple[int, ...]) -> None:
    """Let fields that name layers by number name the same ones: k is what layer k gives, counted from 1."""
    # A negative number counts from the end, where the last of them is the last layer's.
    now = {0: 0, **{origin + 1: at + 1 for at, origin in enumerate(positions) if origin >= 0}}
    count = max(positions) + 1
    for name, pattern in architecture.layer_numbers.items():
        values = target.get(name)
        if not isinstance(values, list):
            continue
        spelled = {_spelled(pattern, k): k for k in range(count + 1)}
        if pattern != "{}" and len(values) == count + 1 and set(values[1:]) <= set(spelled):  # all of them, by name
            target[name] = [values[0], *(_spelled(pattern, k + 1) for k in range(len(positions)))]
        else:
            numbers = [v + count + 1 if isinstance(v, int) and -count <= v < 0 else spelled.get(v) for v in values]
            target[name] = [v if k is None else _spelled(pattern, now[k]) for v, k in zip(values, numbers, strict=True)]


def _spelled(pattern: str, number: int) -> int | str:
    return number if pattern == "{}" else pattern.format(number)


def _lists_of(architecture: Architecture, axis: str) -> set[str]:
    """Return the lists with one entry per layer that follow a numbered axis: that of their rule, or else the first."""
    found = set()
    for name in architecture.layer_lists:
        rule = architecture.layer_rules.get(name)
        owners = [a for a in architecture.index_axes if rule is not None and mentions(rule, a)]
        if axis == next(iter(owners), _depth(architecture)):
            found.add(name)
    return found


def _depth(architecture: Architecture) -> str | None:
    """Return the index axis that lists with one entry per layer follow."""
    return next((axis for axis in architecture.index_axes if not architecture.size_index(axis)), None)


def _at(architecture: Architecture, axis: str, stays: bool, new_layers_at: NewLayersAt) -> str | Sequence[int]:
    """Return where the new instances of one numbered axis go."""
    if isinstance(new_layers_at, Mapping):
        unknown = sorted(set(new_layers_at) - set(architecture.index_axes))
        if unknown:
            raise RequestError(
                f"new_layers_at names {unknown[0]!r}{did_you_mean(unknown[0], architecture.index_axes)}; "
                f"{architecture.name} numbers {', '.join(architecture.index_axes)}"
            )
        found: str | Sequence[int] = new_layers_at.get(axis, "interleave")
        return found
    return "interleave" if stays and not isinstance(new_layers_at, str) else new_layers_at


def _settle_kinds(
    architecture: Architecture,
    source: Mapping[str, Any],
    target: dict[str, Any],
    layers: Mapping[str, Mapping[tuple[int, ...], tuple[int, ...]]],
) -> list[str]:
    """Let every source layer keep what the class derives from its number; return the fields that say so.

    New layers are of the kind of the layer that they copy, if a config can say it, and of whatever kind follows from
    their number otherwise.

    Raises:
        RequestError: no config says it.
    """
    written: list[str] = []
    for kind in architecture.kinds:
        axis = next(a for a in architecture.index_axes if mentions(kind.when, a))
        placed = with_templates(layers[axis][()])
        wanted = [compute(kind.when, source, {axis: origin}) for origin, _ in placed]
        names = {
            "holds": [at for at, is_so in enumerate(wanted) if is_so],
            "others": [at for at, is_so in enumerate(wanted) if not is_so],
            "num_holds": sum(map(bool, wanted)),
            "num_others": sum(not is_so for is_so in wanted),
        }
        settled = {name: compute(rule, {**target, **names}) for name, rule in kind.settle.items()}
        as_it_is, as_settled = (
            [at for at, is_so in enumerate(wanted) if compute(kind.when, config, {axis: at}) != is_so]
            for config in (target, {**target, **settled})
        )
        kept, held = ([at for at in wrong if not placed[at][1]] for wrong in (as_it_is, as_settled))
        if not as_it_is or (as_settled and not kept):
            continue
        if held:
            raise RequestError(
                f"cannot place the new layers there: source layer {placed[held[0]][0]} would become layer {held[0]}, "
                f"and {kind.because}; put new layers elsewhere (new_layers_at='end', or other positions)"
            )
        target.update(settled)
        written += settled
    return written


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


def place_layers(before: int, after: int, at: str | Sequence[int]) -> tuple[int, ...]:
    """Return for every target layer its source layer, or -1 where it is new.

    Raises:
        RequestError: positions that do not fit.
    """
    count = after - before
    if isinstance(at, str):
        if at == "end":
            new = set(range(before, after))
        elif at == "interleave":
            # New layer i comes after source layer ceil((i + 1) * before / count) - 1: evenly spread, one at the end.
            new = {-(-(i + 1) * before // count) + i for i in range(count)} if count else set()
        else:
            raise RequestError(f"new_layers_at must be 'end', 'interleave' or a list of positions, got {at!r}")
    else:
        new = set(at)
        bad = sorted(p for p in new if not isinstance(p, int) or not 0 <= p < after)
        if bad or len(new) != len(at) or len(new) != count:
            raise RequestError(
                f"new_layers_at = {list(at)}: expected {count} different positions from 0 to {after - 1}, "
                f"as the model grows from {before} to {after} layers"
            )
    positions, following = [], 0
    for position in range(after):
        if position in new:
            positions.append(-1)
        else:
            positions.append(following)
            following += 1
    return tuple(positions)


def with_templates(positions: tuple[int, ...]) -> list[tuple[int, bool]]:
    """Return for every target layer the source layer it comes from or, where new, copies: ``(source, is new)``.

    A run of new layers after source layer j repeats the run of source layers that ends with j, in order; new
    layers in front of the first repeat it.
    """
    found: list[tuple[int, bool]] = []
    start = 0
    while start < len(positions):
        if positions[start] != -1:
            found.append((positions[start], False))
            start += 1
            continue
        end = start
        while end < len(positions) and positions[end] == -1:
            end += 1
        before = positions[start - 1] if start else -1
        run = end - start
        for i in range(run):
            found.append((max(before - run + 1 + i, 0) if before >= 0 else 0, True))
        start = end
    return found


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
    options = []
    for heads in range(source[field_name], source[field_name] * 4 + 1):
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


def _check_sizes(
    architecture: Architecture,
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    asked: Mapping[str, Any],
    layers: Mapping[str, Mapping[tuple[int, ...], tuple[int, ...]]],
) -> None:
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


def _check_tensors(
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


def _check_multiples(architecture: Architecture, source: Mapping[str, Any], target: Mapping[str, Any]) -> None:
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
        for value in range(target[other], 64 * target[other]):
            if _fits(architecture, axis, {**target, other: value}, least):
                return f"ask for {name}={target[name]} and {other}={value}"
    return ""


def _nearest(
    architecture: Architecture, axis: str, name: str, source: Mapping[str, Any], target: Mapping[str, Any], least: int
) -> str:
    wanted = target[name]
    if not isinstance(wanted, int):
        return ""
    found: list[int] = []
    for value in range(source[name], 4 * max(wanted, source[name]) + 1):
        if _fits(architecture, axis, {**target, name: value}, least):
            found.append(value)
    below = [v for v in found if v < wanted]
    above = [v for v in found if v > wanted]
    nearest = [*below[-1:], *above[:1]]
    if nearest == [source[name]]:
        together = _together(architecture, axis, name, target, least)
        return "; no larger value fits while the others stay" + (f": {together}" if together else "")
    return f"; nearest: {', '.join(map(str, nearest))}" if nearest else ""
