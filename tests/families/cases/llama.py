"""Llama and what shares its layout."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case

#: No two sizes are equal, and no size is a multiple of another where the class does not want it.
SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 12,
    "num_key_value_heads": 3, "head_dim": 14, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
#: Leaves to the class what it can.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 4096, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
SLIDING = {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}
TIED = {"tie_word_embeddings": True}


def like_llama(model_type: str, prefix: str, defaults: dict[str, Any], **changes: Any) -> tuple[Case, ...]:
    """The four cases that every family of this layout has."""
    sizes = {**SIZES, **changes}
    head = f"{prefix}ForCausalLM"
    return (
        Case(model_type=model_type, model=head, config=sizes),
        Case(model_type=model_type, model=head, config={**sizes, **TIED}, name="tied"),
        Case(model_type=model_type, model=head, config={**DEFAULTS, **defaults}, name="defaults"),
        Case(model_type=model_type, model=f"{prefix}Model", config=sizes),
    )


CASES = (
    *like_llama("llama", "Llama", {}, attention_bias=True, mlp_bias=True),
    *like_llama("mistral", "Mistral", {"num_key_value_heads": 2}, sliding_window=7),
    *like_llama("qwen2", "Qwen2", {"num_key_value_heads": 2}, **SLIDING),
    *like_llama("qwen3", "Qwen3", {"num_key_value_heads": 2}, attention_bias=True),
)
