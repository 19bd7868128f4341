"""Where new layers go, and how a config says for each source layer what it was before: lists, numbers, kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from growformer.architecture.declaration import Architecture
from growformer.architecture.exact import compute, mentions, names_in
from growformer.errors import RequestError, did_you_mean

NewLayersAt = str | Sequence[int] | Mapping[str, Any]
"""``end``, ``interleave`` or positions; or one of these for each numbered axis (``{"decoder_layer": [0, 4]}``)."""


def place_indices(
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

    A run of new layers after source layer j repeats the run of source layers that ends with j, in order, and all of
    them as often as needed where it is longer: ``end`` stacks the whole model. New layers in front of the first repeat
    it.
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
            found.append(((i - run) % (before + 1) if before >= 0 else 0, True))
        start = end
    return found


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


def _depth(architecture: Architecture) -> str | None:
    """Return the index axis that lists with one entry per layer follow."""
    return next((axis for axis in architecture.index_axes if not architecture.size_index(axis)), None)


def _lists_of(architecture: Architecture, axis: str) -> set[str]:
    """Return the lists with one entry per layer that follow a numbered axis: that of their rule, or else the first."""
    found = set()
    for name in architecture.layer_lists:
        rule = architecture.layer_rules.get(name)
        owners = [a for a in architecture.index_axes if rule is not None and mentions(rule, a)]
        if axis == next(iter(owners), _depth(architecture)):
            found.add(name)
    return found


def _renumber(architecture: Architecture, target: dict[str, Any], positions: tuple[int, ...]) -> None:
    """Let fields that name layers by number name the same ones: k is what layer k gives, counted from 1."""
    # A negative number counts from the end, where the last of them is the last layer's.
    now = {0: 0, **{origin + 1: at + 1 for at, origin in enumerate(positions) if origin >= 0}}
    count = max(positions, default=-1) + 1
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


def settle_kinds(
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
