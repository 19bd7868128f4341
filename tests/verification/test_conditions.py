"""A record whose spaces, axis maps or configs contradict preservation is refused, and so is one of other blocks."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
from tests.verification.support import (
    UNTIED,
    Grown,
    grown,
    spaces_of,
)

from growformer.errors import PlanError
from growformer.verification.conditions import local_conditions
from growformer.verification.plan_check import check_plan
from growformer.verification.recorded import Recorded

KINDS = ("live", "silent", "mean", "copy", "split")


@UNTIED
def test_no_other_word_for_a_grown_space_is_accepted(family: str) -> None:
    """Most words contradict others; silent queries of new heads would do, but not with these blocks."""
    made = grown(family, "all")
    tensors = list(made.plan.tensors())
    rec = Recorded.read(made.data)
    used = {s for a in rec.arrows.values() for s in spaces_of(a)}
    used |= {s for c in rec.architecture.attention for s in c.spaces}
    tried = 0
    for space, state in made.data["spaces"].items():
        for axis, kind in state["new"].items():
            for other in set(KINDS) - {kind}:
                if space in used:
                    data = made.data
                    data["spaces"][space]["new"][axis] = other
                    found = local_conditions(data) or check_plan(data, tensors)
                    assert found, f"{space} along {axis}: {kind} -> {other}"
                    tried += 1
    assert tried


@UNTIED
def test_another_scale_does_not_fit_the_blocks(family: str) -> None:
    made = grown(family, "all")
    rec = Recorded.read(made.data)
    tensors = list(made.plan.tensors())
    carries = {s for a in rec.arrows.values() for s in spaces_of(a)}
    for space in carries:
        data = made.data
        index = next(rec.sources(rec.architecture.spaces[space].index))
        others = [s for s in data["spaces"][space]["scales"] if s["index"] != list(index.values())]
        now = rec.scale(space, index) * Fraction(3, 2)
        data["spaces"][space]["scales"] = [*others, {"index": list(index.values()), "scale": str(now)}]
        assert check_plan(data, tensors), space


@UNTIED
def test_another_place_for_coordinates_does_not_fit_the_blocks(family: str) -> None:
    made = grown(family, "all")
    tensors = list(made.plan.tensors())
    for axis, maps in made.data["axis_maps"].items():
        for at, one in enumerate(maps):
            whole = [
                p for first, n in one["runs"] for p in ([-1] * n if first == -1 else list(range(first, first + n)))
            ]
            kept = [i for i, origin in enumerate(whole) if origin >= 0]
            if len(kept) < 2 or _is_new(made, axis, one["index"]):
                continue
            for changed in (_swapped(whole, kept), [*whole, -1], whole[:-1], [whole[kept[1]], *whole[1:]]):
                data = made.data
                data["axis_maps"][axis][at]["runs"] = [[origin, 1] for origin in changed]
                assert check_plan(data, tensors), f"{axis}: {whole} -> {changed}"


def _swapped(whole: list[int], kept: list[int]) -> list[int]:
    changed = list(whole)
    changed[kept[0]], changed[kept[1]] = changed[kept[1]], changed[kept[0]]
    return changed


def _is_new(made: Grown, axis: str, index: list[int]) -> bool:
    names = made.plan.architecture.size_index(axis)
    return made.plan.is_new(dict(zip(names, index, strict=True)))


def _first(data: dict[str, Any], **changes: Any) -> list[str]:
    """Return what is said about a record whose target config is changed."""
    data = copy.deepcopy(data)
    data["target_config"].update(changes)
    return [str(v) for v in local_conditions(data)]


def test_the_target_config_must_be_the_grown_one() -> None:
    made = grown("qwen3", "all")
    config = made.plan.target_config
    assert _first(made.data) == []
    wrong = _first(made.data, rms_norm_eps=0.01)
    assert "model" not in wrong[0]
    assert wrong[0] == (
        "layers.0.input_layernorm: expected rms_norm_eps = 0.005, as the mean square is 1/2 of the source's, "
        "found 0.01 (largest deviation 0.005)"
    )
    rope = config["rope_parameters"]
    wrong = _first(made.data, rope_parameters={**rope, "rope_theta": 1e4})
    assert wrong == [
        "rope_parameters.rope_theta: expected 1000000.0 = theta^(3/2), so that every frequency stays, found 10000.0"
    ]
    assert "rope_parameters.rope_type" in _first(made.data, rope_parameters={**rope, "rope_type": "dynamic"})[0]
    lists = _first(made.data, layer_types=config["layer_types"][::-1])
    assert lists[0] == f"layer_types[0]: expected 'one' of source layer 0, found {config['layer_types'][-1]!r}"
    assert "layer_types: expected 4 entries, one per layer, found 3 entries" in _first(
        made.data, layer_types=["one"] * 3
    )
    assert _first(made.data, hidden_act="relu") == ["hidden_act: expected None, found 'relu'"]
    assert _first(made.data, intermediate_size=24) == [
        "mlp: expected 24 target coordinates, as the config says, found 23"
    ]
    assert _first(made.data, transformers_version="6", attention_dropout=0.1, max_position_embeddings=99) == []


def test_a_scale_of_scores_by_depth_follows_the_layer() -> None:
    made = grown("gpt2", "layers")
    data = made.data
    for config in (data["source"]["config"], data["target_config"]):
        config["scale_attn_by_inverse_layer_idx"] = True
    assert [str(v) for v in local_conditions(data)] == [
        "attention q . k scores[layer 2]: expected scores times 1, found times 2/3"
    ]


def test_both_sides_inert_is_reported() -> None:
    made = grown("llama", "all")
    for space, axis in (("normed", "stream"), ("attended", "value")):
        data = made.data
        was = data["spaces"][space]["new"][axis]
        data["spaces"][space]["new"][axis] = "live" if was == "silent" else "silent"
        if space == "attended":
            data["spaces"]["v"]["new"][axis] = "silent"
            data["spaces"]["attended"]["new"][axis] = "live"
        assert {v.kind for v in local_conditions(data)} == {"dead"}
    data = made.data
    data["spaces"]["q"]["new"]["freq"] = "silent"
    assert [(v.kind, v.where) for v in local_conditions(data)] == [("dead", "attention q . k along freq")]


def test_a_tie_needs_the_same_factor_on_both_uses() -> None:
    made = grown("llama tied", "hidden")
    data = made.data
    data["spaces"]["final"]["scales"] = [{"index": [], "scale": "1/2"}]
    assert [str(v) for v in local_conditions(data)] == [
        "embed_tokens.weight: expected times 2 for what lm_head.weight reads, found times 1 for what it writes itself"
    ]


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(PlanError, match="not a record of a growth: it has no 'architecture'"):
        local_conditions({})
