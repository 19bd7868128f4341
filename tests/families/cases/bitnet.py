"""BitNet and DiffLlama."""

from __future__ import annotations

from tests.families.cases.llama import decoder

CASES = (
    decoder("bitnet", "BitNetForCausalLM", hidden_size=72, attention_bias=True, hidden_act="gelu", drop=("head_dim",)),
    decoder(
        "bitnet",
        "BitNetForCausalLM",
        "tied",
        hidden_size=72,
        tie_word_embeddings=True,
        hidden_act="gelu",
        drop=("head_dim",),
    ),
    decoder(
        "diffllama",
        "DiffLlamaForCausalLM",
        attention_bias=True,
        hidden_size=36,
        num_key_value_heads=6,
        num_attention_heads=18,
    ),
    decoder(
        "diffllama", "DiffLlamaForCausalLM", "tied", num_key_value_heads=4, tie_word_embeddings=True, drop=("head_dim",)
    ),
)
