"""A model that runs from its folder: every layer's weights are read just before it runs, and let go right after.

The class is built with its parameters on the meta device and its buffers computed as ever. Memory holds the weights of
one layer (what is in a list of modules, whole; of everything else the one module that runs), and activations. Stored
tensors become parameters by the rules with which ``transformers`` itself loads the class, so that results are the same
bit by bit; what those rules cannot give raises, rather than run with other weights.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import nn

from growformer.errors import SourceError
from growformer.execute.empty import parameters_on_meta
from growformer.storage.folder import ModelFolder
from growformer.verification.output_runs import cast


class Unrunnable(SourceError):
    """A class cannot run layer by layer from disk."""


Tell = Callable[[str], None]
"""Told which part of a model runs."""
Read = Callable[[str], torch.Tensor]
"""Stored name -> tensor."""


def class_of(folder: ModelFolder) -> Any:
    """Return the class of ``transformers`` that a folder names, or the one for its config where it names none.

    Raises:
        SourceError: there is no such class.
    """
    import transformers

    heads = folder.config.get("architectures") or []
    if not heads:
        return transformers.AutoModel
    found = getattr(transformers, heads[0], None) if isinstance(heads[0], str) else None
    if found is None and folder.config.get("model_type") in transformers.CONFIG_MAPPING:
        # Some classes are in the module of their model type only.
        place = transformers.CONFIG_MAPPING[folder.config["model_type"]].__module__
        with contextlib.suppress(ImportError):
            found = getattr(import_module(place.replace(".configuration_", ".modeling_")), str(heads[0]), None)
    if not isinstance(found, type) or not hasattr(found, "from_pretrained"):
        raise SourceError(f"{folder.path}: transformers has no class {heads[0]!r}; load the models and pass them")
    return found


def skeleton(folder: ModelFolder) -> nn.Module:
    """Return a folder's class with its config, in evaluation mode, its parameters on the meta device, buffers computed.

    Raises:
        SourceError: the class refuses the config.
    """
    import transformers

    model_class = class_of(folder)
    try:
        if model_class is transformers.AutoModel:
            config = transformers.AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
        else:
            config = model_class.config_class.from_pretrained(folder.path)
        with parameters_on_meta():
            build = model_class.from_config if model_class is transformers.AutoModel else model_class._from_config
            made: nn.Module = build(config, dtype=torch.float32)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise SourceError(f"{folder.path}: {model_class.__name__} refuses its config: {reason}") from None
    return made.eval()


@dataclass(frozen=True, slots=True)
class FromDisk:
    """A model folder that runs layer by layer.

    Attributes:
        folder: with the weights.
        tell: told which part runs.
    """

    folder: ModelFolder
    tell: Tell = field(default=lambda _: None)

    def looked_at(self) -> nn.Module:
        """Return the model without weights."""
        return skeleton(self.folder)

    @contextlib.contextmanager
    def opened(self, dtype: torch.dtype) -> Iterator[nn.Module]:
        """Give the model; a forward reads all of its weights once.

        Raises:
            Unrunnable: a parameter cannot be found in the folder, or a module uses another's weights without running
                it; at once, or while it runs.
        """
        model = skeleton(self.folder)
        with self.folder.reader() as read:
            stored = _Stored(model, self.folder, read)
            stored.fill_buffers()
            cast(model, dtype)
            units = _units(model)
            stored.check(units)
            _on_cpu(model)
            _explain(model, self.folder)
            for number, unit in enumerate(units, 1):
                at = f"{unit.name or 'the model itself'}, {number} of {len(units)}"
                _stream(unit, stored, dtype, functools.partial(self.tell, at))
            yield model


def _explain(model: nn.Module, folder: ModelFolder) -> None:
    """Say what it means when a run fails for want of weights."""
    forward = model.forward

    @functools.wraps(forward)
    def run(*arguments: Any, **named: Any) -> Any:
        try:
            return forward(*arguments, **named)
        except (RuntimeError, NotImplementedError) as error:
            if "meta" not in str(error).lower():
                raise
            raise Unrunnable(
                f"{folder.path}: {type(model).__name__} cannot run layer by layer: a module uses weights of another, "
                f"which does not run ({next(iter(str(error).splitlines()), '')}); it needs memory for all of it"
            ) from error

    model.forward = run


def _on_cpu(model: nn.Module) -> None:
    """Make modules that say where they are, by their first parameter, say that they are on the CPU."""
    for module in model.modules():
        cls = type(module)
        if isinstance(getattr(cls, "device", None), property):
            here = {"device": property(lambda _: torch.device("cpu")), "__module__": cls.__module__}
            module.__class__ = type(cls.__name__, (cls,), here | {"__qualname__": cls.__qualname__})


# What is loaded together.


@dataclass(frozen=True, slots=True)
class _Unit:
    """Weights that come and go together, around the run of a module.

    Attributes:
        name: of the module.
        module: whose run it is.
        places: of its weights.
    """

    name: str
    module: nn.Module
    places: tuple[_Place, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """One weight in a module.

    Attributes:
        owner: the module.
        attribute: name of the weight there.
        name: in the model.
        parameter: on the meta device, shared with all weights that are tied to it.
    """

    owner: nn.Module
    attribute: str
    name: str
    parameter: nn.Parameter


def _units(model: nn.Module) -> list[_Unit]:
    """Return the units of a model, in order: an entry of a list of modules is one, else every module with weights."""
    found: list[_Unit] = []
    seen: set[int] = set()

    def add(name: str, module: nn.Module, owners: dict[str, nn.Module]) -> None:
        places = tuple(
            _Place(owner, attribute, f"{at}.{attribute}" if at else attribute, parameter)
            for at, owner in owners.items()
            if id(owner) not in seen
            for attribute, parameter in owner._parameters.items()
            if parameter is not None
        )
        seen.update(map(id, owners.values()))
        if places:
            found.append(_Unit(name, module, places))

    def visit(name: str, module: nn.Module, listed: bool) -> None:
        if id(module) in seen:
            return
        is_list = isinstance(module, (nn.ModuleList, nn.ModuleDict))
        if listed and not is_list:
            add(name, module, dict(module.named_modules(prefix=name)))
            return
        add(name, module, {name: module})
        for child, inner in module.named_children():
            visit(f"{name}.{child}" if name else child, inner, is_list)

    visit("", model, False)
    return found


def _stream(unit: _Unit, stored: _Stored, dtype: torch.dtype, tell: Callable[[], None]) -> None:
    """Have a unit's weights loaded before its module runs and let go afterwards, also when it fails."""
    depth = 0

    def load(*_: Any) -> None:
        nonlocal depth
        depth += 1
        if depth > 1:
            return
        tell()
        made: dict[str, torch.Tensor] = {}
        for place in unit.places:
            value = stored.parameter(place, dtype, made)
            # As in memory: kernels are chosen by whether weights learn, even where no gradient is kept.
            learns = place.parameter.requires_grad and value.is_floating_point()
            place.owner._parameters[place.attribute] = nn.Parameter(value, requires_grad=learns)

    def free(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        if not depth:
            for place in unit.places:
                place.owner._parameters[place.attribute] = place.parameter

    unit.module.register_forward_pre_hook(load, prepend=True)
    unit.module.register_forward_hook(free, always_call=True)


# What stored tensors become.


@dataclass(slots=True)
class _Group:
    """Stored tensors that become one or several parameters together.

    Attributes:
        first: name of the first of these.
        converter: what makes them of the stored ones; None where one tensor becomes one parameter as it is.
        keys: names of the stored tensors in order, each with the pattern that it matched.
    """

    first: str
    converter: Any
    keys: list[tuple[str, str]] = field(default_factory=list)


class _Stored:
    """The tensors of a folder as parameters of a class, by the rules with which ``transformers`` loads it.

    Args:
        model: of the class, on the meta device.
        folder: with the tensors.
        read: reads one.
    """

    def __init__(self, model: nn.Module, folder: ModelFolder, read: Read) -> None:
        self._model, self._folder, self._read = model, folder, read
        self._tensors: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
        self._names: dict[int, list[str]] = {}
        for name, tensor in self._tensors.items():
            self._names.setdefault(id(tensor), []).append(name)
        self._groups = self._grouped()

    def check(self, units: list[_Unit]) -> None:
        """See that every parameter is stored.

        Raises:
            Unrunnable: one is not.
        """
        for unit in units:
            for place in unit.places:
                self._stored_name(place)

    def fill_buffers(self) -> None:
        """Read the buffers that the folder holds; they are small and stay in memory."""
        for name, tensor in self._tensors.items():
            if not isinstance(tensor, nn.Parameter) and name in self._groups:
                with torch.no_grad():
                    tensor.copy_(self._made(name, {}))

    def parameter(self, place: _Place, dtype: torch.dtype, made: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return a parameter's values in a dtype, in memory of its own.

        Args:
            place: of the parameter.
            dtype: wanted; integers stay what they are.
            made: other parameters that were made together with it and are still wanted; changed.

        Raises:
            Unrunnable: what is stored has another shape.
        """
        name, expected = self._stored_name(place), place.parameter.shape
        value = self._made(name, made)
        if value.shape != expected:
            raise Unrunnable(
                f"{self._folder.path}: {name} has the shape {list(value.shape)}; its class expects {list(expected)}"
            )
        return value.to(dtype, copy=True) if value.is_floating_point() else value

    def _stored_name(self, place: _Place) -> str:
        """Return the name under which a weight is stored: its own, or else that of one that is tied to it.

        Both may be, and differ, whatever the config says; ``transformers`` does not tie them then.
        """
        names = [place.name, *self._names.get(id(place.parameter), [])]
        found = next((name for name in names if name in self._groups), None)
        if found is None:
            raise Unrunnable(f"{self._folder.path}: holds no weights for {place.name} of {type(self._model).__name__}")
        return found

    def _made(self, name: str, made: dict[str, torch.Tensor]) -> torch.Tensor:
        if name in made:
            return made.pop(name)
        group = self._groups[name]
        if group.converter is None:
            return self._read(group.keys[0][0])
        converter = copy.deepcopy(group.converter)
        for key, pattern in group.keys:
            converter.add_tensor(group.first, key, pattern, self._read(key))
        results = converter.convert(group.first, model=self._model, config=getattr(self._model, "config", None))
        made.update({n: t[0] if isinstance(t, list) else t for n, t in results.items()})
        if name not in made:
            raise Unrunnable(f"{self._folder.path}: {name} is not among what {group.keys[0][0]} becomes")
        return made.pop(name)

    def _grouped(self) -> dict[str, _Group]:
        """Return parameter name -> the stored tensors that it is made of; as ``transformers`` matches them.

        Raises:
            Unrunnable: this version of ``transformers`` loads in another way.
        """
        try:
            from transformers.conversion_mapping import get_model_conversion_mapping
            from transformers.core_model_loading import WeightConverter, dot_natural_key, rename_source_key
        except ImportError as error:
            raise Unrunnable(f"this version of transformers cannot be followed from disk ({error})") from None
        rules = get_model_conversion_mapping(self._model)
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
        by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        prefix = getattr(self._model, "base_model_prefix", None)
        found: dict[str, _Group] = {}
        for key in sorted(self._folder.entries, key=dot_natural_key):
            name, pattern = rename_source_key(key, renamings, converters, prefix, self._tensors)
            if name not in self._tensors and key in self._tensors:
                name, pattern = rename_source_key(key, [], [], prefix, self._tensors)
            if name not in self._tensors:
                continue  # what the class does not use
            rule = by_pattern[pattern] if pattern is not None else None
            group = found.setdefault(name, _Group(name, rule))
            group.keys.append((key, pattern or key))
            if rule is not None:
                for other in rule.target_patterns[1:]:
                    found.setdefault(name.replace(rule.target_patterns[0], other), group)
        return found


__all__ = ["FromDisk", "Unrunnable", "class_of", "skeleton"]
