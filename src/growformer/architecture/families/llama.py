"""Llama and the families that share its layout: RMSNorm before each branch, rotary GQA, gated MLP."""

from growformer.architecture.declaration import Architecture, embedding, linear, parameter, rms_norm
from growformer.architecture.families.parts import (
    MULTIPLE_OF_HEADS,
    attention,
    gated_mlp,
    rotary_heads,
)

_EPS = "rms_norm_eps"
_HEADS = rotary_heads()

LLAMA = Architecture(
    name="llama",
    model_types=("llama",),
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "stream": "hidden_size",
        "mlp": "intermediate_size",
        "kv_heads": "num_key_value_heads",
        "group": "num_attention_heads / num_key_value_heads",
        "pair": "2",
        **_HEADS["sizes"],
        "labels": "labels",
    },
    arrows={
        "embed_tokens": embedding("vocab -> stream"),
        "layers.{layer}.input_layernorm": rms_norm("stream -> normed", eps=_EPS),
        **attention(bias="attention_bias", out="attention_bias"),
        "layers.{layer}.post_attention_layernorm": rms_norm("stream -> mlp_normed", eps=_EPS),
        **gated_mlp(bias="mlp_bias"),
        "norm": rms_norm("stream -> final", eps=_EPS),
        "lm_head": linear("final -> vocab", optional=True),
        "score": linear("final -> labels", optional=True),
        "score.bias": parameter("-> labels", optional=True),
        "qa_outputs": linear("final -> labels", bias=True, optional=True),
    },
    attention=_HEADS["attention"],
    rotary=_HEADS["rotary"],
    multiples=MULTIPLE_OF_HEADS,
    ties={"lm_head.weight": "embed_tokens.weight"},
    tie_field="tie_word_embeddings",
    defaults={
        "num_key_value_heads": "num_attention_heads",
        "head_dim": "hidden_size / num_attention_heads",
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
    },
    inferred=("labels",),
    fixed={
        "vocab": "a larger vocabulary changes the output distribution; use resize_token_embeddings",
        "pair": "a rotary plane has two coordinates",
        "labels": "a classifier's labels are not a size of the model",
    },
    layer_lists=("layer_types",),
    roles={
        "hidden": "hidden_size",
        "mlp": "intermediate_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "key": "head_dim",
        "value": "head_dim",
        "layers": "num_hidden_layers",
    },
    prefix="model",
    heads=("lm_head", "score", "qa_outputs"),
    renames=((r"^transformer\.", "model."),),
    ignored={r"(.*\.)?rotary_emb\.inv_freq": "a buffer of older versions, computed from the config today"},
)

# Classes without the fields attention_bias or mlp_bias; one that stands in the config all the same has no effect.
PLAIN_ATTENTION = attention()
PLAIN_MLP = gated_mlp()

SLIDING = {
    "layer_types": "'sliding_attention' if use_sliding_window and sliding_window and layer >= max_window_layers "
    "else 'full_attention'"
}
SLIDING_DEFAULTS = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}

MISTRAL = LLAMA.extend(
    "mistral",
    multiples=(),
    model_types=("mistral",),
    arrows={**PLAIN_ATTENTION, **PLAIN_MLP},
    defaults={"num_key_value_heads": 8},
)
MINISTRAL = MISTRAL.extend(
    "ministral",
    model_types=("ministral",),
    layer_rules={"layer_types": "'sliding_attention' if sliding_window is not None else 'full_attention'"},
    defaults={"sliding_window": 4096},
)

_YARN = {
    "type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384, "beta_fast": 32.0,
    "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
# Its queries are scaled by their position besides, which no growth touches.
MINISTRAL3 = MISTRAL.extend(
    "ministral3",
    model_types=("ministral3",),
    rotary=rotary_heads(implied=_YARN)["rotary"],
    defaults={"head_dim": 128, "rms_norm_eps": 1e-5},
)

QWEN2 = LLAMA.extend(
    "qwen2",
    layer_rules=SLIDING,
    multiples=(),
    model_types=("qwen2",),
    arrows={**attention(bias=True), **PLAIN_MLP},
    defaults={"num_key_value_heads": 32, **SLIDING_DEFAULTS},
)

QK_NORM = {
    **attention(bias="attention_bias", out="attention_bias", raw=True),
    "layers.{layer}.self_attn.q_norm": rms_norm("q_raw -> q", over="(pair freq)", eps=_EPS),
    "layers.{layer}.self_attn.k_norm": rms_norm("k_raw -> k", over="(pair freq)", eps=_EPS),
}
QWEN3 = LLAMA.extend(
    "qwen3",
    layer_rules=SLIDING,
    multiples=(),
    model_types=("qwen3",),
    arrows={**QK_NORM, **PLAIN_MLP},
    defaults={"head_dim": 128, "num_key_value_heads": 32, **SLIDING_DEFAULTS},
)
