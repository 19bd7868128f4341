"""Decoders with an MLP of two matrices."""

from __future__ import annotations

from tests.families.cases.llama import decoder

CASES = (
    decoder("nemotron", "NemotronForCausalLM", attention_bias=True, mlp_bias=True, head_dim=18),
    decoder("nemotron", "NemotronForCausalLM", "defaults", tie_word_embeddings=True, head_dim=16, partial_rotary_factor=1.0),
    decoder("jais2", "Jais2ForCausalLM"),
    decoder("jais2", "Jais2ForCausalLM", "tied", attention_bias=False, mlp_bias=False, tie_word_embeddings=True),
    decoder("starcoder2", "Starcoder2ForCausalLM", sliding_window=7),
    decoder("starcoder2", "Starcoder2ForCausalLM", "tied", use_bias=False, tie_word_embeddings=True, drop=("head_dim",)),
    decoder("arcee", "ArceeForCausalLM", attention_bias=True, mlp_bias=True),
    decoder("arcee", "ArceeForCausalLM", "tied", tie_word_embeddings=True, drop=("head_dim",)),
)  # fmt: skip
