"""A reference model with every parameter random, and its growth through a plan and the state-dict executor."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from growformer.architecture.source import SourceInfo, describe
from growformer.execute.state_dict import grow_state_dict
from growformer.planning.blocks import Affine, Block, Constant, Index1D, TensorPlan
from growformer.planning.plan import Plan
from growformer.planning.planner import make_plan
from growformer.planning.transformations import (
    AttentionExpansion,
    HeadAddition,
    HeadsExpansion,
    HiddenDimensionExpansion,
    LayerAddition,
    MLPExpansion,
    Transformation,
    merge,
)
from growformer.reference import ReferenceConfig, ReferenceTransformer, reference_architecture

State = dict[str, torch.Tensor]

#: Every size its own, per layer and head; an epsilon that is large enough to be seen.
CONFIG = ReferenceConfig(
    hidden_size=5,
    mlp=(7, 11),
    key=((3, 2), (4, 1, 3)),
    value=((2, 5), (3, 1, 4)),
    input_size=13,
    output_size=6,
    max_positions=9,
    norm_eps=0.01,
    initializer_range=0.5,
)

#: The paper's model and the variants its notes name: GELU, and norms after the branches.
CONFIGS: dict[str, ReferenceConfig] = {
    "paper": CONFIG,
    "gelu": replace(CONFIG, activation="gelu"),
    "final norm": replace(CONFIG, final_norm=True),
    "norm before and after": replace(CONFIG, post_branch_norm=True),
    "norm after": replace(CONFIG, pre_branch_norm=False, post_branch_norm=True),
    "norm after, final norm": replace(CONFIG, pre_branch_norm=False, post_branch_norm=True, final_norm=True),
    "causal": replace(CONFIG, causal=True),
    "no epsilon": replace(CONFIG, norm_eps=0.0),
}

#: Each theorem on everything that it can be applied to, and on subsets.
THEOREMS: dict[str, tuple[Transformation, ...]] = {
    "3.1": (MLPExpansion(intermediate_size=13),),
    "3.1 in layer 1": (MLPExpansion(intermediate_size=17, layers=(1,)),),
    "3.2": (HeadAddition(num_attention_heads=4),),
    "3.2 in layer 0, wider heads": (HeadAddition(num_attention_heads=4, layers=(0,), key_dim=5, value_dim=7),),
    "3.2 in layer 1, narrower heads": (HeadAddition(num_attention_heads=5, layers=(1,), key_dim=1, value_dim=1),),
    "3.3": (HeadsExpansion(value_dim=7),),
    "3.3 in layer 1, heads 0 and 2": (HeadsExpansion(value_dim=6, layers=(1,), heads=(0, 2)),),
    "3.4": (AttentionExpansion(key_dim=7),),
    "3.4 in layer 1, head 1": (AttentionExpansion(key_dim=5, layers=(1,), heads=(1,)),),
    "3.5": (HiddenDimensionExpansion(hidden_size=8),),
    "3.6": (LayerAddition(num_hidden_layers=5),),
    "3.6, random": (LayerAddition(num_hidden_layers=4, positions="end", new_layers="random"),),
    "all": (
        LayerAddition(num_hidden_layers=4),
        HiddenDimensionExpansion(hidden_size=9),
        AttentionExpansion(key_dim=5),
        HeadsExpansion(value_dim=6),
        HeadAddition(num_attention_heads=4),
        MLPExpansion(intermediate_size=13),
    ),
}


def random_model(config: ReferenceConfig, seed: int = 0) -> ReferenceTransformer:
    """A float64 model with every parameter random, gains and biases too."""
    generator = torch.Generator().manual_seed(seed)
    model = ReferenceTransformer(config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.5 * noise + (1.0 if "norm" in name else 0.0))
    return model


def source_of(model: ReferenceTransformer) -> SourceInfo:
    """The model, described."""
    config = model.config.to_dict()
    shapes = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in model.state_dict().items()}
    return describe(reference_architecture(config), config, shapes)


def plan_for(model: ReferenceTransformer, *transformations: Transformation, **options: Any) -> Plan:
    """A plan for transformations; free blocks random, gains and biases too, unless asked otherwise."""
    source = source_of(model)
    architecture = reference_architecture(source.config)
    request, placement = merge(transformations, architecture, source.config)
    return make_plan(architecture, source, request, **{"init": "noise", **placement, **options})


def execute(plan: Plan, model: ReferenceTransformer) -> ReferenceTransformer:
    """The grown model."""
    grown = ReferenceTransformer(ReferenceConfig.from_dict(plan.target_config)).double()
    grown.load_state_dict(grow_state_dict(plan, model.state_dict()))
    return grown


def grow(model: ReferenceTransformer, *transformations: Transformation, **options: Any) -> ReferenceTransformer:
    """The model after one combined plan."""
    return execute(plan_for(model, *transformations, **options), model)


def inputs_for(config: ReferenceConfig, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, and a dense input."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, config.max_positions)
    tokens = torch.randint(config.input_size, shape, generator=generator)
    return tokens, torch.randn((*shape, config.input_size), generator=generator, dtype=torch.float64)


def difference(source: ReferenceTransformer, grown: ReferenceTransformer) -> float:
    """The largest difference of outputs relative to the largest output, over tokens and dense inputs."""
    worst = 0.0
    with torch.no_grad():
        for x in inputs_for(source.config):
            expected, found = source(x), grown(x)
            assert expected.shape == found.shape
            assert bool(expected.isfinite().all())
            worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    return worst


def select(tensor: torch.Tensor, region: tuple[Index1D, ...]) -> tuple[torch.Tensor, ...]:
    """Index tensors that address a region: ``tensor[select(tensor, region)]``."""
    along = [
        torch.arange(index.start, index.stop) if isinstance(index, slice) else torch.from_numpy(index)
        for index in region
    ]
    return torch.meshgrid(*along, indexing="ij")


def blocks_where(plan: Plan, wanted: Callable[[TensorPlan, Block], bool]) -> list[tuple[TensorPlan, Block]]:
    """All non-empty blocks of a plan that satisfy a predicate."""
    return [
        (tensor, block)
        for tensor in plan.tensors()
        for block in tensor.blocks
        if wanted(tensor, block) and select(torch.empty(tensor.shape), block.region)[0].numel()
    ]


def zero_blocks(plan: Plan) -> list[tuple[TensorPlan, Block]]:
    """The blocks that must be zero."""
    return blocks_where(plan, lambda _, block: isinstance(block.value, Constant))


def rescaled_blocks(plan: Plan) -> list[tuple[TensorPlan, Block]]:
    """The blocks that must be source blocks times a factor; what is new starts from copies, but need not."""
    return blocks_where(
        plan,
        lambda tensor, block: (
            isinstance(block.value, Affine) and not block.value.is_copy and not plan.is_new(dict(tensor.index))
        ),
    )


def spoil_zero(model: ReferenceTransformer, tensor: TensorPlan, block: Block) -> ReferenceTransformer:
    """A copy of a grown model with random values where a block must be zero."""
    generator = torch.Generator().manual_seed(2)
    shape = select(torch.empty(tensor.shape), block.region)[0].shape
    return _spoil(model, tensor, block, torch.randn(shape, generator=generator, dtype=torch.float64))


def spoil_scale(
    model: ReferenceTransformer, tensor: TensorPlan, block: Block, source: ReferenceTransformer
) -> ReferenceTransformer:
    """A copy of a grown model with the source's own values where a block must be rescaled."""
    assert isinstance(block.value, Affine)
    original = source.state_dict()[block.value.tensor]
    return _spoil(model, tensor, block, original[select(original, block.value.region)])


def _spoil(model: ReferenceTransformer, tensor: TensorPlan, block: Block, values: torch.Tensor) -> ReferenceTransformer:
    spoiled = copy.deepcopy(model)
    parameter = spoiled.get_parameter(tensor.name)
    with torch.no_grad():
        parameter[select(parameter, block.region)] = values
    return spoiled
