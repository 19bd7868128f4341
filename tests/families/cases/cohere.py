"""Cohere."""

from __future__ import annotations

from tests.families.cases.llama import decoder

CASES = (
    decoder("cohere", "CohereForCausalLM", attention_bias=True),
    decoder("cohere", "CohereForCausalLM", "tied", tie_word_embeddings=True, drop=("head_dim",)),
    decoder(
        "cohere2",
        "Cohere2ForCausalLM",
        num_hidden_layers=5,
        sliding_window=7,
        hidden_size=72,
        attention_bias=True,
        drop=("head_dim",),
    ),
    decoder(
        "cohere2",
        "Cohere2ForCausalLM",
        "tied",
        num_hidden_layers=3,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
        sliding_window=7,
        hidden_size=72,
        tie_word_embeddings=True,
        variants={"num_hidden_layers": {"num_hidden_layers": 2, "layer_types": ["sliding_attention"] * 2}},
        drop=("head_dim",),
    ),
)
