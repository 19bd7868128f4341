"""The small models that these tests use; what every family must hold is tested in ``tests/families``."""

from __future__ import annotations

from typing import Any

import torch
from tests.families.case import Case

_SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 6, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "head_dim": 8, "max_position_embeddings": 4096, "pad_token_id": None, "bos_token_id": 0,
    "eos_token_id": 1,
}  # fmt: skip
_QWEN2 = {**_SIZES, "num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}
_GPT2: dict[str, Any] = {
    "vocab_size": 61, "n_embd": 24, "n_head": 3, "n_layer": 2, "n_positions": 128, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_BERT: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 3, "num_hidden_layers": 2,
    "layer_norm_eps": 1e-12,
}  # fmt: skip
_SCALED = {"n_inner": 37, "scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False}
_BIASES = {"attention_bias": True, "mlp_bias": True}

CASES = {
    "llama": Case(model_type="llama", model="LlamaForCausalLM", config={**_SIZES, **_BIASES}),
    "llama tied": Case(
        model_type="llama", model="LlamaForCausalLM", config={**_SIZES, "tie_word_embeddings": True, "rms_norm_eps": 1e-6}
    ),
    "qwen2": Case(model_type="qwen2", model="Qwen2ForCausalLM", config={**_QWEN2, "rms_norm_eps": 1e-6}),
    "gpt2": Case(model_type="gpt2", model="GPT2LMHeadModel", config=_GPT2),
    "gpt2 scaled by layer": Case(model_type="gpt2", model="GPT2LMHeadModel", config={**_GPT2, **_SCALED}),
    "bert": Case(model_type="bert", model="BertModel", config=_BERT),
    "bert masked": Case(model_type="bert", model="BertForMaskedLM", config=_BERT),
}
"""By name."""


def tokens(case: Case, length: int = 41, batch: int = 2) -> dict[str, torch.Tensor]:
    """Return random tokens."""
    return case.make_inputs(case.config, length=length, batch=batch)
