"""Decoders with an MLP of two matrices."""

from __future__ import annotations

from typing import Any

from tests.families.cases.llama import decoder

#: Some units of their own relu2 see no input of the gradients check.
SMOOTH: dict[str, Any] = {"hidden_act": "gelu"}

CASES = (
    decoder("nemotron", "NemotronForCausalLM", attention_bias=True, mlp_bias=True, head_dim=20, **SMOOTH),
    decoder(
        "nemotron",
        "NemotronForCausalLM",
        "defaults",
        tie_word_embeddings=True,
        head_dim=16,
        partial_rotary_factor=1.0,
        **SMOOTH,
    ),
    decoder("jais2", "Jais2ForCausalLM", **SMOOTH),
    decoder(
        "jais2", "Jais2ForCausalLM", "tied", attention_bias=False, mlp_bias=False, tie_word_embeddings=True, **SMOOTH
    ),
    decoder("starcoder2", "Starcoder2ForCausalLM", sliding_window=7),
    decoder(
        "starcoder2", "Starcoder2ForCausalLM", "tied", use_bias=False, tie_word_embeddings=True, drop=("head_dim",)
    ),
    decoder("arcee", "ArceeForCausalLM", attention_bias=True, mlp_bias=True, **SMOOTH),
    decoder("arcee", "ArceeForCausalLM", "tied", tie_word_embeddings=True, **SMOOTH, drop=("head_dim",)),
)
