"""The transformations compose: any of them, in any order, any number of times, in one plan or one after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.theorems.support import difference, execute, plan_for, random_model

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

KINDS = ("mlp", "head", "value", "key", "hidden", "layer")
SETTINGS = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


@st.composite
def configs(draw: st.DrawFn) -> ReferenceConfig:
    size = st.integers(1, 3)
    num_layers = draw(st.integers(1, 2))
    num_heads = [draw(st.integers(1, 2)) for _ in range(num_layers)]
    post_branch_norm = draw(st.booleans())
    return ReferenceConfig(
        hidden_size=draw(st.integers(2, 4)),
        mlp=tuple(draw(size) for _ in range(num_layers)),
        key=tuple(tuple(draw(size) for _ in range(heads)) for heads in num_heads),
        value=tuple(tuple(draw(size) for _ in range(heads)) for heads in num_heads),
        input_size=3,
        output_size=2,
        max_positions=4,
        activation=draw(st.sampled_from(["relu", "gelu"])),
        norm_eps=draw(st.sampled_from([1e-6, 0.01])),
        pre_branch_norm=not post_branch_norm or draw(st.booleans()),
        post_branch_norm=post_branch_norm,
        final_norm=draw(st.booleans()),
        causal=draw(st.booleans()),
        initializer_range=0.5,
    )


def subset(draw: st.DrawFn, count: int) -> tuple[int, ...]:
    return tuple(sorted(draw(st.sets(st.integers(0, count - 1), min_size=1))))


@st.composite
def steps(draw: st.DrawFn, config: ReferenceConfig, kind: str) -> Transformation:
    """A legal transformation of one kind, in layers and heads that it names."""
    more = draw(st.integers(1, 2))
    layers = subset(draw, config.num_hidden_layers)
    if kind == "mlp":
        return MLPExpansion(intermediate_size=max(config.mlp[at] for at in layers) + more, layers=layers)
    if kind == "head":
        width = st.one_of(st.none(), st.integers(1, 4))
        return HeadAddition(
            num_attention_heads=max(config.num_heads[at] for at in layers) + more,
            layers=layers,
            key_dim=draw(width),
            value_dim=draw(width),
        )
    if kind in ("value", "key"):
        heads = subset(draw, min(config.num_heads[at] for at in layers))
        widths = config.value if kind == "value" else config.key
        width_after = max(widths[at][head] for at in layers for head in heads) + more
        if kind == "value":
            return HeadsExpansion(value_dim=width_after, layers=layers, heads=heads)
        return AttentionExpansion(key_dim=width_after, layers=layers, heads=heads)
    if kind == "hidden":
        return HiddenDimensionExpansion(hidden_size=config.hidden_size + more)
    after = config.num_hidden_layers + more
    positions = draw(st.sets(st.integers(0, after - 1), min_size=more, max_size=more))
    return LayerAddition(positions=tuple(sorted(positions)), new_layers=draw(st.sampled_from(["copy", "random"])))


@SETTINGS
@given(data=st.data(), config=configs(), kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
def test_any_sequence_preserves(data: st.DataObject, config: ReferenceConfig, kinds: list[str]) -> None:
    source = random_model(config)
    grown = source
    for number, kind in enumerate(kinds, start=1):
        step = data.draw(steps(grown.config, kind))
        grown = execute(plan_for(grown, step, seed=number), grown)
        assert difference(source, grown) <= 1e-12 * number


@SETTINGS
@given(data=st.data(), config=configs(), kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=6, unique=True))
def test_one_plan_and_one_step_after_the_other_preserve(
    data: st.DataObject, config: ReferenceConfig, kinds: list[str]
) -> None:
    source = random_model(config)
    chosen = [data.draw(steps(config, kind)) for kind in kinds]
    assert difference(source, execute(plan_for(source, *chosen), source)) <= 1e-12
    grown, where = source, list(range(config.num_hidden_layers))
    for step in chosen:
        plan = plan_for(grown, follow(step, where))
        grown = execute(plan, grown)
        places = [at for at in range(grown.config.num_hidden_layers) if not plan.is_new({"layer": at})]
        where = [places[at] for at in where]
    assert difference(source, grown) <= 1e-12 * len(chosen)


@SETTINGS
@given(data=st.data(), config=configs(), kinds=st.permutations(KINDS))
def test_the_order_of_a_list_does_not_matter(data: st.DataObject, config: ReferenceConfig, kinds: list[str]) -> None:
    chosen = {kind: data.draw(steps(config, kind)) for kind in KINDS}
    plain = config.to_dict()
    architecture = reference_architecture(plain)
    ordered = merge([chosen[kind] for kind in KINDS], architecture, plain)
    assert merge([chosen[kind] for kind in kinds], architecture, plain) == ordered


def follow(step: Transformation, where: list[int]) -> Transformation:
    """The same step on a model whose layers have moved: source layer i is now ``where[i]``."""
    layers: Any = getattr(step, "layers", None)
    return step if layers is None else replace(step, layers=tuple(where[at] for at in layers))  # type: ignore[type-var]
