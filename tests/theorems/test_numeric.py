"""Theorems 3.1 to 3.6 in float64, every parameter random; and what happens when a constraint is violated."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.theorems.support import (
    CONFIGS,
    THEOREMS,
    difference,
    execute,
    grow,
    plan_for,
    random_model,
    rescaled_blocks,
    spoil_scale,
    spoil_zero,
    zero_blocks,
)

from growformer.planning.transformations import HiddenDimensionExpansion, LayerAddition, Transformation
from growformer.reference import ReferenceConfig, ReferenceTransformer

EXACT = 1e-12
DIFFERENT = 1e-6

#: What each theorem constrains: template -> how many blocks must be zero, and how many rescaled, in CONFIG.
CONSTRAINED = {
    "3.1": {"zero": {"layers.{layer}.mlp.down.weight": 2}, "rescaled": {}},
    "3.2": {"zero": {"layers.{layer}.heads.{head}.output.weight": 3}, "rescaled": {}},
    "3.3": {"zero": {"layers.{layer}.heads.{head}.output.weight": 5}, "rescaled": {}},
    "3.4": {
        "zero": {"layers.{layer}.heads.{head}.key.weight": 5},
        "rescaled": {"layers.{layer}.heads.{head}.key.weight": 5},
    },
    "3.5": {
        "zero": {
            "embedding.weight": 1,
            "positions.weight": 1,
            "layers.{layer}.heads.{head}.output.weight": 5,
            "layers.{layer}.mlp.down.weight": 2,
            "layers.{layer}.mlp.down.bias": 2,
        },
        "rescaled": {"layers.{layer}.mha_norm.weight": 2, "layers.{layer}.mlp_norm.weight": 2},
    },
    "3.6": {
        "zero": {
            "layers.{layer}.heads.{head}.output.weight": 7,
            "layers.{layer}.mlp.down.weight": 3,
            "layers.{layer}.mlp.down.bias": 3,
        },
        "rescaled": {},
    },
}


@pytest.mark.parametrize("variant", CONFIGS)
@pytest.mark.parametrize("theorem", THEOREMS)
def test_preserves(theorem: str, variant: str) -> None:
    source = random_model(CONFIGS[variant])
    grown = grow(source, *THEOREMS[theorem])
    assert grown.config != source.config
    assert difference(source, grown) <= EXACT


@pytest.mark.parametrize("theorem", CONSTRAINED)
def test_constrains_what_the_paper_constrains_and_no_more(theorem: str) -> None:
    plan = plan_for(random_model(CONFIGS["paper"]), *THEOREMS[theorem])
    for name, found in (("zero", zero_blocks(plan)), ("rescaled", rescaled_blocks(plan))):
        counts: dict[str, int] = {}
        for tensor, _ in found:
            counts[tensor.template] = counts.get(tensor.template, 0) + 1
        assert counts == CONSTRAINED[theorem][name], name


@pytest.mark.parametrize("variant", ["paper", "gelu", "norm before and after"])
@pytest.mark.parametrize("theorem", THEOREMS)
def test_random_values_in_any_zero_block_change_the_function(theorem: str, variant: str) -> None:
    source = random_model(CONFIGS[variant])
    plan = plan_for(source, *THEOREMS[theorem])
    grown, blocks = execute(plan, source), zero_blocks(plan)
    assert blocks
    for tensor, block in blocks:
        spoiled = spoil_zero(grown, tensor, block)
        assert difference(source, spoiled) > DIFFERENT, (tensor.name, block.region)


@pytest.mark.parametrize("variant", ["paper", "norm before and after", "norm after", "norm after, final norm"])
@pytest.mark.parametrize("theorem", ["3.4", "3.4 in layer 1, head 1", "3.5", "all"])
def test_leaving_out_any_rescale_changes_the_function(theorem: str, variant: str) -> None:
    source = random_model(CONFIGS[variant])
    plan = plan_for(source, *THEOREMS[theorem])
    grown, blocks = execute(plan, source), rescaled_blocks(plan)
    assert blocks
    for tensor, block in blocks:
        spoiled = spoil_scale(grown, tensor, block, source)
        assert difference(source, spoiled) > DIFFERENT, tensor.name


def test_leaving_out_the_factor_on_epsilon_changes_the_function() -> None:
    source = random_model(CONFIGS["paper"])
    grown = grow(source, HiddenDimensionExpansion(hidden_size=8))
    assert grown.config.norm_eps == 0.01 * 5 / 8
    spoiled = ReferenceTransformer(replace(grown.config, norm_eps=0.01)).double()
    spoiled.load_state_dict(grown.state_dict())
    assert difference(source, spoiled) > DIFFERENT


@pytest.mark.parametrize("variant", ["paper", "norm before and after", "norm after"])
@pytest.mark.parametrize("new_layers", ["copy", "random"])
@pytest.mark.parametrize("positions", [(0,), (1,), (2,), (0, 1), (0, 3), (1, 2, 4)])
def test_new_layers_at_every_position(positions: tuple[int, ...], new_layers: str, variant: str) -> None:
    source = random_model(CONFIGS[variant])
    added = LayerAddition(positions=positions, new_layers=new_layers)
    plan = plan_for(source, added)
    assert [at for at in range(2 + len(positions)) if plan.is_new({"layer": at})] == list(positions)
    grown = execute(plan, source)
    assert difference(source, grown) <= EXACT
    # The last tensor before the stream is the zero one: the gain where a norm follows the branch.
    tensors = {tensor.template.rsplit("}.", 1)[1] for tensor, _ in zero_blocks(plan)}
    branch = {"output.weight", "mlp.down.weight", "mlp.down.bias"}
    assert tensors == (branch if variant == "paper" else {"mha_post_norm.weight", "mlp_post_norm.weight"})


@pytest.mark.parametrize("hidden_size", [6, 7, 10, 20])
def test_hidden_sizes_need_no_common_factor(hidden_size: int) -> None:
    source = random_model(CONFIGS["paper"])
    assert difference(source, grow(source, HiddenDimensionExpansion(hidden_size=hidden_size))) <= EXACT


def test_one_layer_and_one_head_of_size_one() -> None:
    config = ReferenceConfig.uniform(
        hidden_size=1,
        num_hidden_layers=1,
        num_heads=1,
        mlp=1,
        key=1,
        value=1,
        input_size=2,
        output_size=1,
        max_positions=3,
        norm_eps=0.01,
    )
    source = random_model(config)
    transformations: tuple[Transformation, ...] = THEOREMS["all"]
    assert difference(source, grow(source, *transformations)) <= EXACT


@pytest.mark.parametrize("init", ["normal", "copy", "orthogonal", "noise", "zero"])
def test_any_initialisation_preserves(init: str) -> None:
    source = random_model(CONFIGS["paper"])
    assert difference(source, grow(source, *THEOREMS["all"], init=init)) <= EXACT
