"""Granite."""

from __future__ import annotations

from typing import Any

from tests.families.cases.llama import decoder

MULTIPLIERS: dict[str, Any] = {
    "embedding_multiplier": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.7, "logits_scaling": 2.0,
}  # fmt: skip

CASES = (
    decoder("granite", "GraniteForCausalLM", **MULTIPLIERS, attention_bias=True, mlp_bias=True),
    decoder("granite", "GraniteForCausalLM", "tied", **MULTIPLIERS, tie_word_embeddings=True, drop=("head_dim",)),
    decoder("granite4_vision_text", "Granite4VisionTextModel", **MULTIPLIERS),
    decoder("granite_docling_text", "GraniteDoclingTextModel", pad_token_id=0),
    decoder(
        "granite_swa",
        "GraniteSWAForCausalLM",
        **MULTIPLIERS,
        num_hidden_layers=3,
        layer_rope_theta=[1e4, 0, 1e3],
        sliding_window=7,
    ),
    decoder("hyperclovax", "HyperCLOVAXForCausalLM", **MULTIPLIERS),
    decoder("hyperclovax", "HyperCLOVAXForCausalLM", "defaults", mlp_bias=True, attention_bias=True),
    decoder("hyperclovax", "HyperCLOVAXForCausalLM", "pre-norm", use_post_norm=False, tie_word_embeddings=True),
)
