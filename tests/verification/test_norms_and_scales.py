"""Norms over all heads, norms without gains, and vectors that scale coordinate by coordinate."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from tests.verification.records import random_source, record, satisfying
from tests.verification.tiny import CONFIG, HEADS, STREAM, TINY, half, wider

from growformer.architecture import Architecture, layer_norm, layer_scale, linear, rms_norm
from growformer.architecture.exact import Root
from growformer.verification.conditions import local_conditions
from growformer.verification.recorded import Recorded
from growformer.verification.requirements import Free, Scaled, Value, requirements


def said(data: dict[str, Any]) -> list[str]:
    return [str(v) for v in local_conditions(data)]


# Norms over all heads (OLMo 2).

NORMED_HEADS = TINY.extend(
    "normed_heads",
    arrows={
        "{layer}.q": linear("normed -> q_raw:(heads key)"),
        "{layer}.q_norm": rms_norm("q_raw -> q", over="(heads key)", eps="eps"),
        "{layer}.k": linear("normed -> k_raw:(heads key)"),
        "{layer}.k_norm": rms_norm("k_raw -> k", over="(heads key)", eps="eps"),
    },
)
SPLIT = {**HEADS, "q_raw": {"heads": "split"}, "k_raw": {"heads": "split"}}
#: Two heads become three; a constant epsilon is kept by scaling what the norms read.
ROOT = {name: {(i,): Root(Fraction(3, 2)) for i in range(2)} for name in ("q_raw", "k_raw")}


def test_new_heads_behind_a_norm_over_all_of_them_are_split() -> None:
    assert said(record(NORMED_HEADS, CONFIG, {**CONFIG, "heads": 3}, new=SPLIT, scales=ROOT)) == []


@pytest.mark.parametrize("word", ["live", "silent", "mean", "copy"])
def test_new_heads_behind_a_norm_carry_no_other_word(word: str) -> None:
    new = {**SPLIT, "k_raw": {"heads": word}}
    assert said(record(NORMED_HEADS, CONFIG, {**CONFIG, "heads": 3}, new=new, scales=ROOT)) != []


def test_the_mean_square_over_all_heads_is_compensated() -> None:
    found = said(record(NORMED_HEADS, CONFIG, {**CONFIG, "heads": 3}, new=SPLIT))
    assert found[0].startswith("0.q_norm: expected eps = 0.00666")


def test_a_split_over_heads_computes_the_same() -> None:
    """The requirements, met with random free values, and the two norms evaluated."""
    data = record(NORMED_HEADS, CONFIG, {**CONFIG, "heads": 3}, new=SPLIT, scales=ROOT)
    source = random_source(data)
    target = satisfying(data, source)
    x = torch.randn(11, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def heads(tensors: dict[str, torch.Tensor], which: str) -> torch.Tensor:
        raw = x @ tensors[f"0.{which}.weight"].T
        return tensors[f"0.{which}_norm.weight"] * raw / torch.sqrt(raw.square().mean(-1, keepdim=True) + 0.01)

    for which in ("q", "k"):
        before, after = heads(source, which), heads(target, which)
        assert torch.allclose(after[:, :6], before, atol=1e-13)
        assert float(after[:, 6:].abs().max()) > 0.1


# Norms without a gain (OLMo).

GAINLESS = TINY.extend(
    "gainless",
    arrows={
        "{layer}.norm": rms_norm("stream -> normed", eps="eps", gain=False),
        "{layer}.mlp_norm": layer_norm("stream -> mlp_normed", eps="eps", gain=False, bias=False, when="is_centred"),
        "final": rms_norm("stream -> result", eps="eps", gain=False),
    },
)
PLAIN = {**CONFIG, "is_centred": False}
NARROW = GAINLESS.extend("narrow", arrows={"{layer}.up": linear("normed -> mlp")})


def gainless(scale: Root, target: Any = None, **changes: Any) -> list[str]:
    scales = {"normed": {(i,): scale for i in range(2)}, "result": {(): scale}, **changes.pop("scales", {})}
    data = record(
        NARROW, PLAIN, target or wider(PLAIN, 9), new=STREAM, scales=scales, epsilons={"eps": "2/3"}, **changes
    )
    return said(data)


def test_readers_know_the_factor_that_no_gain_makes_good() -> None:
    right = Root(Fraction(9, 6))  # the mean square is 6/9 of the source's
    assert gainless(right) == []
    found = gainless(Root(Fraction(1)))
    assert found == [
        *(f"{i}.norm: expected the scale sqrt(3/2) of normed, as it has no gain, found 1" for i in range(2)),
        "final: expected the scale sqrt(3/2) of result, as it has no gain, found 1",
    ]


def test_a_norm_without_tensors_is_part_of_the_model_where_it_exists() -> None:
    data = record(NARROW, PLAIN, wider(PLAIN, 9), new=STREAM)
    assert {"{layer}.norm", "final"} <= set(Recorded.read(data).arrows)
    assert "{layer}.mlp_norm" not in Recorded.read(data).arrows
    there = record(NARROW, {**PLAIN, "is_centred": True}, {**wider(PLAIN, 9), "is_centred": True}, new=STREAM)
    assert "{layer}.mlp_norm" in Recorded.read(there).arrows
    assert any(v.startswith("{layer}.mlp_norm along stream: expected 'mean' or 'copy' read") for v in said(there))


def test_without_a_gain_there_is_no_split() -> None:
    family = NORMED_HEADS.extend(
        "no_gain", arrows={"{layer}.q_norm": rms_norm("q_raw -> q", over="(heads key)", eps="eps", gain=False)}
    )
    found = said(record(family, CONFIG, {**CONFIG, "heads": 3}, new=SPLIT, scales=ROOT))
    assert any(v.startswith("q_raw along heads: expected RMSNorms over it, with gains") for v in found)


def test_what_a_gainless_norm_passes_on_is_silenced_in_new_layers() -> None:
    """Otherwise zero in front of a norm would do: with a gain, that is the zero."""
    for gain, what in ((False, "down"), (True, "branch_norm")):
        family = TINY.extend(
            "sandwich",
            arrows={
                "{layer}.down": linear("mlp -> branch:stream"),
                "{layer}.branch_norm": rms_norm("branch -> stream", eps="eps", gain=gain),
            },
        )
        rec = Recorded.read(record(family, CONFIG, {**CONFIG, "layers": 3}))
        zero = []
        for spec, index in rec.specs():
            if index == {"layer": 2}:
                musts = [r.must for use in requirements(rec, spec.template, index).uses for r in use]
                if any(isinstance(must, Value) for must in musts):
                    zero.append(spec.owner.removeprefix("{layer}."))
        assert zero == ["o", what]


# LayerScale.

SCALED = TINY.extend(
    "layer_scaled",
    arrows={
        "{layer}.down": linear("mlp -> branch:stream"),
        "{layer}.gamma": layer_scale("branch -> stream"),
    },
)
BRANCH = {**STREAM, "branch": {"stream": "silent"}}


def scaled(new: Any, family: Architecture = SCALED, **options: Any) -> dict[str, Any]:
    return record(family, CONFIG, wider(CONFIG, 9), new=new, epsilons={"eps": "2/3"}, **options)


def test_a_scale_passes_on_what_it_reads() -> None:
    assert said(scaled(BRANCH)) == []
    for word in ("live", "mean", "split", "copy"):
        assert said(scaled({**BRANCH, "branch": {"stream": word}})) != [], word
    data = scaled(BRANCH)
    rec = Recorded.read(data)
    (use,) = requirements(rec, "{layer}.gamma", {"layer": 0}).uses
    assert [type(r.must) for r in use] == [Scaled, Free]
    assert use[1].must == Free(0.0)


def test_a_mean_does_not_survive_a_scale() -> None:
    family = SCALED.extend(
        "centred",
        arrows={
            name: layer_norm(f"stream -> {target}", eps="eps", bias=False)
            for name, target in (("{layer}.norm", "normed"), ("{layer}.mlp_norm", "mlp_normed"), ("final", "result"))
        },
    )
    new = {**STREAM, "stream": {"stream": "mean"}, "branch": {"stream": "mean"}}
    assert any("{layer}.gamma along stream" in problem for problem in said(scaled(new, family)))


def test_a_new_layer_has_a_scale_of_zero() -> None:
    rec = Recorded.read(record(SCALED, CONFIG, {**CONFIG, "layers": 3}))
    (use,) = requirements(rec, "{layer}.gamma", {"layer": 2}).uses
    assert [r.must for r in use] == [Value(Root(Fraction(0)))]
    (use,) = requirements(rec, "{layer}.down.weight", {"layer": 2}).uses
    assert all(isinstance(r.must, Free) for r in use)


def test_activated_spaces_are_neither_silent_nor_scaled() -> None:
    from dataclasses import replace

    family = replace(SCALED, activated=("branch",))
    assert any(v.startswith("branch along stream: expected 'live' or 'copy'") for v in said(scaled(BRANCH, family)))
    data = record(family, CONFIG, CONFIG, scales={"branch": {(0,): half()}})
    assert any(v.startswith("branch[layer 0]: expected no scale") for v in said(data))
