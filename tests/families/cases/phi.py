"""Phi, Phi-3 and StableLM."""

from __future__ import annotations

from typing import Any

from tests.families.cases.llama import decoder

LONG: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.1, 1.3], "long_factor": [2.0, 3.0, 4.0],
    "original_max_position_embeddings": 16,
}  # fmt: skip
PLAIN: dict[str, Any] = {"hidden_size": 72, "drop": ("head_dim",)}
WIDE: dict[str, Any] = {**PLAIN, "hidden_size": 96}
PART: dict[str, Any] = {**LONG, "partial_rotary_factor": 0.75}


def variants(rope: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Other sizes of heads, with as many factors as are wanted then."""
    share = rope.get("partial_rotary_factor", 1.0)
    return {
        "hidden_size": {"hidden_size": 192, "rope_parameters": _factors(rope, int(16 * share) // 2)},
        "num_attention_heads": {"num_attention_heads": 6, "rope_parameters": _factors(rope, 6)},
    }


def _factors(rope: dict[str, Any], count: int) -> dict[str, Any]:
    return {**rope, "short_factor": [1.0 + i / 9 for i in range(count)], "long_factor": [2.0 + i for i in range(count)]}


CASES = (
    decoder("phi", "PhiForCausalLM", head_dim=20),
    decoder("phi", "PhiForCausalLM", "tied", tie_word_embeddings=True, **WIDE),
    decoder("phi", "PhiForCausalLM", "qk-norm", qk_layernorm=True, ordered=("key",), **WIDE),
    decoder("phi3", "Phi3ForCausalLM", partial_rotary_factor=0.6, pad_token_id=0),
    decoder(
        "phi3",
        "Phi3ForCausalLM",
        "whole",
        tie_word_embeddings=True,
        pad_token_id=0,
        sliding_window=7,
        drop=("head_dim",),
    ),
    decoder(
        "phi3", "Phi3ForCausalLM", "longrope", rope_parameters=LONG, pad_token_id=0, variants=variants(LONG), **PLAIN
    ),
    decoder(
        "phi3",
        "Phi3ForCausalLM",
        "longrope-partial",
        rope_parameters=PART,
        pad_token_id=0,
        variants=variants(PART),
        **WIDE,
    ),
    decoder("stablelm", "StableLmForCausalLM", use_qkv_bias=True, partial_rotary_factor=0.75, **PLAIN),
    decoder(
        "stablelm",
        "StableLmForCausalLM",
        "parallel",
        use_parallel_residual=True,
        tie_word_embeddings=True,
        partial_rotary_factor=0.75,
        **PLAIN,
    ),
)
