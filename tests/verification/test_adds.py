"""Additions with a factor: both sides must agree on it, as the class computes and rounds it."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from tests.verification.records import record
from tests.verification.tiny import CONFIG, STREAM, TINY, wider

from growformer.architecture import Add, embedding
from growformer.architecture.exact import Root
from growformer.errors import ArchitectureError
from growformer.verification.conditions import local_conditions
from growformer.verification.rounding import rounded


def scaled_embedding(factor: str, rounded_to: str | None = None) -> Any:
    return TINY.extend(
        "scaled",
        arrows={"embed": embedding("vocab -> embedded:stream")},
        adds=(Add(source="embedded", target="stream", factor=factor, rounded=rounded_to),),
    )


NEW = {**STREAM, "embedded": {"stream": "silent"}}


def said(architecture: Any, scale: Root, dtype: str = "float32", target: Any = None) -> list[str]:
    data = record(
        architecture, CONFIG, target or wider(CONFIG, 9), new=NEW, scales={"embedded": {(): scale}},
        epsilons={"eps": "2/3"}, dtype=dtype,
    )  # fmt: skip
    return [str(v) for v in local_conditions(data)]


def test_a_factor_that_depends_on_a_size_is_made_good_exactly() -> None:
    architecture = scaled_embedding("sqrt(hidden)")
    assert said(architecture, Root(Fraction(6, 9))) == []
    assert said(architecture, Root(Fraction(1))) == [
        "embedded + stream: expected the scale sqrt(3/2) of stream, as the factor sqrt(6) becomes 3, found 1"
    ]
    assert said(architecture, Root(Fraction(6, 9)) * Fraction(2**30 + 1, 2**30)) != []


def test_a_factor_that_does_not_depend_on_a_size_changes_nothing() -> None:
    assert said(scaled_embedding("2"), Root(Fraction(1))) == []
    assert said(scaled_embedding("2"), Root(Fraction(4))) == [
        "embedded + stream: expected the scale 2 on both sides, found 1"
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_a_rounded_factor_is_that_of_the_dtype(dtype: str) -> None:
    architecture = scaled_embedding("sqrt(hidden)", "embed.weight")
    before, after = (float(torch.tensor(n**0.5).to(getattr(torch, dtype))) for n in (6, 9))
    exact = Root.of(Fraction(before) / Fraction(after))
    assert said(architecture, exact, dtype) == []
    assert said(architecture, Root(Fraction(6, 9)), dtype) != []
    others = {"float32", "bfloat16", "float16"} - {dtype, "float32" if dtype == "float64" else ""}
    assert all(said(architecture, exact, other) for other in others)


def test_a_factor_may_not_vanish_or_appear() -> None:
    architecture = scaled_embedding("weight")
    config = {**wider(CONFIG, 9), "weight": 0}
    data = record(architecture, {**CONFIG, "weight": 2}, config, new=NEW, epsilons={"eps": "2/3"})
    assert "embedded + stream: expected the factor 2, found 0" in [str(v) for v in local_conditions(data)]


def test_both_sides_of_an_addition_carry_the_same() -> None:
    architecture = scaled_embedding("2")
    new = {**NEW, "embedded": {"stream": "live"}}
    data = record(architecture, CONFIG, wider(CONFIG, 9), new=new, epsilons={"eps": "2/3"})
    assert [str(v) for v in local_conditions(data)] == [
        "embedded + stream along stream: expected 'live' on both sides, found 'silent'"
    ]


def test_a_residual_with_a_factor_takes_no_new_post_norm_layer() -> None:
    """LN(f LN(x)) is not LN(x) up to epsilon; with the factor 1 the chain of norms can hand over its gain."""
    from growformer.architecture import layer_norm, linear

    def post_norm(factor: str) -> Any:
        return replace(
            TINY,
            arrows={
                "embed": embedding("vocab -> summed:stream"),
                "norm": layer_norm("summed -> stream", eps=1e-5),
                "{layer}.up": linear("stream -> mlp"),
                "{layer}.down": linear("mlp -> summed"),
                "{layer}.norm": layer_norm("summed -> stream", eps=1e-5),
                "head": linear("stream -> vocab"),
            },
            attention=(),
            adds=(Add(source="stream", target="summed", factor=factor),),
        )

    for factor, expected in (("1", []), ("2", ["2.norm"])):
        data = record(post_norm(factor), CONFIG, {**CONFIG, "layers": 3})
        assert [v.where for v in local_conditions(data)] == expected


# Rounding


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_rounding_is_that_of_torch(dtype: str) -> None:
    values = [Fraction(n, d) for n in (1, 2, 3, 5, 255, 257, 1023, 4097, 65535) for d in (1, 3, 7, 1024, 10**7)]
    for square in values:
        expected = torch.tensor(math.sqrt(square)).to(getattr(torch, dtype))
        assert rounded(Root(square), dtype) == Fraction(expected.double().item())


def test_ties_go_to_the_even_number() -> None:
    assert rounded(Root.of(257), "bfloat16") == 256
    assert rounded(Root.of(259), "bfloat16") == 260
    assert rounded(Root.of(0), "bfloat16") == 0


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="cannot round a factor to 'float8_e4m3fn'"):
        rounded(Root.of(1), "float8_e4m3fn")


def test_an_addition_may_hold_in_some_layers_only() -> None:
    """A first layer without a norm reads the stream as it is."""
    family = replace(
        TINY,
        arrows={**TINY.arrows, "{layer}.norm": replace(TINY.arrows["{layer}.norm"], when="layer >= first")},
        adds=(Add(source="stream", target="normed", when="layer < first"),),
    )
    config = {**CONFIG, "first": 1}
    data = record(family, config, {**config, "layers": 3})
    assert [str(v) for v in local_conditions(data)] == []
    moved = record(family, config, {**config, "layers": 3}, positions={"layer": [-1, 0, 1]})
    assert "stream + normed[layer 1]: expected layer < first to be True, as it was, found False" in [
        str(v) for v in local_conditions(moved)
    ]
    half_scale = Root.parse("1/2")
    for layer, expected in ((0, True), (1, False)):
        data = record(family, config, config, scales={"normed": {(layer,): half_scale}})
        adds = [v for v in local_conditions(data) if v.kind == "add"]
        assert bool(adds) is expected
    nowhere = record(family, {**config, "first": 0}, {**config, "first": 0, "layers": 3})
    assert [str(v) for v in local_conditions(nowhere)] == []
