"""Rotary embeddings in the target's config: a base that keeps every source frequency, and the notes that go with it.

theta' = theta^(d'/d) gives theta'^(-2i/d') = theta^(-2i/d) for every source frequency i (MATHEMATICS: rotary).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from growformer.architecture.declaration import Architecture
from growformer.architecture.facts import Rotary
from growformer.errors import RequestError
from growformer.planning.spaces import Sizes

_LARGEST_THETA = 1e38
_KEEPS_FREQUENCIES = ("default", "linear", "llama3", "yarn", "longrope", "su", "mrope")
_FACTORS = ("short_factor", "long_factor")
_SECTIONS = "mrope_section"


def holder(config: dict[str, Any], rotary: Rotary) -> tuple[dict[str, Any], Rotary]:
    """Return the config that holds rotary parameters, which may be one inside, and the embedding as it is named there.

    A config inside is put into ``config`` as a copy of its own.
    """
    nest, _, name = rotary.parameters.rpartition(".")
    if not nest:
        return config, rotary
    config[nest] = copy.deepcopy(dict(config.get(nest) or {}))
    return config[nest], replace(rotary, parameters=name)


def finish_rotary(target: dict[str, Any], rotary: Rotary, before: int, after: int, defaults: Mapping[str, Any]) -> None:
    """Change rotary parameters for a number of frequencies grown from ``before`` to ``after``, and spell them twice.

    transformers 4 reads other names, and would fall back to a base of 10000. ``defaults`` has the bases of older
    configs that leave them to the class.

    Raises:
        RequestError: the frequencies cannot be kept, or the source's config spells them twice, and differently.
    """
    if before != after:
        implied = rotary.implied_by(target)
        if implied:
            target[rotary.parameters] = implied
        for _, parameters in _entries(target, rotary):
            _grow(parameters, rotary, after / before, after - before)
        if not isinstance(target.get(rotary.parameters), dict):
            said = dict(target.get("rope_scaling") or {})
            _extend(said, rotary, after - before)
            if said:
                target["rope_scaling"] = said
            for name in rotary.legacy.values() or (rotary.legacy_theta,):
                base = target.get(name) or defaults.get(name) or rotary.theta
                target[name] = _grown(float(base), after / before)
        bases = target.get(rotary.per_layer or "")
        if isinstance(bases, list):
            target[str(rotary.per_layer)] = [_grown(float(b), after / before) if b else b for b in bases]
    _write_legacy(target, rotary)


def _entries(target: Mapping[str, Any], rotary: Rotary) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield the dictionaries of rotary parameters, each with the kind of layer that it is for."""
    parameters = target.get(rotary.parameters)
    if not isinstance(parameters, dict):
        return
    inner = {kind: value for kind, value in parameters.items() if isinstance(value, dict)}
    if inner:
        yield from inner.items()
    else:
        yield None, parameters


def _grow(parameters: dict[str, Any], rotary: Rotary, ratio: float, more: int) -> None:
    _extend(parameters, rotary, more)
    parameters["rope_theta"] = _grown(float(parameters.get("rope_theta", rotary.theta)), ratio)


def _extend(parameters: dict[str, Any], rotary: Rotary, more: int) -> None:
    """Let lists with an entry per frequency, and the partition of frequencies, reach over the new ones."""
    _refuse_unknown(parameters.get("rope_type", parameters.get("type", "default")))
    for name in _FACTORS:
        factors = parameters.get(name)
        if isinstance(factors, list) and factors:
            parameters[name] = [*factors, *(factors[-1:] * more)]
    if rotary.sections is not None:
        *others, last = parameters.get(_SECTIONS) or rotary.sections
        parameters[_SECTIONS] = [*others, last + more]


def _refuse_unknown(kind: str) -> None:
    if kind not in _KEEPS_FREQUENCIES:
        raise RequestError(
            f"cannot grow head_dim: rotary scaling of type {kind!r} computes its frequencies from the head size; "
            "grow other sizes, or use a model with default, linear, llama3, yarn or longrope scaling"
        )


def _grown(theta: float, ratio: float) -> float:
    most = math.log(_LARGEST_THETA) / math.log(theta)
    if ratio > most:
        raise RequestError(
            f"cannot grow head_dim by a factor of {ratio:g}: the rotary base would be {theta:g}^{ratio:g}, past what "
            f"float32 holds; the largest factor with rope_theta = {theta:g} is {most:.2f}"
        )
    return float(theta**ratio)


def _write_legacy(target: dict[str, Any], rotary: Rotary) -> None:
    for kind, parameters in _entries(target, rotary):
        if rotary.fraction in parameters:
            target[rotary.legacy_fraction or str(rotary.fraction)] = parameters[rotary.fraction]
        if "rope_theta" not in parameters:
            continue
        if kind is not None:
            field = rotary.legacy.get(kind)
            if field is not None:
                target[field] = parameters["rope_theta"]
            continue
        legacy = target.get("rope_scaling")
        if legacy:
            said = {("rope_type" if name == "type" else name): value for name, value in dict(legacy).items()}
            differs = sorted(
                name
                for name, value in said.items()
                if name not in (*_FACTORS, _SECTIONS) and parameters.get(name) != value
            )
            if differs:
                raise RequestError(
                    f"the source's config contradicts itself: {rotary.parameters} and rope_scaling give different "
                    f"{', '.join(differs)}. Remove the one that does not hold from its config.json"
                )
        target[rotary.legacy_theta] = parameters["rope_theta"]
        if parameters.get("rope_type", "default") != "default":
            kept = {name: value for name, value in parameters.items() if name not in ("rope_theta", rotary.fraction)}
            target["rope_scaling"] = kept


def phase_error(theta: float, head_dim: int, grown_head_dim: int, position: int) -> float:
    """Return by how much float32 frequencies move the angle of a source frequency at a position, in radians.

    theta' = theta^(d'/d) gives the same real frequencies; both models round their powers to float32, differently.
    """
    grown_theta = theta ** (grown_head_dim / head_dim)

    def frequencies(base: float, dim: int) -> Any:
        exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
        return np.float32(1) / np.power(np.float32(base), exponents, dtype=np.float32)

    before = frequencies(theta, head_dim).astype(np.float64)
    after = frequencies(grown_theta, grown_head_dim)[: before.size].astype(np.float64)
    return float(np.abs(after - before).max() * position)


def rotary_notes(architecture: Architecture, sizes: Sizes, target: Mapping[str, Any]) -> tuple[str, ...]:
    """Say by how much float32 frequencies move at the longest position, and what to ask for instead."""
    notes = []
    for rotary in architecture.rotary:
        before, after = sizes.pair(rotary.frequency, {})
        if before == after:
            continue
        entries = [parameters for _, parameters in _entries(sizes.source, rotary)] or [{}]
        default = sizes.source.get(rotary.legacy_theta) or rotary.theta
        bases = [float(parameters.get("rope_theta", default)) for parameters in entries]
        longest = int(target.get("max_position_embeddings") or 4096)
        error = max(phase_error(theta, 2 * before, 2 * after, longest) for theta in bases)
        note = f"rotary phases at position {longest} move by {_about(error)} radians, as frequencies are float32"
        if after % before:
            doubled = max(phase_error(theta, 2 * before, 4 * before, longest) for theta in bases)
            note += f"; a head_dim of {4 * before} would move them by {_about(doubled)}"
        notes.append(note)
    return tuple(notes)


def _about(radians: float) -> str:
    """Return a phase error in words; power functions differ in the last bit, so none is promised to be zero."""
    return "less than 1e-05" if radians < 1e-5 else f"about {radians:.1e}"
