"""Layers numbered after the last one: weights that predict further tokens are dropped, with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from growformer.architecture.registry import for_config
from growformer.architecture.source import describe, from_config
from growformer.errors import SourceError
from growformer.planning.planner import make_plan

CONFIG: dict[str, Any] = {
    "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "vocab_size": 61, "hidden_size": 24,
    "intermediate_size": 37, "moe_intermediate_size": 13, "num_hidden_layers": 3, "num_attention_heads": 3,
    "num_key_value_heads": 3, "q_lora_rank": 22, "kv_lora_rank": 20, "qk_nope_head_dim": 10, "qk_rope_head_dim": 8,
    "v_head_dim": 14, "n_routed_experts": 4, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1,
}  # fmt: skip
EXTRA = (
    "model.layers.3.eh_proj.weight",
    "model.layers.3.enorm.weight",
    "model.layers.3.shared_head.head.weight",
    "model.layers.3.embed_tokens.weight",
    "model.layers.3.input_layernorm.weight",
    "model.layers.3.self_attn.q_a_proj.weight",
    "model.layers.3.mlp.gate.e_score_correction_bias",
    "model.layers.3.mlp.experts.0.gate_proj.weight",
    "model.layers.3.mlp.experts.down_proj",
)


def tensors(*extra: str) -> dict[str, tuple[tuple[int, ...], str]]:
    source = from_config(for_config(CONFIG), CONFIG)
    found = {info.stored: (info.shape, info.dtype) for info in source.tensors.values()}
    return found | dict.fromkeys(extra, ((24, 24), "float32"))


def test_a_layer_that_predicts_further_tokens_is_dropped_with_one_reason() -> None:
    source = describe(for_config(CONFIG), CONFIG, tensors(*EXTRA))
    assert set(source.dropped) == set(EXTRA)
    assert set(source.dropped.values()) == {"it predicts further tokens, from layers that are changed now"}


def test_the_target_has_none_of_them_and_says_so() -> None:
    architecture = for_config(CONFIG)
    source = describe(architecture, CONFIG, tensors(*EXTRA))
    plan = make_plan(architecture, source, {"num_hidden_layers": 5})
    assert plan.target_config["num_nextn_predict_layers"] == 0
    assert plan.target_config["num_hidden_layers"] == 5
    assert "layers.3.input_layernorm.weight" in {tensor.name for tensor in plan.tensors()}  # a layer of the model now


def test_more_layers_than_the_config_says_are_not_dropped() -> None:
    with pytest.raises(SourceError, match=r"unexpected model\.layers\.4\.input_layernorm\.weight"):
        describe(for_config(CONFIG), CONFIG, tensors(*EXTRA, "model.layers.4.input_layernorm.weight"))
    none = {**CONFIG, "num_nextn_predict_layers": 0}
    with pytest.raises(SourceError, match=r"unexpected model\.layers\.3\.eh_proj\.weight"):
        describe(for_config(none), none, tensors(*EXTRA))
