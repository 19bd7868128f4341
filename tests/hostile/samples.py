"""Small model folders, written without torch or transformers: every byte of them is known, and so what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from growformer.architecture.registry import for_config
from growformer.architecture.source import from_config
from growformer.storage.folder import INDEX
from growformer.storage.header import DTYPES

CODES = {name: code for code, (name, _) in DTYPES.items()}

_LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 11, "hidden_size": 8,
    "intermediate_size": 12, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2, "num_hidden_layers": 2,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-06, "hidden_act": "silu", "attention_bias": False,
    "mlp_bias": False, "tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "initializer_range": 0.02, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "dtype": "float32",
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "gpt2": {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 11, "n_embd": 8, "n_head": 2,
        "n_layer": 2, "n_positions": 16, "n_inner": None, "layer_norm_epsilon": 1e-05, "tie_word_embeddings": True,
        "activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
        "dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
    },
    "bert": {
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 11, "hidden_size": 8,
        "intermediate_size": 12, "num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 16,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "dtype": "float32",
    },
    "gemma2": {
        **_LLAMA, "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "tie_word_embeddings": True,
        "query_pre_attn_scalar": 4, "sliding_window": 8, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0, "layer_types": ["sliding_attention", "full_attention"],
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "mixtral": {
        **_LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 3,
        "num_experts_per_tok": 2,
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "vocab_size": 11, "hidden_size": 8,
        "intermediate_size": 12, "moe_intermediate_size": 5, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "n_shared_experts": 1, "n_routed_experts": 4, "routed_scaling_factor": 2.5,
        "kv_lora_rank": 6, "q_lora_rank": 7, "qk_rope_head_dim": 4, "v_head_dim": 3, "qk_nope_head_dim": 5,
        "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "norm_topk_prob": True,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "rope_scaling": None,
        "tie_word_embeddings": False, "attention_bias": False, "dtype": "float32",
    },
    "bloom": {
        "model_type": "bloom", "architectures": ["BloomForCausalLM"], "vocab_size": 11, "hidden_size": 8, "n_head": 2,
        "n_layer": 2, "layer_norm_epsilon": 1e-05, "tie_word_embeddings": True, "dtype": "float32",
    },
    "falcon": {
        "model_type": "falcon", "architectures": ["FalconForCausalLM"], "vocab_size": 11, "hidden_size": 8,
        "num_attention_heads": 2, "num_hidden_layers": 2, "alibi": False, "multi_query": True, "parallel_attn": True,
        "bias": False, "new_decoder_architecture": False, "layer_norm_epsilon": 1e-05, "tie_word_embeddings": True,
        "dtype": "float32",
    },
}  # fmt: skip
"""By model type: attention of several kinds, experts, latents, ties, lists of layers, linear biases."""

_POOLER: dict[str, tuple[tuple[int, ...], str]] = {
    "pooler.dense.weight": ((8, 8), "float32"), "pooler.dense.bias": ((8,), "float32"),
}  # fmt: skip
"""Optional, and so not in what a config implies."""

GROWTH = {
    "llama": {"intermediate_size": 14}, "gpt2": {"n_layer": 3}, "bert": {"intermediate_size": 14},
    "gemma2": {"num_hidden_layers": 4}, "mixtral": {"intermediate_size": 14}, "deepseek_v3": {"num_hidden_layers": 3},
    "bloom": {"n_layer": 3}, "falcon": {"num_hidden_layers": 3},
}  # fmt: skip
"""What is asked of them."""


@cache
def tensors(model_type: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return stored name -> (shape, dtype name)."""
    config = CONFIGS[model_type]
    info = from_config(for_config(dict(config)), config)
    found = {t.stored: (t.shape, t.dtype) for t in info.tensors.values()}
    return {**found, **_POOLER} if model_type == "bert" else found


def header_of(shapes: Mapping[str, tuple[tuple[int, ...], str]], **metadata: str) -> dict[str, Any]:
    """Return the header of a file that holds tensors one after another."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for name, (shape, dtype) in shapes.items():
        size = prod(shape) * DTYPES[CODES[dtype]][1]
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    return header


def file_of(header: Mapping[str, Any] | bytes, num_bytes: int | None = None) -> bytes:
    """Return a safetensors file of zeros with a header, be it right or wrong."""
    raw = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    if num_bytes is None:
        assert not isinstance(header, bytes)
        num_bytes = max((e["data_offsets"][1] for n, e in header.items() if n != "__metadata__"), default=0)
    return len(raw).to_bytes(8, "little") + raw + bytes(num_bytes)


def fitting(raw: bytes) -> int:
    """Return how many bytes follow a header, by its largest number: so that a change alone decides."""
    numbers = [int(text) for text in re.findall(rb"\d{1,6}", raw)]
    return max((n for n in numbers if n <= 100_000), default=0)


def write(folder: Path, model_type: str = "llama", /, *, shards: int = 1, **changes: Any) -> Path:
    """Write a model folder, and return it; None removes a field of the config."""
    folder.mkdir(parents=True)
    config = {name: value for name, value in {**CONFIGS[model_type], **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = tensors(model_type)
    if shards == 1:
        (folder / "model.safetensors").write_bytes(file_of(header_of(shapes)))
        return folder
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: info for at, (name, info) in enumerate(shapes.items()) if at % shards == number}
        (folder / file).write_bytes(file_of(header_of(part)))
        weight_map |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return folder
