"""OLMo and EXAONE."""

from __future__ import annotations

from tests.families.cases.llama import decoder

CASES = (
    decoder("olmo", "OlmoForCausalLM", attention_bias=True),
    decoder("olmo", "OlmoForCausalLM", "tied", tie_word_embeddings=True, drop=("head_dim",)),
    decoder("olmo2", "Olmo2ForCausalLM", attention_bias=True),
    decoder("olmo2", "Olmo2ForCausalLM", "tied", tie_word_embeddings=True, drop=("head_dim",)),
    decoder("olmo3", "Olmo3ForCausalLM", num_hidden_layers=5, sliding_window=7),
    decoder("exaone4", "Exaone4ForCausalLM", num_hidden_layers=5, sliding_window=7),
    decoder(
        "exaone4",
        "Exaone4ForCausalLM",
        "tied",
        sliding_window=None,
        sliding_window_pattern=0,
        layer_types=["full_attention"] * 2,
        tie_word_embeddings=True,
        drop=("head_dim",),
        variants={"num_hidden_layers": {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}},
    ),
    decoder("exaone", "AutoModelForCausalLM", attention_bias=True, mlp_bias=True),
)
