"""The comparison of checkpoints passes what the planner made, and sees and names every disturbance."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tests.verification.support import (
    GROWTHS,
    MODELS,
    UNTIED,
    entry,
    free_regions,
    grown,
    needed,
)

from growformer.architecture.source import stored_name
from growformer.execute.state_dict import grow_state_dict
from growformer.verification.plan_check import check
from growformer.verification.regions import spread
from growformer.verification.requirements import Free, Requirement, Scaled, Value

# The planner and the check agree.


@MODELS
@pytest.mark.parametrize("growth", GROWTHS)
def test_a_plan_and_its_checkpoint_meet_the_constraints(family: str, growth: str) -> None:
    made = grown(family, growth)
    assert check(made.plan) == []
    report = made.compare(target_names=made.target)
    assert report.ok, report
    assert report.tensors == len(made.target)
    assert report.checked + report.free == sum(t.numel() for t in made.target.values())
    assert report.checked > 0
    assert report.free > 0


@MODELS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_every_dtype_has_its_own_rounding(family: str, dtype: torch.dtype) -> None:
    assert grown(family, "all", dtype).compare().ok


@UNTIED
def test_new_layers_may_be_random(family: str) -> None:
    made = grown(family, "layers", new_layers="random")
    assert check(made.plan) == []
    assert made.compare().ok


def test_a_checkpoint_in_another_dtype_is_rounded_once() -> None:
    made = grown("llama", "all", torch.float64)
    lower = grow_state_dict(made.plan, made.source, dtype=torch.bfloat16)
    report = made.compare(lower)
    assert report.ok
    assert report.roundings == ("float64 to bfloat16",)
    (copies,) = (result for _, what, result, _ in report.rows() if what.startswith("copy "))
    assert copies == "equal to the source's, rounded once, from float64 to bfloat16"
    report = made.compare()
    assert report.roundings == ()
    assert "equal to the source's, bit by bit" in {result for _, _, result, _ in report.rows()}


def test_free_values_are_compared_with_the_initialisation_where_it_is_given() -> None:
    made = grown("gpt2", "all")

    def regenerate(name: str, region: Any) -> torch.Tensor:
        whole = made.target[stored_name(made.plan.architecture, made.plan.source.prefix, name)]
        return whole[np.ix_(*map(spread, region))]

    report = made.compare(regenerate=regenerate)
    assert report.ok
    assert report.free == 0 < report.regenerated
    name, region = next(iter(free_regions(made)))
    target = {**made.target, name: made.target[name].clone()}
    target[name][entry(region)] += 1
    assert made.compare(target).ok
    report = made.compare(target, regenerate=regenerate)
    assert {v.where for v in report.violations} == {name}
    (row,) = (row for row in report.rows() if not row[3])
    assert row[1] == f"regenerated ({report.regenerated:,} values)"
    assert not any(what.startswith("unchecked") for _, what, _, _ in report.rows())


# Every disturbance is seen, and named.


def _disturb(tensor: torch.Tensor, requirement: Requirement, seed: int) -> torch.Tensor:
    """Change one entry by the least that the check must see."""
    changed = tensor.clone()
    at = entry(requirement.copies[seed % len(requirement.copies)], seed)
    value, must = changed[at].clone(), requirement.must
    up = torch.tensor(float("inf"), dtype=tensor.dtype)
    if value == 0:
        changed[at] = 1e-30
    elif len(requirement.copies) > 1:
        changed[at] = value * 1.001
    elif (isinstance(must, Scaled) and must.is_copy) or (isinstance(must, Value) and must.is_exact):
        changed[at] = torch.nextafter(value, up)
    else:
        for _ in range(4):
            value = torch.nextafter(value, up)
        changed[at] = value
    assert not torch.equal(changed, tensor)
    return changed


@MODELS
def test_one_changed_entry_is_found_in_every_kind_of_block(family: str) -> None:
    made = grown(family, "all")
    constrained = {n: [r for r in found if not isinstance(r.must, Free)] for n, found in needed(made)}
    kinds = set()
    for seed in range(max(map(len, constrained.values()))):
        disturbed = {n: found[seed] for n, found in constrained.items() if seed < len(found)}
        target = {**made.target, **{n: _disturb(made.target[n], r, seed) for n, r in disturbed.items()}}
        report = made.compare(target)
        assert {v.where for v in report.violations} == set(disturbed)
        assert all(v.deviation for v in report.violations)
        kinds |= {v.kind for v in report.violations}
    assert {"copy", "zero"} <= kinds


@UNTIED
def test_a_changed_sign_is_found(family: str) -> None:
    made = grown(family, "all")
    signs = {n: -t for n, t in made.target.items() if t.abs().sum() > 0}
    fresh = {n for n, found in needed(made) if all(isinstance(r.must, Free) for r in found)}
    found = {v.where for v in made.compare({**made.target, **signs}).violations}
    assert found == set(signs) - fresh


@UNTIED
def test_free_entries_may_be_anything_that_does_not_overflow(family: str) -> None:
    made = grown(family, "all")
    target = {name: tensor.clone() for name, tensor in made.target.items()}
    regions = list(free_regions(made))
    for name, region in regions:
        target[name][np.ix_(*map(spread, region))] = torch.randn([spread(a).size for a in region]) + 3
    assert made.compare(target).ok
    name, region = regions[0]
    for value, holds in ((1e9, True), (2e9, False), (-1e38, False), (float("inf"), False), (float("nan"), False)):
        target[name][entry(region)] = value
        report = made.compare(target)
        assert [(v.kind, v.where) for v in report.violations] == ([] if holds else [("free", name)]), value


def test_new_gains_of_zero_are_dead() -> None:
    made = grown("llama", "hidden")
    target = {**made.target, "model.norm.weight": made.target["model.norm.weight"].clone()}
    target["model.norm.weight"][-1] = 0
    assert made.compare(target).ok
    target["model.norm.weight"][24:] = 0
    report = made.compare(target)
    assert [(v.kind, v.where, v.region) for v in report.violations] == [("dead", "model.norm.weight", "[24:48]")]


def test_missing_tensors_and_others_are_named() -> None:
    made = grown("llama", "mlp")
    target = {name: tensor for name, tensor in made.target.items() if name != "model.norm.weight"}
    target["extra"] = target["model.embed_tokens.weight"]
    target["lm_head.weight"] = target["lm_head.weight"][:-1]
    report = made.compare(target, target_names=target)
    assert {(v.kind, v.where) for v in report.violations} == {
        ("missing", "model.norm.weight"),
        ("left over", "extra"),
        ("shape", "lm_head.weight"),
    }


def test_a_report_says_what_was_found() -> None:
    made = grown("llama", "mlp")
    report = made.compare()
    assert str(report) == (
        f"all constraints hold ({report.tensors} tensors, {report.checked:,} values constrained, {report.free:,} free "
        "and unchecked)"
    )
    target = {**made.target, "model.norm.weight": made.target["model.norm.weight"].clone()}
    target["model.norm.weight"][3] = 5.0
    report = made.compare(target)
    assert not report.ok
    assert "constraints do NOT hold" in str(report)
    assert "model.norm.weight[0:24]: expected source norm.weight[0:24], " in str(report)
    assert "at [3], found 5.0 (largest deviation " in str(report)
    assert json.loads(json.dumps(report.to_json()))["violations"][0]["where"] == "model.norm.weight"
