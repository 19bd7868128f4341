"""How a class's shapes depend on its config: built without storage, with one config field changed at a time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

import torch
from torch import nn

Build = Callable[[dict[str, Any]], nn.Module]
"""Config -> ungrown model; called on the meta device."""
Shapes = dict[str, tuple[int, ...]]

_NOT_SIZES = re.compile(r"(^|_)(token_id|id|version|seed|window|type_vocab|pretraining_tp|step|layers_at|topk|top_k)$")
_MOST_FIELDS = 40


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a class builds.

    Attributes:
        config: the small config that it was built from.
        shapes: stored name -> shape.
        templates: name with index axes in braces -> the stored names that it stands for.
        counts: index axis -> the config field that says how many there are; None where none was found.
        expressions: template -> one size expression per dimension; None where none was found.
        varied: config fields that were changed.
    """

    config: dict[str, Any]
    shapes: Shapes
    templates: dict[str, list[str]]
    counts: dict[str, str | None]
    expressions: dict[str, tuple[str | None, ...]]
    varied: tuple[str, ...]


def measure(config: dict[str, Any], build: Build) -> Measured:
    """Return what a class builds from a config, and what each dimension depends on.

    Args:
        config: small: every size is best different from all others.
        build: makes the model; a field that it cannot build with another value is left as it is.
    """
    base = shapes_of(config, build)
    templates, names = _templates(base)
    variations: dict[str, tuple[int, Shapes]] = {}
    for field, value in config.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or _NOT_SIZES.search(field):
            continue
        if len(variations) == _MOST_FIELDS:
            break
        found = _vary(config, field, value, build)
        if found is not None:
            variations[field] = found
    counts = {axis: _count(axis, names, base, config, variations) for axis in _axes(templates)}
    expressions: dict[str, tuple[str | None, ...]] = {}
    for template, instances in templates.items():
        first = instances[0]
        dims = []
        for dim in range(len(base[first])):
            values = {
                field: (new, shapes[first][dim])
                for field, (new, shapes) in variations.items()
                if first in shapes and len(shapes[first]) == len(base[first]) and shapes[first] != base[first]
            }
            dims.append(_fit(base[first][dim], config, values))
        expressions[template] = tuple(dims)
    return Measured(
        config=config, shapes=base, templates=templates, counts=counts, expressions=expressions,
        varied=tuple(variations),
    )  # fmt: skip


def shapes_of(config: dict[str, Any], build: Build) -> Shapes:
    """Return the shapes that a class builds from a config; tied tensors and buffers included."""
    with torch.device("meta"):
        model = build(dict(config))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _vary(config: dict[str, Any], field: str, value: int, build: Build) -> tuple[int, Shapes] | None:
    for new in (2 * value, 3 * value, value + 1, value + 2, value - 1):
        if new < 1 or new == value:
            continue
        try:
            return new, shapes_of({**config, field: new}, build)
        except Exception:  # a class may refuse a size in any way it likes
            continue
    return None


def _templates(shapes: Shapes) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return template -> names, and index axis -> the stems under which its numbers stand."""
    groups: dict[str, list[str]] = {}
    for name in shapes:
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name), []).append(name)
    templates: dict[str, list[str]] = {}
    stems: dict[str, list[str]] = {}
    for pattern, names in groups.items():
        parts = pattern.split(".")
        at = [i for i, part in enumerate(parts) if part == "#"]
        varying = [i for i in at if len({name.split(".")[i] for name in names}) > 1]
        for i in at:
            if i not in varying:
                parts[i] = names[0].split(".")[i]
        for i in varying:
            stem = ".".join(parts[:i])
            axis = _axis_name(parts[:i], len([j for j in varying if j < i]))
            parts[i] = "{" + axis + "}"
            if stem not in stems.setdefault(axis, []):
                stems[axis].append(stem)
        templates.setdefault(".".join(parts), []).extend(names)
    return templates, stems


def _axis_name(before: list[str], depth: int) -> str:
    side = next((word for part in before for word in ("encoder", "decoder") if part == word), "")
    if depth == 0:
        return f"{side}_layer" if side == "decoder" else "layer"
    return "expert" if "expert" in before[-1] else f"part_{depth}"


def _axes(templates: Mapping[str, object]) -> list[str]:
    return list(dict.fromkeys(axis for template in templates for axis in re.findall(r"\{(\w+)\}", template)))


def _count(
    axis: str, stems: Mapping[str, list[str]], base: Shapes, config: Mapping[str, Any],
    variations: Mapping[str, tuple[int, Shapes]],
) -> str | None:  # fmt: skip
    """Return the field that says how many instances an index axis has."""

    def number(shapes: Shapes) -> int:
        pattern = re.compile(
            "|".join(re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(s)) + r"\.(\d+)\." for s in stems[axis])
        )
        found = [m for name in shapes if (m := pattern.match(name))]
        return 1 + max((int(next(g for g in m.groups() if g is not None)) for m in found), default=-1)

    before = number(base)
    for field, (new, shapes) in variations.items():
        if config[field] == before and number(shapes) == new:
            return field
    return None


def _fit(size: int, config: Mapping[str, Any], values: Mapping[str, tuple[int, int]]) -> str | None:
    """Return an expression that gives a dimension's size under the config and under every variation of it."""
    depends = [field for field, (_, found) in values.items() if found != size]
    if not depends:
        return str(size)

    def fits(evaluate: Callable[[Mapping[str, Any]], Fraction]) -> bool:
        if evaluate(config) != size:
            return False
        return all(evaluate({**config, field: new}) == found for field, (new, found) in values.items())

    for terms in (1, 2):
        for monomials in itertools.combinations(_monomials(depends, config), terms):
            for factors in _factors(size, monomials, config):

                def evaluate(c: Mapping[str, Any], factors: Any = factors, monomials: Any = monomials) -> Fraction:
                    return sum((k * _value(m, c) for k, m in zip(factors, monomials, strict=True)), Fraction(0))

                if fits(evaluate):
                    return " + ".join(_spell(k, m) for k, m in zip(factors, monomials, strict=True))
    if len(depends) == 1:
        field = depends[0]
        new, found = values[field]
        slope = Fraction(found - size, new - config[field])
        rest = size - slope * config[field]
        if rest.denominator == 1:
            return f"{_spell(slope, ((field, 1),))} {'+' if rest > 0 else '-'} {abs(rest)}"
    return None


_Monomial = tuple[tuple[str, int], ...]


def _monomials(fields: list[str], config: Mapping[str, Any]) -> list[_Monomial]:
    found: list[_Monomial] = []
    for count in range(1, min(len(fields), 3) + 1):
        for chosen in itertools.combinations(fields, count):
            for powers in itertools.product((1, -1), repeat=count):
                if any(power > 0 for power in powers):
                    found.append(tuple(zip(chosen, powers, strict=True)))
    return found


def _value(monomial: _Monomial, config: Mapping[str, Any]) -> Fraction:
    return prod((Fraction(config[field]) ** power for field, power in monomial), start=Fraction(1))


def _factors(size: int, monomials: tuple[_Monomial, ...], config: Mapping[str, Any]) -> Iterator[tuple[Fraction, ...]]:
    if len(monomials) == 1:
        yield (Fraction(size) / _value(monomials[0], config),)
        return
    for first in (1, 2, 3):
        rest = (size - first * _value(monomials[0], config)) / _value(monomials[1], config)
        if rest > 0 and rest.denominator == 1:
            yield (Fraction(first), rest)


def _spell(factor: Fraction, monomial: _Monomial) -> str:
    above = [field for field, power in monomial if power > 0]
    below = [field for field, power in monomial if power < 0]
    top = [str(factor.numerator)] if factor.numerator != 1 else []
    under = [*below, *([str(factor.denominator)] if factor.denominator != 1 else [])]
    return " / ".join([" * ".join([*top, *above]), *under])


__all__ = ["Build", "Measured", "Shapes", "measure", "shapes_of"]
