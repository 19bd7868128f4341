"""Latent attention, with experts and without."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.cases.moe import FRONT, ROUTED, moe

LATENT: dict[str, Any] = {
    "q_lora_rank": 22, "kv_lora_rank": 20, "qk_nope_head_dim": 10, "qk_rope_head_dim": 8, "v_head_dim": 14,
    "num_key_value_heads": 6, "drop": ("head_dim",),
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 1024, "beta_fast": 32,
    "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.7,
}  # fmt: skip


def latent(model_type: str, model: str, name: str = "", **changes: Any) -> Case:
    """A case with latent attention."""
    return moe(model_type, model, name, **{**LATENT, **changes})


CASES = (
    latent("youtu", "YoutuForCausalLM", attention_bias=True),
    latent("youtu", "YoutuForCausalLM", "halves", rope_interleave=False, tie_word_embeddings=True),
    latent("minicpm3", "MiniCPM3ForCausalLM", scale_emb=3, scale_depth=1.3, dim_model_base=7, mlp_bias=True),
    latent("minicpm3", "MiniCPM3ForCausalLM", "tied", tie_word_embeddings=True, attention_bias=True, q_lora_rank=None),
    latent("deepseek_v2", "DeepseekV2ForCausalLM", **ROUTED, attention_bias=True, mlp_bias=True),
    latent(
        "deepseek_v2", "DeepseekV2ForCausalLM", "direct", **ROUTED, q_lora_rank=None, topk_method="group_limited_greedy"
    ),
    latent("deepseek_v3", "DeepseekV3ForCausalLM", **ROUTED, **FRONT, attention_bias=True, rope_parameters=YARN),
    latent("deepseek_v3", "DeepseekV3ForCausalLM", "halves", **ROUTED, rope_interleave=False, q_lora_rank=None),
    latent("deepseek_v3", "DeepseekV3Model", **ROUTED),
    latent("sarvam_mla", "DeepseekV3ForCausalLM", **ROUTED, q_lora_rank=None),
    latent("mistral4", "Mistral4ForCausalLM", **ROUTED),
    latent("glm4_moe_lite", "Glm4MoeLiteForCausalLM", **ROUTED, **FRONT, mlp_layer_types=["dense", "sparse", "dense"]),
    latent("axk1", "AXK1ForCausalLM", **ROUTED),
    latent(
        "longcat_flash",
        "LongcatFlashForCausalLM",
        num_layers=2,
        ffn_hidden_size=37,
        expert_ffn_hidden_size=13,
        n_routed_experts=5,
        zero_expert_num=3,
        moe_topk=3,
        smooth={"moe_topk": 8},
        oracles={"moe_topk": 7, "router_bias": True},
        unused=("layers.{layer}.mlp.router.classifier.bias",),
        head_dim=8,
        drop=("num_hidden_layers", "intermediate_size"),
        untrained=r"experts\.gate_up_proj",
    ),
    latent(
        "longcat_flash",
        "LongcatFlashForCausalLM",
        "weighted",
        num_layers=2,
        ffn_hidden_size=37,
        expert_ffn_hidden_size=13,
        n_routed_experts=7,
        zero_expert_num=0,
        moe_topk=3,
        smooth={"moe_topk": 7},
        oracles={"moe_topk": 6, "router_bias": True},
        unused=("layers.{layer}.mlp.router.classifier.bias",),
        head_dim=8,
        drop=("num_hidden_layers", "intermediate_size"),
    ),
    latent(
        "deepseek_v32",
        "DeepseekV32ForCausalLM",
        **ROUTED,
        index_n_heads=3,
        index_head_dim=12,
        index_topk=9,
        ordered=("index_key", "index_heads", "freq", "pair"),
    ),
    latent(
        "glm_moe_dsa",
        "GlmMoeDsaForCausalLM",
        **ROUTED,
        index_n_heads=3,
        index_head_dim=12,
        index_topk=9,
        indexer_types=["full", "shared", "full"],
        ordered=("index_key", "index_heads", "freq", "pair"),
    ),
)
