"""Theorems 3.1 to 3.6 as identities: the source's parameters and all free entries are symbols, the difference is 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sympy
from tests.theorems import symbolic

from growformer.architecture.source import from_config
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
from growformer.reference import ReferenceConfig, reference_architecture

CONFIG = ReferenceConfig(
    hidden_size=2,
    mlp=(2,),
    key=((2, 1),),
    value=((1, 2),),
    input_size=1,
    output_size=1,
    max_positions=2,
    norm_eps=0.5,
)

THEOREMS: dict[str, tuple[Transformation, ...]] = {
    "3.1": (MLPExpansion(intermediate_size=3),),
    "3.2": (HeadAddition(num_attention_heads=3),),
    "3.3": (HeadsExpansion(value_dim=3),),
    "3.3, one head": (HeadsExpansion(value_dim=3, heads=(1,)),),
    "3.4": (AttentionExpansion(key_dim=3),),
    "3.4, one head": (AttentionExpansion(key_dim=2, heads=(1,)),),
    "3.5": (HiddenDimensionExpansion(hidden_size=3),),
    "3.5, doubled": (HiddenDimensionExpansion(hidden_size=4),),
    "3.6, first": (LayerAddition(positions=(0,)),),
    "3.6, last": (LayerAddition(positions=(1,)),),
    "3.6, random": (LayerAddition(positions=(0, 2), new_layers="random"),),
    "all": (
        MLPExpansion(intermediate_size=3),
        HeadAddition(num_attention_heads=3),
        HeadsExpansion(value_dim=3),
        AttentionExpansion(key_dim=3),
        HiddenDimensionExpansion(hidden_size=3),
        LayerAddition(positions=(0,)),
    ),
}

VARIANTS = {
    "paper": CONFIG,
    "final norm": replace(CONFIG, final_norm=True),
    "norm before and after": replace(CONFIG, post_branch_norm=True),
}


def plan_for(config: ReferenceConfig, *transformations: Transformation) -> Plan:
    data = config.to_dict()
    architecture = reference_architecture(data)
    request, placement = merge(transformations, architecture, data)
    return make_plan(architecture, from_config(architecture, data), request, **placement)


def outputs(
    plan: Plan,
    grown: symbolic.Arrays,
    factor: sympy.Expr | None = None,
    epsilon: sympy.Expr = symbolic.EPSILON,
) -> tuple[symbolic.Array, symbolic.Array]:
    """Outputs of source and target; ``factor`` is the one on epsilon, by default the plan's."""
    source = ReferenceConfig.from_dict(plan.source.config)
    target = ReferenceConfig.from_dict(plan.target_config)
    inputs = symbolic.symbols("x", (source.max_positions, source.input_size))
    if factor is None:
        rho = plan.rho.get("norm_eps", 1)
        factor = sympy.Rational(rho.numerator, rho.denominator)
    return (
        symbolic.forward(symbolic.source_symbols(plan), source, epsilon, inputs),
        symbolic.forward(grown, target, epsilon * factor, inputs),
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("theorem", THEOREMS)
def test_difference_is_zero(theorem: str, variant: str) -> None:
    plan = plan_for(VARIANTS[variant], *THEOREMS[theorem])
    source, grown = outputs(plan, symbolic.interpret(plan, symbolic.source_symbols(plan)))
    assert symbolic.residual(source, grown) == []


def test_the_paper_without_epsilon() -> None:
    """The paper's own norm has no epsilon, and then the gains alone make up for the mean."""
    plan = plan_for(CONFIG, HiddenDimensionExpansion(hidden_size=3))
    grown = symbolic.interpret(plan, symbolic.source_symbols(plan))
    assert symbolic.residual(*outputs(plan, grown, epsilon=sympy.Integer(0))) == []


def test_evaluation_at_a_point_agrees_with_the_identities() -> None:
    """The negative controls evaluate at a point, where a theorem must hold as well."""
    plan = plan_for(CONFIG, *THEOREMS["all"])
    source, grown = outputs(plan, symbolic.interpret(plan, symbolic.source_symbols(plan)))
    np.testing.assert_allclose(symbolic.evaluate(grown), symbolic.evaluate(source), rtol=1e-12)


@pytest.mark.parametrize(
    ("theorem", "tensor"),
    [
        ("3.1", "layers.0.mlp.down.weight"),
        ("3.2", "layers.0.heads.2.output.weight"),
        ("3.3", "layers.0.heads.0.output.weight"),
        ("3.4", "layers.0.heads.0.key.weight"),
        ("3.5", "embedding.weight"),
        ("3.5", "positions.weight"),
        ("3.5", "layers.0.heads.0.output.weight"),
        ("3.5", "layers.0.mlp.down.weight"),
        ("3.5", "layers.0.mlp.down.bias"),
        ("3.6, first", "layers.0.heads.1.output.weight"),
        ("3.6, first", "layers.0.mlp.down.weight"),
        ("3.6, first", "layers.0.mlp.down.bias"),
    ],
)
def test_symbols_instead_of_zeros_leave_a_difference(theorem: str, tensor: str) -> None:
    plan = plan_for(CONFIG, *THEOREMS[theorem])
    grown = symbolic.interpret(plan, symbolic.source_symbols(plan))
    spoiled = symbolic.symbols("spoiled", grown[tensor].shape)
    was_zero = grown[tensor] == 0
    assert was_zero.any()
    grown[tensor] = np.where(was_zero, spoiled, grown[tensor])
    source, target = outputs(plan, grown)
    assert np.abs(symbolic.evaluate(target) - symbolic.evaluate(source)).max() > 1e-6


def test_leaving_out_a_factor_leaves_a_difference() -> None:
    for transformation, tensor, factor in (
        (AttentionExpansion(key_dim=3), "layers.0.heads.0.key.weight", sympy.sqrt(sympy.Rational(2, 3))),
        (HiddenDimensionExpansion(hidden_size=3), "layers.0.mlp_norm.weight", sympy.sqrt(sympy.Rational(3, 2))),
    ):
        plan = plan_for(CONFIG, transformation)
        grown = symbolic.interpret(plan, symbolic.source_symbols(plan))
        grown[tensor] = grown[tensor] * factor
        source, target = outputs(plan, grown)
        assert np.abs(symbolic.evaluate(target) - symbolic.evaluate(source)).max() > 1e-6
    plan = plan_for(CONFIG, HiddenDimensionExpansion(hidden_size=3))
    source, target = outputs(plan, symbolic.interpret(plan, symbolic.source_symbols(plan)), sympy.Integer(1))
    assert np.abs(symbolic.evaluate(target) - symbolic.evaluate(source)).max() > 1e-6
