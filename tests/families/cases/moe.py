"""Mixtures of experts."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.cases.llama import decoder

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 1024}
#: Experts by names that differ from family to family.
ROUTED = {"moe_intermediate_size": 13, "n_routed_experts": 6, "num_experts_per_tok": 2}
ROUTED |= {"n_shared_experts": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "num_hidden_layers": 3}
#: All experts are asked; or all but one, so that every one is by some token, and a bias on scores has an effect.
ALL, MOST = {"num_experts_per_tok": 6}, {"num_experts_per_tok": 5}
ROUTED |= {"smooth": {**ALL, "topk_group": 2}, "oracles": {**MOST, "topk_group": 2}}
NUMBERED = {"moe_intermediate_size": 13, "num_experts": 6, "num_experts_per_tok": 2, "num_hidden_layers": 3}
#: Heads that are wider by a whole plane on either side of a rotation of half of them.
WIDER = {"head_dim": {"head_dim": 24}}
LOCAL = {"num_local_experts": 6, "num_experts_per_tok": 2}

#: New layers in front of the first one, and between dense and sparse ones.
FRONT = {"growths": {"front": {"num_hidden_layers": 5, "new_layers_at": [0, 2]}}}


def moe(model_type: str, model: str, name: str = "", **changes: Any) -> Case:
    """A case whose experts work one after the other: faster kernels take neither odd sizes nor float64."""
    usual = {"experts_implementation": "eager", "num_attention_heads": 6, "smooth": ALL, "oracles": MOST}
    return decoder(model_type, model, name, **{**usual, **changes})


CASES = (
    moe("mixtral", "MixtralForCausalLM", **LOCAL),
    moe("mixtral", "MixtralModel", sliding_window=7, **LOCAL),
    moe("mixtral", "MixtralForSequenceClassification", num_labels=5, **{**LOCAL, "pad_token_id": 0}),
    # It asks two experts at most, and computes frequencies at every call.
    moe(
        "phimoe", "PhimoeForCausalLM", attention_bias=True, lm_head_bias=True, ordered=("freq", "pair"),
        smooth={"num_local_experts": 2, "router_jitter_noise": 1.0}, oracles={"router_jitter_noise": 1.0}, **LOCAL,
    ),
    moe("minimax_m2", "MiniMaxM2ForCausalLM", rotary_dim=8, ordered=("key",), **LOCAL),
    moe("gpt_oss", "GptOssForCausalLM", rope_parameters=YARN, sliding_window=7, **LOCAL),
    moe("gpt_oss", "GptOssModel", attention_bias=False, sliding_window=7, **LOCAL),
    moe(
        "qwen2_moe", "Qwen2MoeForCausalLM", **NUMBERED, **FRONT, shared_expert_intermediate_size=23,
        decoder_sparse_step=2, use_sliding_window=True, sliding_window=7, max_window_layers=2,
    ),
    moe("qwen3_moe", "Qwen3MoeForCausalLM", **NUMBERED, **FRONT, mlp_only_layers=[1], attention_bias=True),
    moe("qwen3_moe", "Qwen3MoeModel", "sliding", **NUMBERED, use_sliding_window=True, sliding_window=7),
    moe(
        "mellum", "MellumForCausalLM", **NUMBERED, **FRONT, mlp_layer_types=["sparse", "dense", "sparse"],
        layer_types=["full_attention", "sliding_attention", "full_attention"], sliding_window=7,
    ),
    moe(
        "flint", "FlintForCausalLM", **{**NUMBERED, "num_hidden_layers": 4}, shared_expert_intermediate_size=23,
        sliding_window=7,
    ),
    moe("olmoe", "OlmoeForCausalLM", num_experts=6, num_experts_per_tok=2, drop=("head_dim",)),
    moe("flex_olmo", "FlexOlmoForCausalLM", num_experts=6, num_experts_per_tok=2),
    moe("granitemoe", "GraniteMoeForCausalLM", **LOCAL, attention_multiplier=0.3, embedding_multiplier=3.0),
    moe("granitemoeshared", "GraniteMoeSharedForCausalLM", **LOCAL, shared_intermediate_size=23),
    moe("granitemoeshared", "GraniteMoeSharedForCausalLM", "alone", **LOCAL),
    moe(
        "granitemoe_swa", "GraniteMoeSWAForCausalLM", **LOCAL, num_hidden_layers=3, shared_intermediate_size=23,
        sliding_window=7, layer_rope_theta=[1e4, 0, 500.0],
    ),
    moe("glm4_moe", "Glm4MoeForCausalLM", **ROUTED, attention_bias=True, head_dim=20, variants=WIDER),
    moe("glm4_moe", "Glm4MoeForCausalLM", "normed", **ROUTED, use_qk_norm=True, head_dim=20, ordered=("key",)),
    moe(
        "glm4v_moe_text", "Glm4vMoeTextModel", **ROUTED, head_dim=20, variants=WIDER,
        rope_parameters={
            "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [1, 2, 2],
        },
    ),
    moe("sarvam_moe", "Glm4MoeForCausalLM", **ROUTED, attention_bias=True, ordered=("key",)),
    moe("dots1", "Dots1ForCausalLM", **ROUTED, **FRONT, sliding_window=7, max_window_layers=2),
    moe("solar_open", "SolarOpenForCausalLM", **ROUTED, attention_bias=True, drop=("intermediate_size",)),
    moe(
        "exaone_moe", "ExaoneMoeForCausalLM", **NUMBERED, **FRONT, num_shared_experts=2, sliding_window=7,
        sliding_window_pattern=2,
    ),
    moe("hy_v3", "HYV3ForCausalLM", **NUMBERED, num_shared_experts=2, mlp_bias=True, attention_bias=True),
    moe(
        "ernie4_5_moe", "Ernie4_5_MoeForCausalLM", moe_intermediate_size=13, moe_num_experts=6, moe_k=2,
        smooth={"moe_k": 6}, oracles={"moe_k": 5}, use_bias=True, num_hidden_layers=3, moe_layer_start_index=1,
        moe_layer_end_index=1, **FRONT,
    ),
    moe(
        "ernie4_5_moe", "Ernie4_5_MoeForCausalLM", "unshared", moe_intermediate_size=13, moe_num_experts=6, moe_k=2,
        smooth={"moe_k": 6}, oracles={"moe_k": 5}, moe_num_shared_experts=0, tie_word_embeddings=True,
    ),
    moe(
        "afmoe", "AfmoeForCausalLM", **NUMBERED, num_shared_experts=2, mup_enabled=True, attention_bias=True,
        global_attn_every_n_layers=2, sliding_window=7,
    ),
    moe("afmoe", "AfmoeForCausalLM", "tied", **NUMBERED, num_shared_experts=2, tie_word_embeddings=True),
    moe(
        "hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", num_experts=6, moe_topk=[2, 1], smooth={"moe_topk": 6},
        oracles={"moe_topk": 5}, attention_bias=True,
    ),
    moe(
        "kolibri1", "Kolibri1ForCausalLM", **NUMBERED, shared_expert_intermediate_size=23, sliding_window=7,
        drop=("intermediate_size",),
    ),
    moe("qwen3_vl_moe_text", "Qwen3VLMoeTextModel", **NUMBERED, mlp_only_layers=[1], attention_bias=True),
    moe("qwen3_omni_moe_text", "Qwen3OmniMoeThinkerTextModel", **NUMBERED, decoder_sparse_step=2),
    moe(
        "cohere2_moe", "Cohere2MoeForCausalLM", **{**NUMBERED, "num_shared_experts": 2}, attention_bias=True,
        prefix_dense_intermediate_size=23, mlp_layer_types=["sparse", "dense", "sparse"], sliding_window=7,
        sliding_window_pattern=2, drop=("moe_intermediate_size",),
    ),
    moe(
        "cohere2_moe", "Cohere2MoeForCausalLM", "rms", **NUMBERED, rms_norm_eps=1e-3, first_k_dense_replace=1,
        tie_word_embeddings=True, sliding_window=7, drop=("moe_intermediate_size",),
    ),
    moe(
        "cohere2_moe", "Cohere2MoeForCausalLM", "rms-prefix", **NUMBERED, rms_norm_eps=1e-3, first_k_dense_replace=1,
        prefix_dense_intermediate_size=23, sliding_window=7, drop=("moe_intermediate_size",),
    ),
    moe("jetmoe", "JetMoeForCausalLM", **LOCAL, kv_channels=14, drop=("head_dim", "num_attention_heads")),
    moe(
        "laguna", "LagunaForCausalLM", **NUMBERED, shared_expert_intermediate_size=23, ordered=("key",),
        num_attention_heads_per_layer=[6, 9, 12], sliding_window=7, attention_bias=True, head_dim=12,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
        variants={
            "num_hidden_layers": {
                "num_hidden_layers": 2, "num_attention_heads_per_layer": [6, 9], "layer_types": ["full_attention"] * 2,
            },
        },
    ),
    moe(
        "laguna", "LagunaForCausalLM", "per-element", **NUMBERED, shared_expert_intermediate_size=23, head_dim=12,
        gating="per-element", ordered=("key",),
    ),
    moe(
        "aria_text", "AriaTextForCausalLM", moe_num_experts=6, moe_topk=2, mlp_bias=True, attention_bias=True,
        smooth={"moe_topk": 6}, oracles={"moe_topk": 5},
    ),
    moe(
        "unlimited_ocr_text", "UnlimitedOcrTextModel", **ROUTED, mlp_bias=True, sliding_window=7, drop=("head_dim",),
    ),
    moe(
        "granitemoehybrid", "GraniteMoeHybridForCausalLM", **LOCAL, shared_intermediate_size=23,
        layer_types=["full_attention"] * 2, position_embedding_type="rope", mamba_n_heads=1, mamba_d_head=48,
        variants={"hidden_size": {"hidden_size": 25, "mamba_d_head": 50}},
    ),
    moe(
        "granitemoehybrid", "GraniteMoeHybridForCausalLM", "dense", num_local_experts=0, shared_intermediate_size=23,
        layer_types=["full_attention"] * 2, position_embedding_type="rope", mamba_n_heads=1, mamba_d_head=48,
        variants={"hidden_size": {"hidden_size": 25, "mamba_d_head": 50}},
        smooth={}, oracles={},
    ),
    moe(
        "deepseek_ocr2_text", "DeepseekOcr2TextModel", **ROUTED, mlp_layer_types=["sparse", "dense", "sparse"],
        drop=("head_dim",),
    ),
    moe("openai_privacy_filter", "OpenAIPrivacyFilterModel", **LOCAL, rope_parameters=YARN, sliding_window=7),
    moe("openai_privacy_filter", "OpenAIPrivacyFilterForTokenClassification", **LOCAL, num_labels=5, sliding_window=7),
    moe(
        "llama4_text", "Llama4ForCausalLM", **LOCAL, num_hidden_layers=4, intermediate_size_mlp=23, attention_bias=True,
        interleave_moe_layer_step=2, no_rope_layer_interval=3,
        growths={"front": {"num_hidden_layers": 6, "new_layers_at": [0, 3]}}, floor_scale=4, attention_chunk_size=16,
    ),
    moe(
        "mimo_v2_flash", "MiMoV2FlashForCausalLM", **{**ROUTED, "n_shared_experts": None}, attention_bias=True,
        head_dim=12, v_head_dim=14, layer_types=["full_attention", "sliding_attention", "full_attention"],
        ordered=("key",), sliding_window=7,
    ),
    moe(
        "minimax_m3_vl_text", "MiniMaxM3VLForCausalLM", **LOCAL, num_hidden_layers=3, dense_intermediate_size=41,
        shared_intermediate_size=23, mlp_layer_types=["dense", "sparse", "sparse"], ordered=("key",),
    ),
    moe(
        "minimax_m3_vl_text", "MiniMaxM3VLForCausalLM", "indexed", **LOCAL, dense_intermediate_size=41,
        shared_intermediate_size=23, index_n_heads=3, index_head_dim=10, index_block_size=2, index_topk_blocks=2,
        layer_types=["full_attention", "minimax_m3_sparse"], ordered=("key", "kv_heads", "index_key", "index_heads"),
        smooth={**ALL, "index_topk_blocks": 64},
    ),
    moe(
        "dbrx", "DbrxForCausalLM", d_model=24, n_heads=6, n_layers=2, max_seq_len=4096,
        attn_config={"kv_n_heads": 3, "clip_qkv": 8.0, "rope_theta": 1e4},
        ffn_config={"ffn_hidden_size": 37, "moe_num_experts": 6, "moe_top_k": 2},
        smooth={"ffn_config.moe_top_k": 6}, ordered=("expert",),
        oracles={"ffn_config.moe_top_k": 5, "attn_config.clip_qkv": 1e9},
        drop=(
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "max_position_embeddings",
        ),
    ),
    moe(
        "beam", "BeamForCausalLM", **NUMBERED, n_group=2, topk_group=1, attention_bias=True, sliding_window=7,
        layer_types=["sliding_attention", "full_attention", "full_attention"], smooth={**ALL, "topk_group": 2},
        mlp_layer_types=["sparse", "dense", "sparse"], oracles={**MOST, "topk_group": 2},
        variants={
            "num_hidden_layers": {
                "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2, "mlp_layer_types": ["sparse", "dense"],
            },
        },
    ),
)  # fmt: skip
