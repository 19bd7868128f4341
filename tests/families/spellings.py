"""The ways in which a checkpoint may be spelled on disk: transformers 4 or 5, with or without the base model's prefix.

``check_disk`` grows what ``save_pretrained`` writes (experts apart, old names, where a class has them); this module
grows the other spellings. A spelling that the stock class itself does not read as the same model is not one.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.families.case import Case
from tests.families.growths import Growth
from torch import nn

import growformer
from growformer.architecture.facts import Rotary

Tensors = dict[str, torch.Tensor]
Write = Callable[[Path], bool]
"""Respells a saved folder; False where that is no other spelling."""


def check_spellings(case: Case, growth: Growth) -> list[str]:
    """Every spelling that the class reads grows into what memory gives, and the class reads that as well."""
    from tests.families.checks import grown

    source = case.source(growth.eps)
    problems: list[str] = []
    for name, write in spellings(case, source).items():
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder, "source"), Path(folder, "grown")
            if not write(before):
                continue
            wrong = _differs(case, before, source)
            if wrong:
                if name.startswith("legacy names"):
                    problems.append(f"{name}: the class does not read it: {wrong}")
                continue
            try:
                growformer.grow_checkpoint(before, after, init="noise", **growth.request)
            except growformer.GrowformerError as error:
                problems.append(f"{name}: {type(error).__name__}: {error}")
                continue
            wrong = _differs(case, after, grown(case, growth))
            if wrong:
                problems.append(f"{name}: {wrong}")
    return problems


def applicable(case: Case) -> list[str]:
    """Return the names of the spellings, beside that of ``save_pretrained``, that the class reads as the same model."""
    found = []
    for name, write in spellings(case, case.source()).items():
        with tempfile.TemporaryDirectory() as folder:
            before = Path(folder, "source")
            if write(before) and not _differs(case, before, case.source()):
                found.append(name)
    return found


def spellings(case: Case, model: nn.Module) -> dict[str, Write]:
    """Return the other spellings of a model, by name."""

    def saved(folder: Path, **options: Any) -> Tensors:
        model.save_pretrained(folder, **options)  # type: ignore[operator]
        return load_file(folder / "model.safetensors")

    def live(folder: Path) -> bool:
        usual = saved(folder)
        return set(saved(folder, save_original_format=False)) != set(usual)

    def with_prefix(folder: Path) -> bool:
        prefix, tensors = f"{case.architecture.prefix}.", saved(folder)
        heads = case.architecture.heads
        if not case.architecture.prefix or any(n.startswith(prefix) or n.split(".")[0] in heads for n in tensors):
            return False
        return _replace(folder, {prefix + n: t for n, t in tensors.items()})

    def without_prefix(folder: Path) -> bool:
        prefix, tensors = f"{case.architecture.prefix}.", saved(folder)
        if not case.architecture.prefix or not all(n.startswith(prefix) for n in tensors):
            return False
        return _replace(folder, {n.removeprefix(prefix): t for n, t in tensors.items()})

    def legacy_config(folder: Path) -> bool:
        saved(folder)
        config = json.loads((folder / "config.json").read_text())
        changed = config
        for rotary in case.architecture.rotary:
            changed = _legacy_rotary(changed, rotary)
        if "dtype" in changed:
            changed = {**changed, "torch_dtype": changed["dtype"]}
            del changed["dtype"]
        (folder / "config.json").write_text(json.dumps(changed))
        return bool(changed != config)

    def legacy_names(folder: Path) -> bool:
        tensors = saved(folder)
        return _replace(folder, {_renamed(case.legacy, name): t for name, t in tensors.items()})

    found: dict[str, Write] = {
        "names as in memory": live,
        "with the base model's prefix": with_prefix,
        "without the base model's prefix": without_prefix,
        "config of transformers 4": legacy_config,
    }
    if case.legacy:
        found["legacy names"] = legacy_names
    return found


def _renamed(pairs: Mapping[str, str], name: str) -> str:
    for pattern, replacement in pairs.items():
        name = re.sub(pattern, replacement, name)
    return name


def _replace(folder: Path, tensors: Tensors) -> bool:
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return True


def _legacy_rotary(config: dict[str, Any], rotary: Rotary) -> dict[str, Any]:
    """Return a config with rotary parameters as transformers 4 wrote them: rope_theta and rope_scaling."""
    parameters = config.get(rotary.parameters)
    if not isinstance(parameters, dict):
        return config
    changed = {name: value for name, value in config.items() if name != rotary.parameters}
    if any(isinstance(value, dict) for value in parameters.values()):
        for kind, field in rotary.legacy.items():
            if isinstance(parameters.get(kind), dict) and "rope_theta" in parameters[kind]:
                changed[field] = parameters[kind]["rope_theta"]
        return changed
    scaling = {name: value for name, value in parameters.items() if name not in ("rope_theta", rotary.fraction)}
    changed[rotary.legacy_theta] = parameters.get("rope_theta")
    if rotary.fraction in parameters:
        changed[rotary.legacy_fraction or str(rotary.fraction)] = parameters[rotary.fraction]
    if scaling.get("rope_type", "default") != "default":
        changed["rope_scaling"] = scaling
    return changed


def _differs(case: Case, folder: Path, expected: nn.Module) -> str:
    """Return in what a folder differs from a model, as the stock class reads it; empty if in nothing."""
    try:
        loaded, info = case.load(folder)
    except Exception as error:  # a class may refuse a folder in any way it likes
        return f"{type(error).__name__}: {error}"
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[key]:
            return f"{key}: {sorted(map(str, info[key]))[:4]}"
    wanted, found = expected.state_dict(), loaded.state_dict()
    if set(wanted) != set(found):
        return f"other tensors: {sorted(set(wanted) ^ set(found))[:4]}"
    differing = [n for n, value in wanted.items() if not torch.equal(found[n], value)]
    buffers = dict(loaded.named_buffers())
    moved = [
        n
        for n, buffer in expected.named_buffers()
        if n not in wanted and buffer.is_floating_point() and not torch.equal(buffers.get(n, buffer), buffer)
    ]
    return f"{[*differing, *moved][:4]} differ" if differing or moved else ""
