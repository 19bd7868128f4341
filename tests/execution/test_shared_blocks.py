"""Instances of a tensor that are treated alike share their blocks; nothing that differs between them is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from tests.families.case import all_cases
from tests.families.growths import growths_of, make_plan
from tests.theorems.support import CONFIG, THEOREMS, plan_for, random_model

from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan

CASES = {str(case): case for case in all_cases()}
FAMILIES = (
    "llama-LlamaForCausalLM", "gpt2-GPT2LMHeadModel", "bert-BertForMaskedLM", "gemma3_text-Gemma3ForCausalLM",
    "deepseek_v3-DeepseekV3ForCausalLM", "t5-T5ForConditionalGeneration", "qwen2_moe-Qwen2MoeForCausalLM",
)  # fmt: skip


def is_same(a: Any, b: Any) -> bool:
    """Compare two values entry by entry, arrays included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(is_same, a, b))
    if is_dataclass(a):
        return all(is_same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)


def differing(plan: Plan) -> list[str]:
    """Return the tensors whose blocks are others where nothing is shared."""
    found = []
    shared = list(plan.tensors())
    for tensor, (spec, index) in zip(shared, plan.specs(), strict=True):
        plan.made.clear()
        if not is_same(tensor, tensor_plan(plan, spec, index)):
            found.append(tensor.name)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_shared_blocks_are_those_made_alone(name: str) -> None:
    for growth in growths_of(CASES[name]).accepted.values():
        assert differing(make_plan(CASES[name], growth)) == []


@pytest.mark.parametrize("theorem", THEOREMS)
def test_heads_of_other_sizes_share_nothing_that_differs(theorem: str) -> None:
    assert differing(plan_for(random_model(CONFIG), *THEOREMS[theorem])) == []


def test_what_is_left_out_of_the_likeness_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with scales and sizes ignored, a head that grew alone would get another one's blocks."""
    plan = plan_for(random_model(CONFIG), *THEOREMS["3.4 in layer 1, head 1"])
    monkeypatch.setattr("growformer.planning.rules._sizes_and_scales", nothing)
    assert differing(plan) != []


def nothing(plan: Plan, spec: Any, index: Mapping[str, int]) -> tuple[()]:
    return ()
