"""Kinds of layers: source layers keep theirs, new ones have that of the layer they copy if a config can say it."""

from __future__ import annotations

from typing import Any

import pytest

from growformer.architecture.registry import for_config
from growformer.architecture.source import from_config
from growformer.errors import RequestError
from growformer.planning.plan import Plan
from growformer.planning.planner import make_plan

SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 6, "num_key_value_heads": 3,
    "moe_intermediate_size": 13,
}  # fmt: skip


def planned(config: dict[str, Any], **request: Any) -> Plan:
    config = {**SIZES, **config}
    architecture = for_config(config)
    at = request.pop("new_layers_at", "end")
    return make_plan(architecture, from_config(architecture, config), request, new_layers_at=at)


def sparse(plan: Plan) -> list[int]:
    found = (t for t in plan.tensors() if t.template.endswith("mlp.gate.weight"))
    return sorted(dict(t.index)["layer"] for t in found)


def test_a_layer_at_the_end_of_a_range_joins_it() -> None:
    ernie = {"model_type": "ernie4_5_moe", "num_hidden_layers": 3, "moe_num_experts": 4, "moe_layer_end_index": 2}
    plan = planned(ernie, num_hidden_layers=5)
    assert plan.target_config["moe_layer_end_index"] == 4
    assert sparse(plan) == [1, 2, 3, 4]


def test_a_copy_of_a_layer_without_experts_has_none() -> None:
    qwen = {"model_type": "qwen3_moe", "num_hidden_layers": 4, "num_experts": 4, "decoder_sparse_step": 2}
    plan = planned(qwen, num_hidden_layers=6, new_layers_at=[1, 3])
    assert plan.target_config["decoder_sparse_step"] == 1
    assert plan.target_config["mlp_only_layers"] == [0, 1, 4]
    assert sparse(plan) == [2, 3, 5]


def test_where_a_rule_cannot_give_a_copy_its_kind_source_layers_come_first() -> None:
    glm = {"model_type": "glm4_moe", "num_hidden_layers": 3, "n_routed_experts": 4, "first_k_dense_replace": 1}
    plan = planned(glm, num_hidden_layers=5, new_layers_at=[2, 3])  # copies of layers 0 and 1
    assert plan.target_config["first_k_dense_replace"] == 1
    assert sparse(plan) == [1, 2, 3, 4]


def test_a_layer_in_front_of_those_without_experts_has_none() -> None:
    glm = {"model_type": "glm4_moe", "num_hidden_layers": 2, "n_routed_experts": 4, "first_k_dense_replace": 1}
    plan = planned(glm, num_hidden_layers=3, new_layers_at=[0])
    assert plan.target_config["first_k_dense_replace"] == 2


def test_a_part_that_the_source_lacks_is_not_made_from_nothing() -> None:
    latent = {
        "q_lora_rank": None, "kv_lora_rank": 20, "qk_nope_head_dim": 10, "qk_rope_head_dim": 8, "v_head_dim": 14,
        "model_type": "youtu", "num_hidden_layers": 2, "num_key_value_heads": 6,
    }  # fmt: skip
    with pytest.raises(RequestError, match=r"cannot grow q_lora_rank None -> 22: the source has a .*q_proj"):
        planned(latent, q_lora_rank=22)
