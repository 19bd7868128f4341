"""Gemma."""

from __future__ import annotations

from tests.families.cases.llama import decoder

CASES = (
    decoder("gemma", "GemmaForCausalLM", attention_bias=True),
    decoder("gemma", "GemmaForCausalLM", "tied", tie_word_embeddings=True),
    decoder("gemma2", "Gemma2ForCausalLM", num_hidden_layers=3, sliding_window=7, query_pre_attn_scalar=11),
    decoder("gemma2", "Gemma2ForCausalLM", "tied", sliding_window=7, tie_word_embeddings=True, attention_bias=True),
    decoder(
        "gemma3_text",
        "Gemma3ForCausalLM",
        num_hidden_layers=3,
        sliding_window_pattern=2,
        sliding_window=7,
        query_pre_attn_scalar=11,
    ),
    decoder(
        "gemma3_text", "Gemma3ForCausalLM", "tied", sliding_window=7, tie_word_embeddings=True, attention_bias=True
    ),
    decoder("vaultgemma", "VaultGemmaForCausalLM", num_hidden_layers=3, sliding_window=7, query_pre_attn_scalar=11),
    decoder(
        "vaultgemma", "VaultGemmaForCausalLM", "tied", sliding_window=7, tie_word_embeddings=True, attention_bias=True
    ),
    decoder("muse_glimmer_text", "MuseGlimmerTextModel", attention_bias=True, sliding_window=7),
    decoder(
        "muse_glimmer_text",
        "MuseGlimmerTextModel",
        "listed",
        num_hidden_layers=5,
        sliding_window=7,
        layer_rope_theta=[1e4, 0, 1e4, 1e4, 0],
        variants={"num_hidden_layers": {"num_hidden_layers": 2, "layer_rope_theta": [1e4, 0]}},
    ),
)
