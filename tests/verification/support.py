"""Tiny models of one family of each kind, and of the reference transformer, and what became of them.

Tensors are random, of the shapes that the declaration predicts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from growformer.architecture import Architecture
from growformer.architecture.declaration import spaces_in
from growformer.architecture.exact import compute, names_in
from growformer.architecture.language import leaves
from growformer.architecture.registry import architectures
from growformer.architecture.source import describe, specialised, stored_name
from growformer.errors import RequestError
from growformer.execute.state_dict import grow_state_dict
from growformer.planning.plan import Plan
from growformer.planning.planner import make_plan
from growformer.reference import ReferenceConfig
from growformer.reference.architecture import reference_architecture
from growformer.verification.constraints import ConstraintsReport, compare_checkpoints
from growformer.verification.recorded import Recorded
from growformer.verification.regions import spread
from growformer.verification.requirements import Requirement, requirements

SIZES = {"hidden": 24, "mlp": 20, "heads": 4, "kv_heads": 2, "key": 8, "value": 8, "layers": 2}
#: Fields whose values cannot be any.
SPECIAL: dict[str, Any] = {
    "first_k_dense_replace": 1, "mlp_only_layers": [0], "qk_rope_head_dim": 4, "partial_rotary_factor": 0.4,
    "rotary_dim": 4, "scale_decoder_outputs": True,
    "num_nextn_predict_layers": 1,
}  # fmt: skip
GROWTHS = ("mlp", "heads", "kv_heads", "key", "value", "hidden", "layers", "all")


@dataclass(frozen=True)
class Grown:
    """A tiny model and what became of it."""

    plan: Plan
    source: dict[str, torch.Tensor]
    target: dict[str, torch.Tensor]

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.plan.to_json())

    def compare(
        self, target: dict[str, torch.Tensor] | None = None, data: dict[str, Any] | None = None, **options: Any
    ) -> ConstraintsReport:
        grown = self.target if target is None else target
        return compare_checkpoints(
            self.data if data is None else data, self.source.__getitem__, grown.__getitem__, **options
        )


# Tiny models.


def config_of(architecture: Architecture, tied: bool) -> dict[str, Any]:
    config: dict[str, Any] = {"model_type": architecture.name, "architectures": ["SomethingForCausalLM"]}
    named = [n for expression in architecture.sizes.values() for n in names_in(expression)]
    sizes = iter(range(3, 99))
    config.update({n: next(sizes) for n in named if n not in (*architecture.inferred, *architecture.defaults)})
    for axis in architecture.fixed:
        config.update({n: 7 for n in names_in(architecture.sizes[axis]) if n not in architecture.inferred})
    for arrow in architecture.arrows.values():
        flags = [flag for flag in (arrow.bias, arrow.when) if isinstance(flag, str) and flag.isidentifier()]
        config.update({flag: next(sizes) if flag in named else True for flag in flags})
        if isinstance(arrow.eps, str):
            config[arrow.eps] = 0.01
    config.update({field: SIZES[role] for role, field in architecture.roles.items()})
    config.update({name: ["one", "other"] for name in architecture.layer_lists})
    for rotary in architecture.rotary:
        plain = {"rope_type": "default", "rope_theta": 1e4}
        config[rotary.parameters] = dict.fromkeys(rotary.legacy, plain) or plain
    config.update({n: value for n, value in SPECIAL.items() if n in {*named, *architecture.defaults}})
    if architecture.tie_field:
        config[architecture.tie_field] = tied
    named_sizes = {name for name in architecture.follows if name in architecture.defaults}
    config.update({name: compute(architecture.follows[name], config) for name in named_sizes})
    return config


def request_of(architecture: Architecture, growth: str) -> dict[str, Any]:
    roles = architecture.roles
    bigger = {"mlp": 23, "hidden": 48, "layers": 4}
    if "kv_heads" in roles:
        bigger |= {"heads": 8, "kv_heads": 3, "key": 12, "value": 12}
    else:
        bigger |= {"heads": 6, "key": 12, "value": 12}
    coupled = "key" not in roles and {"heads": {"hidden": 48, "heads": 8}, "key": {"hidden": 48, "heads": 4}}
    if growth == "all":
        wanted = {**bigger, "heads": 12 if "kv_heads" in roles else 8}
    elif coupled and growth in coupled:
        wanted = dict(coupled[growth])
    elif growth == "kv_heads":
        wanted = {"kv_heads": 3, "heads": 6}
    else:
        wanted = {growth: bigger[growth]}
    if growth != "all" and growth not in roles and not (coupled and growth in coupled):
        pytest.skip(f"{architecture.name} has no {growth} of its own")
    return {roles[role]: size for role, size in wanted.items() if role in roles}


def _reference(growth: str) -> tuple[Architecture, dict[str, Any], dict[str, Any]]:
    config = ReferenceConfig(
        hidden_size=12, mlp=(5, 7), key=((3, 4), (2, 5, 3)), value=((2, 3), (4, 5, 6)), input_size=11, output_size=13,
        max_positions=9, norm_eps=1e-2, post_branch_norm=True, final_norm=True,
    ).to_dict()  # fmt: skip
    requests: dict[str, dict[str, Any]] = {
        "mlp": {"mlp": [6, 8]},
        "heads": {"num_heads": [3, 3], "key": [[3, 4, 5], [2, 5, 3]], "value": [[2, 3, 6], [4, 5, 6]]},
        "key": {"key": [[3, 6], [2, 5, 4]]},
        "value": {"value": [[3, 4], [4, 6, 6]]},
        "hidden": {"hidden_size": 17},
        "layers": {"num_hidden_layers": 4},
    }
    if growth == "kv_heads":
        pytest.skip("the reference has no groups of heads")
    if growth == "all":
        heads = {"num_heads": [3, 3], "key": [[3, 6, 5], [2, 5, 4]], "value": [[3, 4, 6], [4, 6, 6]]}
        requests["all"] = {**requests["mlp"], **heads, **requests["hidden"]}
    return reference_architecture(config), config, requests[growth]


@lru_cache(maxsize=64)
def grown(family: str, growth: str, dtype: torch.dtype = torch.float32, new_layers: str = "copy") -> Grown:
    name, _, variant = family.partition(" ")
    if name == "reference":
        architecture, config, request = _reference(growth)
    else:
        architecture = architectures()[name]
        config, request = config_of(architecture, variant == "tied"), request_of(architecture, growth)
    sizes = architecture.resolve_config({**config, **dict.fromkeys(architecture.inferred, 3)})
    prefix = f"{architecture.prefix}." if architecture.prefix else ""
    generator = torch.Generator().manual_seed(0)
    source: dict[str, torch.Tensor] = {}
    for spec in architecture.tensors.values():
        if not architecture.exists(spec, sizes) or (variant == "tied" and spec.template in architecture.ties):
            continue
        for index in architecture.instances_of(spec, sizes):
            shape = [leaves(d.term, lambda axis, i=index: architecture.size(axis, sizes, i))[0] for d in spec.dims]
            values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            source[stored_name(architecture, prefix, spec.name(index))] = values
    shapes = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in source.items()}
    architecture = specialised(architecture, shapes)
    info = describe(architecture, config, shapes)
    try:
        plan = make_plan(architecture, info, request, init="noise", new_layers=new_layers)
    except RequestError as error:
        pytest.skip(f"refused: {error}")
    return Grown(plan, source, grow_state_dict(plan, source))


#: One of each kind; tests/families has them all.
FAMILIES = (
    "llama", "qwen3", "gpt2", "bert", "gemma2", "gemma3", "olmo", "olmo2", "mixtral", "gpt_oss", "qwen3_moe",
    "deepseek_v3", "bloom", "gpt_neox", "t5", "vit",
)  # fmt: skip
TIED = ("llama", "gpt2", "bert", "gemma2", "olmo")


def families() -> list[str]:
    return [*FAMILIES, *(f"{name} tied" for name in TIED), "reference"]


MODELS = pytest.mark.parametrize("family", families())
UNTIED = pytest.mark.parametrize("family", [name for name in families() if not name.endswith(" tied")])


# What must hold.


def needed(made: Grown) -> Iterator[tuple[str, list[Requirement]]]:
    rec = Recorded.read(made.data)
    for spec, index in rec.specs():
        found = requirements(rec, spec.template, index)
        yield found.stored, [r for use in found.uses for r in use]


def free_regions(made: Grown) -> Iterator[tuple[str, Any]]:
    rec = Recorded.read(made.data)
    for spec, index in rec.specs():
        found = requirements(rec, spec.template, index)
        yield from ((found.stored, region) for region, _ in found.free_regions())


def entry(region: Any, seed: int = 0) -> tuple[int, ...]:
    random = np.random.default_rng(seed)
    return tuple(int(random.choice(spread(along))) for along in region)


def spaces_of(arrow: Any) -> set[str]:
    return {*spaces_in(arrow.source), *spaces_in(arrow.target)}
