"""Gemma: gains stored as 1 + w, embeddings times the rounded root of their size; later ones norm branches twice."""

from growformer.architecture.declaration import Add, Rotary, embedding, rms_norm
from growformer.architecture.families.llama import LLAMA, PLAIN_MLP
from growformer.architecture.families.parts import MULTIPLE_OF_HEADS, attention, gated_mlp, rotary_heads

_EPS = "rms_norm_eps"
_EMBEDDED = Add(source="embedded", target="stream", factor="sqrt(hidden_size)", rounded="embed_tokens.weight")
_SCALE = "1 / sqrt(query_pre_attn_scalar)"

GEMMA = LLAMA.extend(
    "gemma",
    model_types=("gemma",),
    multiples=(),
    arrows={
        "embed_tokens": embedding("vocab -> embedded:stream"),
        "layers.{layer}.input_layernorm": rms_norm("stream -> normed", eps=_EPS, offset=1),
        "layers.{layer}.post_attention_layernorm": rms_norm("stream -> mlp_normed", eps=_EPS, offset=1),
        **PLAIN_MLP,
        "norm": rms_norm("stream -> final", eps=_EPS, offset=1),
    },
    adds=(_EMBEDDED,),
    defaults={"num_key_value_heads": 16, "head_dim": 256, "tie_word_embeddings": True},
)

VAULTGEMMA = GEMMA.extend(
    "vaultgemma",
    model_types=("vaultgemma",),
    multiples=MULTIPLE_OF_HEADS,
    arrows={
        "layers.{layer}.post_attention_layernorm": None,
        "layers.{layer}.pre_feedforward_layernorm": rms_norm("stream -> mlp_normed", eps=_EPS, offset=1),
    },
    attention=rotary_heads(scale=_SCALE)["attention"],
    defaults={"query_pre_attn_scalar": 256, "num_key_value_heads": 4},
    layer_rules={"layer_types": "'sliding_attention' if (layer + 1) % 2 else 'full_attention'"},
)

GEMMA2 = VAULTGEMMA.extend(
    "gemma2",
    model_types=("gemma2",),
    arrows={
        **attention(bias="attention_bias", out="attention_bias", writes="attn_raw:stream"),
        "layers.{layer}.post_attention_layernorm": rms_norm("attn_raw -> stream", eps=_EPS, offset=1),
        **gated_mlp(writes="mlp_raw:stream"),
        "layers.{layer}.post_feedforward_layernorm": rms_norm("mlp_raw -> stream", eps=_EPS, offset=1),
    },
)

GEMMA3 = GEMMA2.extend(
    "gemma3",
    model_types=("gemma3_text",),
    arrows={
        **attention(bias="attention_bias", out="attention_bias", raw=True, writes="attn_raw:stream"),
        "layers.{layer}.self_attn.q_norm": rms_norm("q_raw -> q", over="(pair freq)", eps=_EPS, offset=1),
        "layers.{layer}.self_attn.k_norm": rms_norm("k_raw -> k", over="(pair freq)", eps=_EPS, offset=1),
    },
    rotary=(
        Rotary(
            frequency="freq",
            legacy={"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
        ),
    ),
    defaults={"sliding_window_pattern": 6, "rope_theta": 1e6, "rope_local_base_freq": 1e4},
    layer_rules={"layer_types": "'sliding_attention' if (layer + 1) % sliding_window_pattern else 'full_attention'"},
)
