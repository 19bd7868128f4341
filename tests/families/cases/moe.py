"""Mixtures of experts."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case

#: No two sizes are equal; experts one after the other, as the fused kernels take neither odd sizes nor float64.
SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 3, "head_dim": 14, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1, "experts_implementation": "eager",
}  # fmt: skip


def moe(model_type: str, model: str, name: str = "", config: dict[str, Any] | None = None, **options: Any) -> Case:
    """A case of a model with experts."""
    return Case(name=name, model_type=model_type, model=model, config={**SIZES, **(config or {})}, **options)


CASES = (
    moe("mixtral", "MixtralForCausalLM", config={"num_local_experts": 5}),
)
