"""GLM."""

from __future__ import annotations

from tests.families.cases.llama import decoder

CASES = (
    decoder("glm", "GlmForCausalLM", head_dim=20),
    decoder("glm", "GlmForCausalLM", "tied", head_dim=16, attention_bias=False, tie_word_embeddings=True),
    decoder("glm4", "Glm4ForCausalLM", head_dim=20),
    decoder("glm4", "Glm4ForCausalLM", "tied", head_dim=16, attention_bias=False, tie_word_embeddings=True),
)
