"""Hunyuan, Apertus, Persimmon, nanochat."""

from __future__ import annotations

from typing import Any

from tests.families.cases.llama import decoder

PLAIN: dict[str, Any] = {"hidden_size": 72, "drop": ("head_dim", "num_key_value_heads")}
LLAMA3: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 32,
    }
}  # fmt: skip
WIDE: dict[str, Any] = {**PLAIN, "hidden_size": 96}

CASES = (
    decoder("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", attention_bias=True),
    decoder("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", "tied", tie_word_embeddings=True),
    decoder(
        "hunyuan_vl_text",
        "HunYuanVLTextModel",
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 2, 2]},
        variants={
            "head_dim": {
                "head_dim": 16,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2, 2]},
            }
        },
    ),
    decoder("apertus", "ApertusForCausalLM", **LLAMA3, attention_bias=True),
    decoder(
        "apertus",
        "ApertusForCausalLM",
        "tied",
        **LLAMA3,
        tie_word_embeddings=True,
        hidden_act="gelu",
        drop=("head_dim",),
    ),
    decoder(
        "apertus1p5_text",
        "Apertus1p5TextForCausalLM",
        variants={"output_vocab_size": {"output_vocab_size": 41}},
        **LLAMA3,
    ),
    decoder("apertus1p5_text", "Apertus1p5TextForCausalLM", "pruned", output_vocab_size=41, **LLAMA3),
    decoder("persimmon", "PersimmonForCausalLM", hidden_act="gelu", ordered=("key",), **WIDE),
    decoder(
        "persimmon",
        "PersimmonForCausalLM",
        "plain",
        hidden_act="gelu",
        qk_layernorm=False,
        tie_word_embeddings=True,
        **WIDE,
    ),
    decoder("nanochat", "NanoChatForCausalLM", hidden_act="gelu", attention_bias=True),
    decoder("nanochat", "NanoChatForCausalLM", "tied", hidden_act="gelu", tie_word_embeddings=True),
)
