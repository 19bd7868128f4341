"""A model's own class, seen through a declaration: its tensors, what shares storage, and runs with other weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from growformer.architecture.declaration import Architecture, Config
from growformer.architecture.source import SourceInfo, canonical_names, describe, specialised
from growformer.verification.outputs import default_dtype
from growformer.verification.places import Change

MakeModel = Callable[[dict[str, Any]], torch.nn.Module]
"""Config -> the model in eval mode; called on the meta device as well."""
Weights = Mapping[str, torch.Tensor]
"""Canonical name -> tensor."""

_FREQUENCIES = re.compile(r"(.*\.)?\w*inv_freq")
_SINES_AND_COSINES = re.compile(r"(.*\.)?embed_positions")


class Live:
    """One model and the declaration that should describe it.

    Args:
        architecture: the declaration.
        config: the model's config.
        model: the model; it stays as it is.
    """

    def __init__(self, architecture: Architecture, config: Config, model: torch.nn.Module) -> None:
        self.config = config
        self.model = model
        self.tensors: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
        self.shapes = {n: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in self.tensors.items()}
        self.declared = architecture
        self.architecture = specialised(architecture, self.shapes)

    @cached_property
    def stored(self) -> dict[str, str]:
        """Canonical name -> name in the model."""
        return canonical_names(self.architecture, self.tensors)

    def shared(self, names: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return the pairs of declared names that the model has both of, as it names them."""
        return [(self.stored[a], self.stored[b]) for a, b in names.items() if a in self.stored and b in self.stored]

    @cached_property
    def aliases(self) -> dict[str, str]:
        """The declared ties that hold, by names in the model."""
        return {a: b for a, b in self.shared(self.architecture.ties) if self.tensors[a] is self.tensors[b]}

    @cached_property
    def tied(self) -> set[str]:
        """The heads whose ties hold, by their declared names."""
        return {head for head in self.architecture.ties if self.stored.get(head) in self.aliases}

    @cached_property
    def carried(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that no growth touches."""
        names = self.architecture.arrows.keys() - self.declared.arrows.keys()
        return {name: self.shapes[self.stored[name]][0] for name in sorted(names)}

    @cached_property
    def source(self) -> SourceInfo:
        """The model's tensors, matched with the declaration.

        Raises:
            SourceError, ArchitectureError: they do not fit.
        """
        return describe(self.architecture, self.config, self.shapes, aliases=self.aliases)

    def run(self, weights: Weights, inputs: Weights, frequencies: Change | None = None) -> dict[str, torch.Tensor]:
        """Return the model's floating-point outputs by name, with other weights, in float64."""
        tensors = self._packed(weights)
        for name, buffer in self.model.named_buffers():
            tensors.setdefault(name, buffer.double() if buffer.is_floating_point() else buffer)
            if frequencies is not None and name in self.rotary_buffers:
                tensors[name] = _changed(name, tensors[name], frequencies)
        model = self.model if frequencies is None else _without_caches(self.model)
        given = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
        with torch.no_grad(), default_dtype(torch.float64):
            outputs = torch.func.functional_call(model, tensors, (), given)
        return dict(_flatten("", outputs))

    @cached_property
    def rotary_buffers(self) -> list[str]:
        """The buffers that hold rotary frequencies, or sines and cosines of their angles."""
        names = [name for name, _ in self.model.named_buffers()]
        return [n for n in names if _FREQUENCIES.fullmatch(n) or _SINES_AND_COSINES.fullmatch(n)]

    def _packed(self, weights: Weights) -> dict[str, torch.Tensor]:
        """Return weights under the model's names, those that lie in one tensor put together."""
        found: dict[str, torch.Tensor] = {}
        for name, tensor in weights.items():
            info = self.source.tensors[name]
            if info.piece is None:
                found[info.stored] = tensor
                continue
            if info.stored not in found:
                found[info.stored] = torch.zeros(self.shapes[info.stored][0], dtype=tensor.dtype)
            inside = found[info.stored] if info.piece.at is None else found[info.stored][info.piece.at]
            inside[info.piece.slices] = tensor.T if info.piece.transposed else tensor
        return found


def _without_caches(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy that does not remember sines and cosines of earlier runs."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        for name in [n for n in vars(module) if n.endswith("_cached")]:
            setattr(module, name, None)
    return copied


def _changed(name: str, buffer: torch.Tensor, change: Change) -> torch.Tensor:
    if _FREQUENCIES.fullmatch(name):
        return change(buffer)
    sines, cosines = buffer.chunk(2, dim=-1)
    return torch.cat([change(sines), cosines if change is torch.neg else change(cosines)], dim=-1)


def _flatten(name: str, outputs: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(outputs, torch.Tensor):
        if outputs.is_floating_point():
            yield name, outputs
    elif isinstance(outputs, Mapping):
        for key, value in outputs.items():
            yield from _flatten(f"{name}.{key}", value)
    elif isinstance(outputs, (list, tuple)):
        for key, value in enumerate(outputs):
            yield from _flatten(f"{name}.{key}", value)


def build(architecture: Architecture, make_model: MakeModel, config: Config) -> Live:
    """Return a model of a config without storage.

    Raises:
        Exception: whatever the class raises where it refuses a config.
    """
    with torch.device("meta"):
        return Live(architecture, config, make_model(dict(config)))


def with_fields(architecture: Architecture, config: Config, fields: Config) -> dict[str, Any]:
    """Return a config with other values of some fields, those of nested configs included.

    Lists with one entry per layer, or per rotary frequency, get as many as there are then.

    Raises:
        ArchitectureError: a size would be no whole number.
    """
    changed = copy.deepcopy(dict(config))
    for name, value in fields.items():
        _put(architecture, changed, name, value)
    plain = replace(architecture, layer_rules={})
    before, after = plain.resolve_config(config), plain.resolve_config(changed)
    for axis in architecture.index_axes:
        if not architecture.size_index(axis):
            old, new = architecture.size(axis, before), architecture.size(axis, after)
            for name in architecture.layer_lists:
                entries = after.get(name)
                if old != new and name not in fields and isinstance(entries, list) and len(entries) == old:
                    _put(architecture, changed, name, _resized(entries, new))
    for rotary in architecture.rotary:
        old, new = (architecture.size(rotary.frequency, c) for c in (before, after))
        entries = after.get(rotary.parameters)
        if old != new and isinstance(entries, Mapping):
            longer = {
                key: _resized(list(value), new) if isinstance(value, (list, tuple)) and len(value) == old else value
                for key, value in entries.items()
            }
            _put(architecture, changed, rotary.parameters, longer)
    return changed


def _put(architecture: Architecture, config: dict[str, Any], name: str, value: Any) -> None:
    outer, dot, inner = name.partition(".")
    if dot and outer in architecture.nested and isinstance(config.get(outer), dict):
        config[outer][inner] = value
    else:
        config[name] = value


def _resized(entries: list[Any], size: int) -> list[Any]:
    return [entries[i % len(entries)] for i in range(size)]


__all__ = ["Live", "MakeModel", "Weights", "build", "with_fields"]
