"""What docs/proofs/ says is refused, is refused, for the reason that the page gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import transformers

import growformer

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "proofs"
HEADS: dict[str, Any] = {"num_attention_heads": 3, "num_hidden_layers": 2, "vocab_size": 61}
ENCODER: dict[str, Any] = {**HEADS, "hidden_size": 24, "intermediate_size": 37}
DECODER: dict[str, Any] = {**ENCODER, "num_key_value_heads": 3}
GPT2: dict[str, Any] = {"n_embd": 24, "n_head": 3, "n_layer": 2, "vocab_size": 61}
BLOOM: dict[str, Any] = {"hidden_size": 24, "n_head": 3, "n_layer": 2, "vocab_size": 61}
FALCON: dict[str, Any] = {**HEADS, "hidden_size": 24, "alibi": True, "multi_query": False, "parallel_attn": False}
XGLM: dict[str, Any] = {"d_model": 24, "ffn_dim": 37, "attention_heads": 3, "num_layers": 2, "vocab_size": 61}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}

#: Page, class, its config, what is asked for, and a part of the message.
REFUSED: list[tuple[str, str, dict[str, Any], dict[str, Any], str]] = [
    ("mlp-expansion.md", "BitNetForCausalLM", DECODER, {"intermediate_size": 50}, "ffn_sub_norm reduces over it"),
    ("head-addition.md", "GPT2LMHeadModel", GPT2, {"n_head": 4}, "key = n_embd / n_head would shrink from 8 to 6"),
    ("attention-expansion.md", "OlmoForCausalLM", {**DECODER, "clip_qkv": 2.0}, {"head_dim": 12}, "clip_qkv = 2.0"),
    ("attention-expansion.md", "FalconForCausalLM", FALCON, {"hidden_size": 36, "num_attention_heads": 3},
     "the class divides its linear biases by sqrt(head_dim)"),
    ("hidden-dimension-expansion.md", "XGLMForCausalLM", XGLM, {"d_model": 32, "attention_heads": 4},
     "positions are sinusoids that the class computes from the width"),
    ("layer-norm.md", "BloomForCausalLM", BLOOM, {"hidden_size": 40, "n_head": 5}, "nearest: 24, 48"),
    ("layer-norm.md", "Dinov2Model",
     {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "image_size": 28, "patch_size": 14},
     {"hidden_size": 40, "num_attention_heads": 5}, "a mean would not stay one"),
    ("rotary.md", "LlamaForCausalLM", {**DECODER, "rope_parameters": DYNAMIC}, {"head_dim": 12}, "type 'dynamic'"),
    ("rotary.md", "LlamaForCausalLM", DECODER, {"head_dim": 88}, "the largest factor with rope_theta = 10000 is 9.50"),
    ("query-key-norms.md", "PhiForCausalLM", {**DECODER, "qk_layernorm": True},
     {"hidden_size": 36, "num_attention_heads": 3}, "value = hidden_size / num_attention_heads would change"),
    ("query-key-norms.md", "NanoChatForCausalLM", {**DECODER, "head_dim": 8}, {"head_dim": 12}, "have no gain"),
    ("post-norm.md", "BertModel", ENCODER, {"hidden_size": 40, "num_attention_heads": 5}, "nearest: 24, 48"),
    ("post-norm.md", "ElectraModel", {**ENCODER, "embedding_size": 16},
     {"num_hidden_layers": 3, "new_layers_at": [0]}, "no norm before it hands over its gain"),
    ("experts.md", "MixtralForCausalLM", {**DECODER, "num_local_experts": 4}, {"num_local_experts": 5},
     "more experts change what the router picks"),
    ("grouped-queries.md", "LlamaForCausalLM", {**DECODER, "num_attention_heads": 28, "hidden_size": 112,
     "num_key_value_heads": 4}, {"num_attention_heads": 30}, "nearest: 28, 32"),
    ("ties-and-constants.md", "OlmoForCausalLM", {**DECODER, "tie_word_embeddings": True},
     {"hidden_size": 40, "num_attention_heads": 5}, "Untie them first"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("page", "name", "config", "request_", "message"),
    REFUSED,
    ids=[f"{p[:-3]}-{n}-{i}" for i, (p, n, *_) in enumerate(REFUSED)],
)
def test_it_is_refused(page: str, name: str, config: dict[str, Any], request_: dict[str, Any], message: str) -> None:
    model_class = getattr(transformers, name)
    model = model_class(model_class.config_class(**config))
    with pytest.raises(growformer.GrowformerError, match=re.escape(message)):
        growformer.plan(model, **request_)
    assert "refused" in (FOLDER / page).read_text(encoding="utf-8").lower()
