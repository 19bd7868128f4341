"""Compares names, shapes and shared storage that a declaration predicts with those of the class, at many configs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from growformer.architecture.declaration import Architecture, Config
from growformer.architecture.exact import compute, names_in
from growformer.errors import ArchitectureError, SourceError
from growformer.verification.live import Live, MakeModel, build, with_fields


def shape_problems(
    architecture: Architecture,
    config: Config,
    make_model: MakeModel,
    variants: Mapping[str, Mapping[str, Any]],
    silent: list[Config],
) -> Iterator[str]:
    """Yield problems; append to ``silent`` the changes of a size that change no shape.

    Args:
        architecture: the declaration.
        config: a small config.
        make_model: config -> model.
        variants: size field that the class does not let vary alone -> the fields to change instead.
        silent: see above.
    """
    try:
        base = build(architecture, make_model, config)
        resolved = architecture.resolve_config(config)
        found = list(_disagreements(base))
    except ArchitectureError as error:
        yield f"shapes: {error}"
        return
    yield from (f"shapes: {problem}" for problem in found)
    if found:
        return
    declared, growing = _size_fields(architecture), architecture.size_fields()
    given = dict(_given(architecture, config))
    others = [n for n, value in given.items() if n not in declared and any(_others(value))]
    others += [n for n in _conditions(architecture) if n not in (*declared, *others) and any(_others(resolved.get(n)))]
    for name in (*declared, *others):
        value = resolved.get(name)
        if value is None and name not in variants:
            continue  # what it is the size of does not exist in this config
        candidates = [variants[name]] if name in variants else [{name: other} for other in _others(value)]
        changed, model = _first_legal(architecture, config, make_model, candidates)
        if (model is None and name in others) or not candidates:
            continue
        if model is None:
            yield f"shapes: no legal value of {name} other than {value!r} is found{changed}"
            continue
        for problem in _disagreements(model):
            yield f"shapes with {named(changed)} instead of {value}: {problem}"
        if name in growing and model.carried != base.carried:
            differ = sorted(dict(model.carried.items() ^ base.carried.items()))
            yield f"shapes with {named(changed)} instead of {value}: {', '.join(differ)} carried, and not as before"
        if name in declared and model.shapes == base.shapes:
            silent.append(changed)
    for name in _flags(architecture, resolved):
        changed, model = _first_legal(architecture, config, make_model, [{name: not resolved.get(name)}])
        for problem in _disagreements(model) if model is not None else ():
            yield f"shapes with {named(changed)}: {problem}"


def named(changed: Config) -> str:
    """Return changed fields for a message."""
    return ", ".join(f"{name} = {value}" for name, value in changed.items())


def _others(value: Any) -> Iterator[Any]:
    """Yield other values of a size, larger ones first; of a (nested) list, lists with another last entry."""
    if isinstance(value, (list, tuple)) and value:
        yield from ([*value[:-1], other] for other in _others(value[-1]))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield from range(value + 1, 2 * value + 2)
        yield from range(value - 1, 0, -1)


def _first_legal(
    architecture: Architecture, config: Config, make_model: MakeModel, candidates: Iterable[Config]
) -> tuple[Any, Live | None]:
    """Return the first change that is legal and the model that has it; or why there is none, and None."""
    reason = ""
    for changed in candidates:
        try:
            other = with_fields(architecture, config, changed)
            _check_declared(architecture, other)
            return changed, build(architecture, make_model, other)
        except Exception as error:  # a class may refuse a size in any way it likes
            reason = f"; {named(changed)}: {error}"
    return reason, None


def _check_declared(architecture: Architecture, config: Config) -> None:
    """Raise where a config is none that the declaration is meant for."""
    resolved = architecture.resolve_config(config)
    if architecture.variant is not None and not compute(architecture.variant, resolved):
        raise ArchitectureError(f"another declaration holds unless {architecture.variant}")
    for name, (value, reason) in architecture.constants.items():
        if resolved.get(name, value) != value:
            raise ArchitectureError(f"{name} = {resolved[name]!r}: {reason}")
    for axis in architecture.sizes:
        index = architecture.size_index(axis)
        for values in architecture.instances(index, resolved):
            architecture.size(axis, resolved, values)


def _disagreements(live: Live) -> Iterator[str]:
    architecture = live.architecture
    try:
        source = live.source
    except (SourceError, ArchitectureError) as error:
        yield str(error)
        return
    resolved = architecture.resolve_config(live.config)
    owners = {architecture.tensors[template].owner for template in (*source.templates, *live.tied)}
    for spec in architecture.tensors.values():
        there = spec.template in source.templates or spec.template in live.tied
        if spec.owner in owners and not there and architecture.exists(spec, resolved):
            yield f"the class has no {spec.template}"
    declared = live.shared(architecture.shared)
    if architecture.tie_field is None or resolved.get(architecture.tie_field):
        declared += live.shared(architecture.ties)
    actual: dict[int, set[str]] = {}
    for name, tensor in live.tensors.items():
        actual.setdefault(id(tensor), set()).add(name)
    together = {frozenset(group) for group in actual.values() if len(group) > 1}
    expected = _joined(declared)
    for group in sorted(map(sorted, together - expected)):
        yield f"{' and '.join(group)} share their storage, which is not declared"
    for group in sorted(map(sorted, expected - together)):
        yield f"{' and '.join(group)} do not share their storage, as the declaration says"


def _joined(pairs: Iterable[tuple[str, str]]) -> set[frozenset[str]]:
    found: set[frozenset[str]] = set()
    for pair in pairs:
        touched = {group for group in found if group & set(pair)}
        found = (found - touched) | {frozenset(pair).union(*touched)}
    return found


def _size_fields(architecture: Architecture) -> list[str]:
    """Return every config field that sizes are computed from, those that growth cannot change included."""
    fixed = [name for axis in architecture.fixed for name in names_in(architecture.sizes[axis])]
    fields = [*architecture.size_fields(), *fixed]
    fractions = {rotary.fraction for rotary in architecture.rotary}
    return [name for name in dict.fromkeys(fields) if name not in architecture.inferred and name not in fractions]


def _given(architecture: Architecture, config: Config) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a config, those of nested ones by their full names."""
    for name, value in config.items():
        if name in architecture.nested and isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", entry) for inner, entry in value.items())
        else:
            yield name, value


def _conditions(architecture: Architecture) -> list[str]:
    """Return the fields that decide over a bias, a tensor or a kind of layer."""
    arrows = architecture.arrows.values()
    found = [a.bias for a in arrows if isinstance(a.bias, str)] + [a.when for a in arrows if a.when]
    found += [kind.when for kind in architecture.kinds]
    names = [name for condition in found for name in names_in(condition)]
    return [name for name in dict.fromkeys(names) if name not in architecture.sizes]


def _flags(architecture: Architecture, resolved: Config) -> list[str]:
    """Return the fields that are true or false, and decide over a bias, a tensor or ties."""
    found = [n for n in _conditions(architecture) if resolved.get(n) is None or isinstance(resolved[n], bool)]
    return [*found, architecture.tie_field] if architecture.tie_field else found


__all__ = ["named", "shape_problems"]
