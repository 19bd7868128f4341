"""Tiny stock models with every parameter random, and growths of each that are not doublings where the family allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

LLAMA_SIZES = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 6, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "max_position_embeddings": 4096,
}  # fmt: skip
LLAMA_GROWTHS = {
    "mlp": {"intermediate_size": 53},
    "heads": {"num_attention_heads": 12},
    "kv_heads": {"num_key_value_heads": 4, "num_attention_heads": 12},
    "head_dim": {"head_dim": 14},
    "hidden": {"hidden_size": 36},
    "layers": {"num_hidden_layers": 5},
    "all": {
        "intermediate_size": 53, "num_key_value_heads": 4, "num_attention_heads": 12, "head_dim": 14,
        "hidden_size": 36, "num_hidden_layers": 5,
    },
}  # fmt: skip
GPT2_GROWTHS = {
    "mlp": {"intermediate_size": 101},
    "hidden and heads": {"hidden_size": 40},
    "hidden and head_dim": {"hidden_size": 30, "num_attention_heads": 3},
    "layers": {"num_hidden_layers": 5},
    "all": {"intermediate_size": 101, "hidden_size": 44, "num_attention_heads": 4, "num_hidden_layers": 5},
}
BERT_GROWTHS = {
    "mlp": {"intermediate_size": 53},
    "hidden and heads": {"hidden_size": 48},
    "hidden and head_dim": {"hidden_size": 48, "num_attention_heads": 3},
    "layers": {"num_hidden_layers": 5},
    "all": {"intermediate_size": 53, "hidden_size": 72, "num_attention_heads": 4, "num_hidden_layers": 5},
}


@dataclass(frozen=True)
class Case:
    """A model class, its config, and growths by name."""

    name: str
    model: str
    config: str
    settings: dict[str, Any]
    growths: dict[str, dict[str, int]]

    def make_config(self) -> Any:
        """Return the config."""
        settings = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1, **self.settings}
        return getattr(transformers, self.config)(**settings)

    def config_dict(self) -> dict[str, Any]:
        """Return the config as config.json of a saved model holds it."""
        return {**self.make_config().to_dict(), "architectures": [self.model]}

    def build(self, seed: int = 0) -> nn.Module:
        """Return the model with every parameter random; identity initialisation would hide errors."""
        model: nn.Module = getattr(transformers, self.model)(self.make_config()).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * (0.25 if p.ndim > 1 else 0.3))
                if "norm" in name.lower() or ".ln_" in name:
                    p.add_(1.0 if name.endswith("weight") else 0.0)
        return model


CASES = {
    case.name: case
    for case in (
        Case("llama", "LlamaForCausalLM", "LlamaConfig",
             {**LLAMA_SIZES, "head_dim": 8, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-3},
             LLAMA_GROWTHS),
        Case("llama tied", "LlamaForCausalLM", "LlamaConfig",
             {**LLAMA_SIZES, "head_dim": 8, "tie_word_embeddings": True}, LLAMA_GROWTHS),
        Case("mistral", "MistralForCausalLM", "MistralConfig", {**LLAMA_SIZES, "head_dim": 8, "sliding_window": 7},
             LLAMA_GROWTHS),
        Case("qwen2", "Qwen2ForCausalLM", "Qwen2Config",
             {**LLAMA_SIZES, "num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 7,
              "max_window_layers": 2}, {**LLAMA_GROWTHS, "head_dim": {"head_dim": 6}}),
        Case("qwen3", "Qwen3ForCausalLM", "Qwen3Config",
             {**LLAMA_SIZES, "head_dim": 8, "attention_bias": True, "rms_norm_eps": 1e-3}, LLAMA_GROWTHS),
        Case("gpt2", "GPT2LMHeadModel", "GPT2Config",
             {"vocab_size": 61, "n_embd": 24, "n_head": 3, "n_layer": 2, "n_positions": 128,
              "layer_norm_epsilon": 1e-3}, GPT2_GROWTHS),
        Case("gpt2 scaled by layer", "GPT2LMHeadModel", "GPT2Config",
             {"vocab_size": 61, "n_embd": 24, "n_head": 3, "n_layer": 2, "n_positions": 128, "n_inner": 37,
              "scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False}, GPT2_GROWTHS),
        Case("bert", "BertModel", "BertConfig",
             {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 3,
              "num_hidden_layers": 2}, BERT_GROWTHS),
        Case("bert masked", "BertForMaskedLM", "BertConfig",
             {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 3,
              "num_hidden_layers": 2}, BERT_GROWTHS),
        Case("bert tokens", "BertForTokenClassification", "BertConfig",
             {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 3,
              "num_hidden_layers": 2, "num_labels": 3}, {"all": BERT_GROWTHS["all"]}),
        Case("bert classifier", "BertForSequenceClassification", "BertConfig",
             {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 3,
              "num_hidden_layers": 2, "num_labels": 3}, BERT_GROWTHS),
    )
}  # fmt: skip
"""Each of the six and all at once, for every first family, by name."""

PAIRS = [(case, growth) for case, c in CASES.items() for growth in c.growths]


def tokens(case: Case, length: int = 41, batch: int = 2) -> dict[str, torch.Tensor]:
    """Return random tokens."""
    generator = torch.Generator().manual_seed(1)
    return {"input_ids": torch.randint(2, case.settings["vocab_size"], (batch, length), generator=generator)}
