"""Rotary embeddings and linear biases: every source frequency and every source head keeps its angle or slope."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from tests.verification.records import record
from tests.verification.tiny import CONFIG, HEADS, TINY
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from growformer.architecture import Alibi, Attention, Rotary, linear
from growformer.errors import ArchitectureError
from growformer.verification.alibi_conditions import slope_exponents
from growformer.verification.conditions import local_conditions

ROTATED = TINY.extend(
    "rotated",
    sizes={"key": None, "pair": "2", "freq": "head / 2"},
    arrows={
        "{layer}.q": linear("normed -> q:(heads pair freq)"),
        "{layer}.k": linear("normed -> k:(heads pair freq)"),
    },
    attention=(Attention(query="q", key="k", value="v", output="attended", over=("pair", "freq"), scale="1"),),
    rotary=(Rotary(frequency="freq", of="head"),),
)
BASE = {**CONFIG, "head": 4}
NEW = {"q": {"freq": "live"}, "k": {"freq": "silent"}}


def said(before: Any, after: Any, family: Any = ROTATED, **options: Any) -> list[str]:
    data = record(family, before, after, **{"new": NEW, **options})
    return [str(v) for v in local_conditions(data)]


def longer(size: int = 6, **fields: Any) -> dict[str, Any]:
    return {**BASE, "head": size, **fields}


def test_the_base_grows_with_the_number_of_frequencies() -> None:
    before = {**BASE, "rope_parameters": {"rope_theta": 100.0}}
    assert said(before, longer(rope_parameters={"rope_theta": 1000.0})) == []
    assert said(before, longer(rope_parameters={"rope_theta": 100.0})) == [
        "rope_parameters.rope_theta: expected 1000.0 = theta^(3/2), so that every frequency stays, found 100.0"
    ]
    assert "rope_parameters.rope_theta" in said(before, longer())[0]
    assert said(BASE, longer())[0].startswith("rope_parameters.rope_theta: expected 1000000.0 = theta^(3/2)")
    assert said(BASE, longer(rope_theta=1e6)) == []


def test_frequencies_come_first_and_in_order() -> None:
    before, after = {**BASE, "rope_theta": 100.0}, longer(rope_theta=1000.0)
    assert said(before, after, positions={"freq": [1, 0, -1]})[0].startswith("freq: expected source frequencies first")
    assert said(before, after, positions={"freq": [0, -1, 1]})[0].startswith("freq: expected source frequencies first")


def test_heads_that_a_class_rotates_without_an_axis_of_frequencies_keep_their_order() -> None:
    family = replace(TINY, sizes={**TINY.sizes, "freq": "rotated / 2"}, rotary=(Rotary(frequency="freq"),))
    before = {**CONFIG, "rotated": 2, "rope_theta": 100.0}
    new = {"q": {"key": "live"}, "k": {"key": "silent"}}
    assert said(before, {**before, "head": 4}, family, new=new) == []
    found = said(before, {**before, "head": 4}, family, new=new, positions={"key": [-1, 0, 1, 2]})
    assert found == [
        "key: expected source frequencies first, in their order, as an angle belongs to a position, found another order"
    ]


def test_the_class_s_own_base_and_an_older_field_for_it() -> None:
    family = replace(ROTATED, rotary=(Rotary(frequency="freq", of="head", theta=100.0, legacy_theta="old_base"),))
    assert said(BASE, longer(rope_parameters={"rope_theta": 1000.0}), family) == []
    assert said(BASE, longer(old_base=1000.0), family) == []
    assert said(BASE, longer(rope_parameters={"rope_theta": 1000.0}, old_base=100.0), family) == [
        "old_base: expected 1000.0 = theta^(3/2), so that every frequency stays, found 100.0"
    ]
    assert len(said(BASE, longer(), family)) == 1


def test_new_frequencies_belong_to_the_last_section() -> None:
    family = replace(ROTATED, rotary=(Rotary(frequency="freq", of="head", sections=(1, 1)),))
    before = {**BASE, "rope_theta": 100.0}
    good = {"rope_theta": 1000.0, "mrope_section": [1, 2]}
    assert said(before, longer(rope_parameters=good), family) == []
    for wrong in ([2, 1], [1, 1], [1, 1, 1]):
        assert len(said(before, longer(rope_parameters={**good, "mrope_section": wrong}), family)) == 1
    assert len(said(before, longer(rope_theta=1000.0), family)) == 1


# Kinds of layers.

KINDS = replace(
    ROTATED, rotary=(Rotary(frequency="freq", of="head", legacy={"full": "rope_theta", "local": "local_theta"}),)
)


def kinds(full: float, local: float | None, **more: Any) -> dict[str, Any]:
    found = {"full": {"rope_theta": full, **more}}
    return {**found, "local": {"rope_theta": local}} if local is not None else found


def test_every_kind_of_layer_has_its_own_base() -> None:
    before = {**BASE, "rope_parameters": kinds(1e4, 100.0, rope_type="linear", factor=8.0)}
    after = longer(rope_parameters=kinds(1e6, 1000.0, rope_type="linear", factor=8.0))
    assert said(before, after, KINDS) == []
    wrong = longer(rope_parameters=kinds(1e6, 100.0, rope_type="linear", factor=4.0))
    assert said(before, wrong, KINDS) == [
        "rope_parameters.full.factor: expected 8.0, found 4.0",
        "rope_parameters.local.rope_theta: expected 1000.0 = theta^(3/2), so that every frequency stays, found 100.0",
    ]


def test_older_fields_may_become_newer_ones() -> None:
    before = {**BASE, "rope_theta": 1e4, "local_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 8.0}}
    after = {**longer(), "rope_parameters": kinds(1e6, 1000.0, rope_type="linear", factor=8.0)}
    assert said(before, after, KINDS) == []
    kept = longer(rope_theta=1e6, local_theta=1000.0, rope_scaling={"type": "linear", "factor": 8.0})
    assert said(before, kept, KINDS) == []
    assert said(before, {**after, "local_theta": 100.0}, KINDS) == [
        "local_theta: expected 1000.0 = theta^(3/2), so that every frequency stays, found 100.0"
    ]
    forgotten = {**after, "rope_parameters": kinds(1e6, 1000.0)}
    assert {v.split(":")[0] for v in said(before, forgotten, KINDS)} == {
        "rope_parameters.full.rope_type", "rope_parameters.full.factor"
    }  # fmt: skip


def test_defaults_of_older_fields_do_not_count_beside_newer_ones() -> None:
    family = replace(KINDS, defaults={"rope_theta": 1e4, "local_theta": 100.0})
    assert said(BASE, longer(rope_parameters=kinds(1e6, 1000.0)), family) == []
    assert len(said(BASE, longer(rope_parameters=kinds(1e6, None)), family)) == 1
    assert len(said(BASE, longer(), family)) == 2


# Lists of factors.


def lists(short: list[float], long: list[float], theta: float = 100.0) -> dict[str, Any]:
    return {"rope_type": "longrope", "rope_theta": theta, "short_factor": short, "long_factor": long}


def test_lists_of_factors_get_longer() -> None:
    before = {**BASE, "rope_parameters": lists([1.0, 2.0], [3.0, 4.0])}
    good = lists([1.0, 2.0, 2.0], [3.0, 4.0, 9.0], 1000.0)
    assert said(before, longer(rope_parameters=good)) == []
    for wrong in ([1.0, 2.0], [2.0, 1.0, 2.0], [1.0, 2.0, 0.0], [1.0, 2.0, 2.0, 2.0], [2.0, 1.0, 2.0], None):
        found = said(before, longer(rope_parameters={**good, "short_factor": wrong}))
        assert [v.split(": expected")[0] for v in found] == ["rope_parameters.short_factor"], wrong
        assert "the source's 2 numbers first, and 3 positive ones in all" in found[0]


def test_types_in_which_bases_do_not_keep_frequencies_are_refused() -> None:
    before = {**BASE, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}}
    after = longer(rope_parameters={**before["rope_parameters"], "rope_theta": 1000.0})
    assert said(before, after)[0].startswith("rope_parameters.rope_type: expected one of default, linear")
    assert said(before, dict(before)) == []


# Shares of a head.

PARTIAL = TINY.extend(
    "partial",
    sizes={"key": None, "pair": "2", "freq": "int(head * share) / 2", "rest": "head - int(head * share)"},
    arrows={
        "{layer}.q": linear("normed -> (heads [q_rot:(pair freq) q:rest])"),
        "{layer}.k": linear("normed -> (heads [k_rot:(pair freq) k:rest])"),
    },
    attention=(
        Attention(
            query=("q_rot", "q"), key=("k_rot", "k"), value="v", output="attended", over=("pair", "freq", "rest"),
            scale="1",
        ),
    ),
    rotary=(Rotary(frequency="freq", fraction="share", of="head", legacy_fraction="old_share"),),
)  # fmt: skip
PART = {**CONFIG, "head": 30, "rope_theta": 100.0, "share": 0.4}
REST = {"q": {"rest": "live"}, "k": {"rest": "silent"}}


def test_the_rotated_share_keeps_its_size_in_the_arithmetic_of_the_classes() -> None:
    after = {**PART, "head": 44}
    assert said(PART, {**after, "share": 12.5 / 44}, PARTIAL, new=REST) == []
    assert int(44 * (12 / 44)) == 12
    assert said(PART, {**after, "share": 12 / 44}, PARTIAL, new=REST) == []
    # A pair that misses, where no tensor's shape would show it.
    family = replace(PARTIAL, sizes={**PARTIAL.sizes, "freq": "rotated / 2", "rest": "head - rotated"})
    head = next(n for n in range(31, 400) if int(n * (12 / n)) != 12)
    found = said({**PART, "rotated": 12}, {**PART, "rotated": 12, "head": head, "share": 12 / head}, family, new=REST)
    assert found == [f"share: expected a share of head that rotates 12 coordinates, not 11, found {12 / head}"]


def test_every_spelling_of_the_share_says_the_same() -> None:
    after = {**PART, "head": 44, "share": 12.5 / 44}
    del after["share"]
    inside = {"rope_parameters": {"rope_theta": 100.0, "share": 12.5 / 44}}
    assert said(PART, {**after, **inside}, PARTIAL, new=REST) == []
    found = said(PART, {**after, **inside, "share": 0.4}, PARTIAL, new=REST)
    assert found == ["share: expected a share of head that rotates 12 coordinates, not 17, found 0.4"]
    found = said(PART, {**after, **inside, "old_share": 0.4}, PARTIAL, new=REST)
    assert found == ["old_share: expected a share of head that rotates 12 coordinates, not 17, found 0.4"]


def test_rotary_parameters_of_a_nested_config() -> None:
    sizes = {axis: f"text.{field}" for axis, field in ROTATED.sizes.items() if axis not in ("pair", "freq")}
    family = replace(
        ROTATED,
        sizes={**sizes, "pair": "2", "freq": "text.head / 2"},
        arrows={n: replace(a, eps="text.eps") if a.kind == "norm" else a for n, a in ROTATED.arrows.items()},
        nested=("text",),
        rotary=(Rotary(frequency="freq", parameters="text.rope_parameters", of="text.head"),),
    )
    before = {"text": {**BASE, "rope_theta": 100.0}}
    assert said(before, {"text": longer(rope_theta=1000.0)}, family) == []
    assert said(before, {"text": longer(rope_theta=100.0)}, family) == [
        "text.rope_theta: expected 1000.0 = theta^(3/2), so that every frequency stays, found 100.0"
    ]


# Linear biases.


@pytest.mark.parametrize("heads", range(1, 41))
def test_slopes_are_those_of_the_classes(heads: int) -> None:
    def slopes(kind: str, largest: int) -> torch.Tensor:
        exponents = slope_exponents(Alibi(heads="heads", slopes=kind), heads, Fraction(largest))
        return torch.tensor([2.0 ** -float(exponent) for exponent in exponents])

    mask = torch.ones(1, 2, dtype=torch.long)
    bloom = build_alibi_tensor(mask, heads, torch.float32)[:, 0, 1]
    assert torch.allclose(slopes("bloom", 8), bloom, rtol=1e-6)
    for largest in (8, 16):
        mpt = -build_mpt_alibi_tensor(heads, 2, largest)[:, 0, 0]
        assert torch.allclose(slopes("mpt", largest), mpt, rtol=1e-6)


def test_unknown_slopes_are_refused() -> None:
    with pytest.raises(ArchitectureError, match="unknown slopes 'other'; known: bloom, mpt"):
        slope_exponents(Alibi(heads="heads", slopes="other"), 4, Fraction(8))


@pytest.mark.parametrize("kind", ["bloom", "mpt"])
def test_every_source_head_keeps_its_slope(kind: str) -> None:
    family = replace(TINY, alibi=(Alibi(heads="heads", slopes=kind, largest="steepest", when="biased"),))
    config = {**CONFIG, "heads": 2, "steepest": 8, "biased": True}
    good = []
    for places in itertools.permutations(range(4), 2):
        positions = [-1] * 4
        for origin, place in enumerate(places):
            positions[place] = origin
        found = said(config, {**config, "heads": 4}, family, new=HEADS, positions={"heads": positions})
        if not found:
            good.append(places)
    # 2^-4 and 2^-8 of two heads; 2^-2, 2^-4, 2^-6, 2^-8 of four.
    assert good == [(1, 3)]
    found = said(config, {**config, "heads": 4}, family, new=HEADS)
    assert found[0] == ("heads 0: expected the slope 2^-4 of source head 0 of 2, found 2^-2, of head 0 of 4")
    assert said({**config, "biased": False}, {**config, "biased": False, "heads": 4}, family, new=HEADS) == []
    switched = said(config, {**config, "biased": False, "heads": 4}, family, new=HEADS)
    assert "biased: expected True, found False" in switched
    steeper = said(config, {**config, "steepest": 16}, family)
    assert any(v.startswith("heads 0: expected the slope 2^-4") for v in steeper)
