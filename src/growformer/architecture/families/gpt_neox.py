"""GPT-NeoX: LayerNorm, attention and MLP beside each other or in a row, QKV fused per head, part of a head rotated.

The Japanese one has no biases but for one behind the last layer's attention.
"""

from growformer.architecture.declaration import (
    Architecture,
    Attention,
    LayerKind,
    Rotary,
    embedding,
    layer_norm,
    linear,
    parameter,
)
from growformer.architecture.families.gpt2 import HEADS, LABELS, VOCAB, no_head_dim

_EPS = "layer_norm_eps"
_HEAD = "hidden_size / num_attention_heads"

GPT_NEOX = Architecture(
    name="gpt_neox",
    model_types=("gpt_neox",),
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "stream": "hidden_size",
        "mlp": "intermediate_size",
        "heads": "num_attention_heads",
        "pair": "2",
        "freq": f"int({_HEAD} * partial_rotary_factor) / 2",
        "rest": f"{_HEAD} - int({_HEAD} * partial_rotary_factor)",
        "value": _HEAD,
        "labels": "labels",
    },
    arrows={
        "embed_in": embedding("vocab -> stream"),
        "layers.{layer}.input_layernorm": layer_norm("stream -> normed", eps=_EPS),
        "layers.{layer}.attention.query_key_value": linear(
            "normed -> (heads [[q:(pair freq) q_rest:rest] [k:(pair freq) k_rest:rest] v:value])", bias="attention_bias"
        ),
        "layers.{layer}.attention.dense": linear("attended:(heads value) -> stream", bias="attention_bias"),
        "layers.{layer}.post_attention_layernorm": layer_norm("stream -> mlp_normed", eps=_EPS),
        "layers.{layer}.mlp.dense_h_to_4h": linear("mlp_normed -> mlp", bias=True),
        "layers.{layer}.mlp.dense_4h_to_h": linear("mlp -> stream", bias=True),
        "final_layer_norm": layer_norm("stream -> final", eps=_EPS),
        "lm_head": linear("final -> vocab", optional=True),
        **HEADS,
    },
    attention=(
        Attention(
            query=("q", "q_rest"), key=("k", "k_rest"), value="v", output="attended", over=("pair", "freq", "rest"),
            scale=f"1 / sqrt({_HEAD})",
        ),
    ),
    rotary=(Rotary(frequency="freq", fraction="partial_rotary_factor", of=_HEAD, legacy_fraction="rotary_pct"),),
    ties={"lm_head.weight": "embed_in.weight"},
    tie_field="tie_word_embeddings",
    defaults={
        "rotary_pct": 0.25,
        "partial_rotary_factor": "rotary_pct",
        "layer_norm_eps": 1e-5,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
    },
    inferred=("labels",),
    coupled=no_head_dim("GPT-NeoX", "hidden_size", "num_attention_heads", keeps="value"),
    fixed={**VOCAB, **LABELS, "pair": "a rotary plane has two coordinates"},
    roles={
        "hidden": "hidden_size",
        "mlp": "intermediate_size",
        "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
    },
    prefix="gpt_neox",
    heads=("lm_head", *HEADS),
    renames=((r"^embed_out\.", "lm_head."),),
    ignored={
        r"(gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias)": "a causal mask that older versions stored",
        r"(.*\.)?rotary_emb\.inv_freq": "a buffer of older versions, computed from the config today",
    },
)  # fmt: skip

_LAST = "layer == num_hidden_layers - 1"

GPT_NEOX_JAPANESE = GPT_NEOX.extend(
    "gpt_neox_japanese",
    model_types=("gpt_neox_japanese",),
    sizes={"mlp": "hidden_size * intermediate_multiple_size"},
    arrows={
        "layers.{layer}.attention.query_key_value": linear(
            "normed -> (heads [[q:(pair freq) q_rest:rest] [k:(pair freq) k_rest:rest] v:value])"
        ),
        "layers.{layer}.attention.dense": linear("attended:(heads value) -> stream"),
        "layers.{layer}.attention.dense_bias": parameter("-> stream", when=_LAST),
        "layers.{layer}.mlp.dense_h_to_4h": linear("mlp_normed -> mlp"),
        "layers.{layer}.mlp.dense_4h_to_h": linear("mlp -> stream"),
        "lm_head": None,
        "embed_out": linear("final -> vocab", optional=True),
        **dict.fromkeys(HEADS),
    },
    ties={"lm_head.weight": None, "embed_out.weight": "embed_in.weight"},
    defaults={"rotary_pct": 1.0, "tie_word_embeddings": True, "intermediate_multiple_size": 4},
    coupled=no_head_dim("GPT-NeoX Japanese", "hidden_size", "num_attention_heads", keeps="value"),
    kinds=(LayerKind(when=_LAST, because="only the last layer has a dense_bias, so new layers go in front of it"),),
    roles={"mlp": None},
    prefix="gpt_neox_japanese",
    heads=("embed_out",),
    renames=(),
    ignored={r"(gpt_neox_japanese\.)?layers\.\d+\.attention\.(bias|masked_bias)": "a causal mask of older versions"},
)
