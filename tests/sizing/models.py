"""Configs of real models, without their weights, and tiny ones with every parameter random."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

QWEN2_7B: dict[str, Any] = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    "rope_theta": 1e6, "use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28,
    "rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "tie_word_embeddings": False,
}  # fmt: skip
QWEN2_72B = {
    **QWEN2_7B, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "max_window_layers": 80,
}  # fmt: skip
SMOLLM2: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    "tie_word_embeddings": True,
}  # fmt: skip
LLAMA3_8B = {
    **SMOLLM2, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_head": 12, "n_layer": 12,
    "n_positions": 1024, "vocab_size": 50257,
}  # fmt: skip
BERT: dict[str, Any] = {
    "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 768, "num_attention_heads": 12,
    "num_hidden_layers": 12, "intermediate_size": 3072, "vocab_size": 30522,
}  # fmt: skip

TINY = {
    "vocab_size": 61, "intermediate_size": 37, "num_hidden_layers": 3, "max_position_embeddings": 128,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-3,
}  # fmt: skip


def randomised(model: nn.Module, seed: int = 0) -> Any:
    """Return a model with every parameter random, norms and biases included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
            if "norm" in name.lower() and name.endswith("weight"):
                p.add_(1.0)
    return model.eval()


def qwen2(*, headless: bool = False, **settings: Any) -> Any:
    """Return a tiny Qwen2 with 7 heads on one kv head, hidden size 56."""
    sizes = {**TINY, "hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 1}
    rotary = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    config = transformers.Qwen2Config(**{**sizes, **rotary, **settings})
    return randomised((transformers.Qwen2Model if headless else transformers.Qwen2ForCausalLM)(config))


def llama(**settings: Any) -> Any:
    """Return a tiny Llama with 6 heads on 2 kv heads."""
    sizes = {**TINY, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2}
    return randomised(transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **settings})))


def tokens(length: int = 33) -> torch.Tensor:
    """Return two random sequences."""
    return torch.randint(0, 61, (2, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(model: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return logits, or last hidden states, computed in float64 by a copy."""
    import copy

    found: torch.Tensor = copy.deepcopy(model).to(dtype)(tokens(), use_cache=False)[0]
    return found


_ROTARY = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}
_OLDER = {"vocab_size": 61, "n_embd": 24, "n_head": 3, "n_layer": 2, "n_positions": 128, "layer_norm_epsilon": 1e-3}
_BERT = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 3, "num_hidden_layers": 2,
    "pad_token_id": None,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**TINY, **_ROTARY, "attention_bias": True, "mlp_bias": True}),
    "llama tied": ("LlamaForCausalLM", "LlamaConfig", {**TINY, **_ROTARY, "tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**TINY, **_ROTARY, "sliding_window": 7}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**TINY, **_ROTARY, "attention_bias": True}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {**_OLDER, "bos_token_id": 0, "eos_token_id": 1}),
    "bert": ("BertModel", "BertConfig", _BERT),
    "bert masked": ("BertForMaskedLM", "BertConfig", _BERT),
}
"""Name -> class, config class, settings."""


def family(name: str, **settings: Any) -> Any:
    """Return an ungrown tiny model of a family."""
    model, config, own = FAMILIES[name]
    return getattr(transformers, model)(getattr(transformers, config)(**{**own, **settings}))
