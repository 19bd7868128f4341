"""What a config leaves out is what the class puts there: the declared defaults, one field at a time."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from tests.families.case import Case

from growformer.architecture.declaration import Architecture
from growformer.architecture.registry import for_config
from growformer.architecture.source import describe
from growformer.errors import GrowformerError


def check_defaults(case: Case) -> list[str]:
    """Every declared default is the config class's own; where that says None, the model's class agrees in shapes.

    A default of None declares nothing, and rotary parameters have many spellings: growth compares those.
    """
    given = {"model_type": case.model_type, **case.config}
    problems = [f"{name}: {problem}" for name, problem in _differences(case, given, case.architecture).items()]
    for name in case.architecture.defaults:
        without = _without(given, name)
        if without is None:
            continue
        try:
            architecture = for_config(without)
            found = _differences(case, without, architecture, only=name)
        except Exception:  # a class may refuse a config without the field in any way it likes
            continue
        if architecture is case.architecture:
            problems += [f"without {name}: {problem}" for problem in found.values()]
    return list(dict.fromkeys(problems))


def _differences(
    case: Case, config: Mapping[str, Any], architecture: Architecture, only: str | None = None
) -> dict[str, str]:
    import transformers

    made = transformers.AutoConfig.for_model(**copy.deepcopy(dict(config)))
    filled, resolved = made.to_dict(), architecture.resolve_config(config)
    found: dict[str, str] = {}
    unknown = False
    rotary = {"rope_parameters", "rope_scaling", *(r.parameters for r in architecture.rotary)}
    declared = [n for n, default in architecture.defaults.items() if default is not None and n not in rotary]
    for name in [n for n in declared if only in (None, n)]:
        value = _inside(filled, name) if _has(filled, name) else getattr(made, name, None)
        if value is None:
            unknown = True
        elif resolved.get(name) != value:
            found[name] = f"{resolved.get(name)!r} is declared, the config class says {value!r}"
    if unknown and only and not found:
        with torch.device("meta"):
            state = case.model_class(made).state_dict(keep_vars=True)
        owners: dict[int, str] = {}
        aliases = {n: owner for n, t in state.items() if (owner := owners.setdefault(id(t), n)) != n}
        aliases = {
            (o if any(o.endswith(head) for head in architecture.ties) else n): (
                n if any(o.endswith(head) for head in architecture.ties) else o
            )
            for n, o in aliases.items()
        }
        shapes = {n: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in state.items()}
        try:
            describe(architecture, config, shapes, aliases=aliases)
        except GrowformerError as error:
            if "contradicts itself" in str(error):  # sizes of the case that this default does not go with
                return found
            found[only] = f"the model's class fills it in otherwise: {error}"
    return found


def _has(config: Mapping[str, Any], name: str) -> bool:
    *outer, last = name.split(".")
    for part in outer:
        inner = config.get(part)
        if not isinstance(inner, Mapping):
            return False
        config = inner
    return last in config


def _inside(config: Mapping[str, Any], name: str) -> Any:
    found: Any = config
    for part in name.split("."):
        found = found[part]
    return found


def _without(config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return a config without a field, or None where it does not have it."""
    if not _has(config, name):
        return None
    changed = copy.deepcopy(dict(config))
    inner = changed
    *outer, last = name.split(".")
    for part in outer:
        inner = inner[part]
    del inner[last]
    return changed
