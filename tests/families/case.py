"""A case: one stock class with a tiny config, every parameter random, and what the checks need to know about it.

A module in ``tests/families/cases`` that holds ``CASES = (Case(...), ...)`` is found by itself. Everything else (which
sizes grow, which inputs a class takes) is derived from the declaration and the config, and said here only where that
does not do.
"""

from __future__ import annotations

import copy
import functools
import importlib
import json
import pkgutil
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from tests.families.inputs import MAKERS
from torch import nn

from growformer.architecture.declaration import Architecture, TensorSpec
from growformer.architecture.registry import for_config
from growformer.errors import UnknownArchitectureError

Inputs = dict[str, torch.Tensor]
MakeInputs = Callable[[Mapping[str, Any]], Inputs]

ORACLE_EPS = 0.1
OUTPUT_EPS = 1e-3
"""Epsilons large enough to matter: a wrong one changes outputs far more than rounding does."""
SMALL_EPS = 1e-12
"""For new post-norm layers, which are exact up to eps / (2 variance)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One class of ``transformers`` with a tiny config.

    Attributes:
        model_type: as in config.json.
        model: name of the class, with that of its module where the package does not export it.
        config: keyword arguments of ``AutoConfig.for_model``. Sizes pairwise different where the class allows it, none
            of them 1, at least two layers, heads and key-value heads. Epsilons are best left out: the checks set every
            field that the declaration names as one.
        name: what is special about this case of its model type; empty for the main one.
        inputs: ``tokens``, ``encoder-decoder``, ``pixels``, ``audio`` (waveform), ``features`` (spectrogram), ``clip``
            (tokens and pixels), or a function of the config as a dictionary.
        growths: name -> request (size fields; ``new_layers_at`` and other options of ``growformer.plan`` too), in
            place of, or in addition to, the derived growth of that name; None leaves that one out.
        generate: whether the class continues a prompt; None: ask the class.
        tweak: changes the model after its parameters were made random, before anything is done with it.
        lookups, ordered, unused, variants: of ``check_declaration``. Token tables are looked up by what the class is
            run on (``vocab``: input_ids, ``positions``: position_ids, ``types``: token_type_ids) unless said otherwise,
            and question answering tells its labels apart.
        untrained: pattern of names of parameters that no gradient reaches in the class, although outputs depend on it.
        oracles: changes to the config for the oracles alone.
        long: changes to the config for the check at 4,096 positions.
        smooth: changes to the config that make outputs continuous in weights and inputs (all experts are asked), for
            the checks in which rounding would decide between experts, and of gradients, which reach those asked only.
        legacy: pattern -> replacement in stored names, which gives an older spelling that the class reads.
        scale: factor on the random matrices.
    """

    model_type: str
    model: str
    config: Mapping[str, Any]
    name: str = ""
    inputs: str | MakeInputs = "tokens"
    growths: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    generate: bool | None = None
    tweak: Callable[[nn.Module], None] | None = None
    lookups: Mapping[str, str] | None = None
    ordered: Collection[str] = ()
    unused: Collection[str] = ()
    untrained: str = ""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    oracles: Mapping[str, Any] = field(default_factory=dict)
    long: Mapping[str, Any] = field(default_factory=dict)
    smooth: Mapping[str, Any] = field(default_factory=dict)
    legacy: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0

    def __str__(self) -> str:
        return f"{self.model_type}-{self.name or self.model}"

    __repr__ = __str__

    @functools.cached_property
    def architecture(self) -> Architecture:
        """The declaration that the registry gives for this config."""
        return for_config({"model_type": self.model_type, **self.config})

    @property
    def model_class(self) -> Any:
        """The class; an automatic one stands for that of another model type, where that is the model type's own."""
        return class_named(self.model)

    def load(self, folder: Any) -> tuple[nn.Module, dict[str, Any]]:
        """Return what the class makes of a folder, with the config class of its model type, and what it says of it."""
        import transformers

        config = transformers.AutoConfig.from_pretrained(folder)
        loaded, info = self.model_class.from_pretrained(folder, config=config, output_loading_info=True)
        return loaded, info

    def config_with(self, eps: float, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the config with every declared epsilon set, and with changes (dotted names reach inside)."""
        config = copy.deepcopy({"model_type": self.model_type, **self.config})
        for name in epsilon_fields(self.architecture):
            if eps != OUTPUT_EPS or _get(config, name) is None:
                put(config, name, eps)
        for name, value in (changes or {}).items():
            put(config, name, value)
        return config

    @functools.cached_property
    def oracle_config(self) -> dict[str, Any]:
        """The config that the oracles use."""
        return self.config_with(ORACLE_EPS, self.oracles)

    def build(self, seed: int = 0, *, eps: float = OUTPUT_EPS, changes: Mapping[str, Any] | None = None) -> nn.Module:
        """Return a new model in eval mode with every parameter random; identity initialisation would hide errors."""
        import transformers

        config = transformers.AutoConfig.for_model(**self.config_with(eps, changes))
        model: nn.Module = instantiate(self.model, config)
        randomise(model, self.architecture, seed, self.scale)
        if self.tweak is not None:
            with torch.no_grad():
                self.tweak(model)
        return model

    @functools.cache  # noqa: B019  cases live as long as the module that holds them
    def source(self, eps: float = OUTPUT_EPS, *, smooth: bool = False) -> nn.Module:
        """Return the case's model, shared between the checks: not to be changed."""
        return self.build(eps=eps, changes=self.smooth if smooth else None)

    def make_inputs(self, config: Mapping[str, Any] | Any, *, length: int = 0, batch: int = 2) -> Inputs:
        """Return inputs for a config (a dictionary, or the class's own)."""
        given = config if isinstance(config, Mapping) else config.to_dict()
        if callable(self.inputs):
            return self.inputs(given)
        return MAKERS[self.inputs](given, length, batch)

    def oracle_inputs(self, config: Mapping[str, Any]) -> Inputs:
        """Return inputs for the oracles: every table of the lookups gets its own."""
        made = self.make_inputs(_class_config(json.dumps(dict(config), sort_keys=True)), length=11)
        if "input_ids" in made:
            ids = made["input_ids"]
            wanted = set(self.options["lookups"].values())
            generator = torch.Generator().manual_seed(2)
            if "token_type_ids" in wanted and "token_type_ids" not in made:
                resolved = self.architecture.resolve_config(config)
                types = self.architecture.size("types", resolved)
                made["token_type_ids"] = torch.randint(types, ids.shape, generator=generator)
            if "position_ids" in wanted and "position_ids" not in made:
                # Permuted positions without a mask would be taken for packed sequences.
                made["position_ids"] = torch.arange(ids.shape[1]).expand(ids.shape)
                made.setdefault("attention_mask", torch.ones_like(ids))
        return made

    def make_model(self, config: Mapping[str, Any]) -> nn.Module:
        """Return a model for the oracles; the same one for the same config."""
        return _make(self.model, json.dumps(dict(config), sort_keys=True), str(torch.get_default_device()))

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``check_declaration``."""
        lookups = self.lookups
        if lookups is None:
            usual = {"vocab": "input_ids", "positions": "position_ids", "types": "token_type_ids"}
            tables = {
                str(arrow.source)
                for arrow in self.architecture.arrows.values()
                if arrow.kind == "embedding" and arrow.source is not None
            }
            lookups = {axis: given for axis, given in usual.items() if axis in tables}
        return {
            "lookups": lookups,
            "ordered": self.ordered or (("labels",) if "QuestionAnswering" in self.model else ()),
            "unused": self.unused,
            "variants": self.variants,
        }

    @functools.cached_property
    def arrows(self) -> frozenset[str]:
        """The arrows of which the model has a tensor, its tied ones included."""
        with torch.device("meta"):
            names = list(self.make_model(self.oracle_config).state_dict())
        find = finder(self.architecture)
        return frozenset(spec.owner for name in names for spec in find(name))

    @property
    def continues(self) -> bool:
        """Whether the class continues a prompt."""
        if self.generate is not None:
            return self.generate
        speaks = re.search(r"ForCausalLM|LMHead|ForConditionalGeneration", self.model) is not None
        return speaks and self.inputs in ("tokens", "encoder-decoder") and bool(self.source().can_generate())  # type: ignore[operator]


@functools.cache
def _make(model: str, config: str, device: str) -> nn.Module:
    import transformers

    return instantiate(model, transformers.AutoConfig.for_model(**json.loads(config)))


def class_named(name: str) -> Any:
    """Return a class of ``transformers``, or of a module of it or of the tests: ``models.idefics2.….Class``."""
    import transformers

    if name.startswith("tests."):
        return pkgutil.resolve_name(name)
    return functools.reduce(getattr, name.split("."), transformers)


def instantiate(model: str, config: Any) -> nn.Module:
    """Return a new model of a class, in eval mode."""
    found = class_named(model)
    made: nn.Module = found.from_config(config) if hasattr(found, "from_config") else found(config)
    return made.eval()


@functools.cache
def _class_config(config: str) -> dict[str, Any]:
    """Return the config as the class fills it in; inputs depend on sizes that a case leaves to the class."""
    import transformers

    filled: dict[str, Any] = transformers.AutoConfig.for_model(**json.loads(config)).to_dict()
    return filled


def put(config: dict[str, Any], name: str, value: Any) -> None:
    """Write a field of a config, or of a config inside of it: ``text_config.hidden_size``."""
    *outer, last = name.split(".")
    for part in outer:
        inner = config.get(part)
        config[part] = dict(inner) if isinstance(inner, Mapping) else {}
        config = config[part]
    config[last] = value


def _get(config: Mapping[str, Any], name: str) -> Any:
    found: Any = config
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def epsilon_fields(architecture: Architecture) -> list[str]:
    """Return the config fields that the declaration names as epsilons."""
    found = (arrow.eps for arrow in architecture.arrows.values() if arrow.kind == "norm")
    return [name for name in dict.fromkeys(found) if isinstance(name, str)]


Find = Callable[[str], list[TensorSpec]]


def finder(architecture: Architecture) -> Find:
    """Return what finds the declared tensors that a stored name holds, whatever prefix stands in front."""
    from growformer.architecture.source import canonical_names

    patterns = [(_pattern(t), [spec]) for t, spec in architecture.tensors.items()]
    patterns += [
        (_pattern(t), [architecture.tensors[part] for part in packed.parts])
        for t, packed in architecture.packed.items()
    ]

    def find(name: str) -> list[TensorSpec]:
        canonical = next(iter(canonical_names(architecture, [name])))
        for candidate in (name, canonical.lstrip("?")):
            exact = [found for pattern, found in patterns if re.fullmatch(pattern, candidate)]
            if exact:
                return exact[0]
        inside = [found for pattern, found in patterns if re.fullmatch(rf"(\w+\.)+{pattern}", name)]
        return inside[0] if inside else []

    return find


def _pattern(template: str) -> str:
    return re.sub(r"\\{\w+\\}", r"\\d+", re.escape(template))


def randomise(model: nn.Module, architecture: Architecture, seed: int, scale: float = 1.0) -> None:
    """Overwrite every parameter and every float buffer that a checkpoint holds with random values, in place.

    Matrices keep activations moderate; gains lie around what leaves a vector as it is; variances stay positive.
    """
    generator = torch.Generator().manual_seed(seed)
    find = finder(architecture)
    persistent = set(model.state_dict())
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    tensors |= {n: b for n, b in model.named_buffers() if n in persistent and b.is_floating_point()}
    with torch.no_grad():
        for name, tensor in tensors.items():
            specs = find(name)
            values = torch.randn(tensor.shape, generator=generator)
            arrow = architecture.arrows[specs[0].owner] if specs else None
            roles = [dim.role for dim in specs[0].dims] if specs else []
            if name.endswith("running_var"):
                values = 1 + 0.3 * values.abs()
            elif arrow is not None and "gain" in roles:
                values = 1 - arrow.offset + 0.3 * values
            elif arrow is not None and arrow.kind == "embedding":
                values = 0.5 * scale * values
            elif arrow is not None and "read" in roles and tensor.ndim == len(roles):
                fan_in = tensor.shape[roles.index("read")]
                for dim, role in enumerate(roles):
                    fan_in *= tensor.shape[dim] if role == "kernel" else 1
                values = 1.2 * scale * values / fan_in**0.5
            else:
                values = (0.25 * scale if tensor.ndim > 1 else 0.3) * values
            tensor.copy_(values)


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """Return every case of every module in ``cases``, by model type.

    Raises:
        ValueError: two cases have the same name.
    """
    from tests.families import cases

    found = [
        case
        for module in sorted(pkgutil.iter_modules(cases.__path__), key=lambda m: m.name)
        for case in importlib.import_module(f"{cases.__name__}.{module.name}").CASES
    ]
    names = [str(case) for case in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two cases are called {', '.join(twice)}: give them a name")
    return tuple(found)


def declarations() -> dict[str, list[Case]]:
    """Return the cases of every declaration that is distinct, by the name of the first that is like it.

    Two declarations that differ in nothing but their name and their model types are one.
    """
    found: dict[str, tuple[str, list[Case]]] = {}
    for case in all_cases():
        try:
            key = declaration_key(case.architecture)
        except UnknownArchitectureError:  # not declared yet: everything that uses this case says so
            continue
        found.setdefault(key, (case.architecture.name, []))[1].append(case)
    return dict(found.values())


@functools.cache
def _key(name: str) -> str:
    from growformer.architecture.registry import architectures
    from growformer.architecture.serialise import architecture_to_json

    same = replace(architectures()[name], name="", model_types=(), variant=None)
    return json.dumps(architecture_to_json(same), sort_keys=True)


def declaration_key(architecture: Architecture) -> str:
    """Return what two declarations share that differ in nothing but name, model types and variant."""
    return _key(architecture.name)
