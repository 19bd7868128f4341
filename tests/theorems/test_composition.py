"""Plans of the reference model as values: they survive JSON, and two of them compose to one."""

from __future__ import annotations

import pytest
import torch
from tests.theorems.support import CONFIGS, THEOREMS, difference, execute, plan_for, random_model, select

from growformer.errors import PlanError
from growformer.execute.state_dict import grow_state_dict
from growformer.planning.blocks import Constant, Fill
from growformer.planning.plan import Plan
from growformer.planning.planner import compose
from growformer.planning.transformations import (
    AttentionExpansion,
    HeadAddition,
    HeadsExpansion,
    HiddenDimensionExpansion,
    LayerAddition,
    MLPExpansion,
    Transformation,
)

EVERY_WIDTH = (
    HiddenDimensionExpansion(hidden_size=9),
    AttentionExpansion(key_dim=5),
    HeadsExpansion(value_dim=6),
    MLPExpansion(intermediate_size=13),
)

PAIRS: dict[str, tuple[tuple[Transformation, ...], tuple[Transformation, ...]]] = {
    "mlp twice": ((MLPExpansion(intermediate_size=12),), (MLPExpansion(intermediate_size=17),)),
    "hidden twice": ((HiddenDimensionExpansion(hidden_size=7),), (HiddenDimensionExpansion(hidden_size=11),)),
    "key twice": ((AttentionExpansion(key_dim=5),), (AttentionExpansion(key_dim=7),)),
    "key of one head, then of all": (
        (AttentionExpansion(key_dim=5, layers=(0,), heads=(1,)),),
        (AttentionExpansion(key_dim=7),),
    ),
    "value, then heads": ((HeadsExpansion(value_dim=6),), (HeadAddition(num_attention_heads=4),)),
    "layer, then hidden": ((LayerAddition(positions=(1,)),), (HiddenDimensionExpansion(hidden_size=7),)),
    "layer at the end, then in front": ((LayerAddition(positions=(2,)),), (LayerAddition(positions=(0,)),)),
    "layer, then heads": ((LayerAddition(positions=(1,)),), (HeadAddition(num_attention_heads=4),)),
    "every width twice": (
        EVERY_WIDTH,
        (
            HiddenDimensionExpansion(hidden_size=10),
            AttentionExpansion(key_dim=7),
            HeadsExpansion(value_dim=8),
            MLPExpansion(intermediate_size=14),
        ),
    ),
}


@pytest.mark.parametrize("variant", CONFIGS)
@pytest.mark.parametrize("theorem", THEOREMS)
def test_a_plan_survives_json(theorem: str, variant: str) -> None:
    source = random_model(CONFIGS[variant])
    plan = plan_for(source, *THEOREMS[theorem])
    read = Plan.from_json(plan.to_json())
    assert read == plan
    expected, found = (grow_state_dict(p, source.state_dict()) for p in (plan, read))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("variant", ["paper", "norm before and after", "norm after"])
@pytest.mark.parametrize("pair", PAIRS)
def test_two_steps_equal_their_composition(pair: str, variant: str) -> None:
    source = random_model(CONFIGS[variant])
    first = plan_for(source, *PAIRS[pair][0], init="zero")
    middle = execute(first, source)
    second = plan_for(middle, *PAIRS[pair][1], init="zero")
    stepwise = execute(second, middle).state_dict()
    composed = compose(first, second)
    assert {n: list(t.shape) for n, t in stepwise.items()} == {n: list(s) for n, s in composed.target_shapes()}
    at_once = execute(composed, source)
    assert at_once.config.hidden_size == second.target_config["hidden_size"]
    assert at_once.config.norm_eps == pytest.approx(second.target_config["norm_eps"], rel=1e-15)
    assert difference(source, at_once) <= 1e-12
    for tensor in composed.tensors():
        # Where the gain of a norm is the zero tensor of a new layer, all before it is free, and the two choose freely.
        if variant != "paper" and composed.is_new(dict(tensor.index)):
            continue
        for block in tensor.blocks:
            if isinstance(block.value, Fill):
                continue
            at = select(stepwise[tensor.name], block.region)
            found, expected = at_once.state_dict()[tensor.name][at], stepwise[tensor.name][at]
            exact = isinstance(block.value, Constant)
            torch.testing.assert_close(found, expected, rtol=0.0 if exact else 1e-15, atol=0.0, msg=tensor.name)


def test_plans_that_do_not_meet_do_not_compose() -> None:
    source = random_model(CONFIGS["paper"])
    first = plan_for(source, MLPExpansion(intermediate_size=12))
    second = plan_for(source, MLPExpansion(intermediate_size=17))
    with pytest.raises(PlanError, match="does not start from the first one's target config"):
        compose(first, second)
