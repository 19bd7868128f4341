"""Gemma: gains stored as 1 + w, embeddings times the rounded root of the hidden size; later ones norm branches twice."""

from growformer.architecture.declaration import Add, Attention, Rotary, embedding, linear, rms_norm
from growformer.architecture.families.llama import LLAMA, PLAIN_MLP

_EPS = "rms_norm_eps"
_EMBEDDED = Add(source="embedded", target="stream", factor="sqrt(hidden_size)", rounded="embed_tokens.weight")

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
    defaults={"head_dim": 256, "tie_word_embeddings": True},
)

GEMMA2 = GEMMA.extend(
    "gemma2",
    model_types=("gemma2",),
    arrows={
        "layers.{layer}.self_attn.o_proj": linear(
            "attended:(kv_heads group value) -> attn_raw:stream", bias="attention_bias"
        ),
        "layers.{layer}.post_attention_layernorm": rms_norm("attn_raw -> stream", eps=_EPS, offset=1),
        "layers.{layer}.pre_feedforward_layernorm": rms_norm("stream -> mlp_normed", eps=_EPS, offset=1),
        "layers.{layer}.mlp.down_proj": linear("mlp -> mlp_raw:stream"),
        "layers.{layer}.post_feedforward_layernorm": rms_norm("mlp_raw -> stream", eps=_EPS, offset=1),
    },
    attention=(
        Attention(
            query="q", key="k", value="v", output="attended", over=("pair", "freq"),
            scale="1 / sqrt(query_pre_attn_scalar)",
        ),
    ),
    defaults={"query_pre_attn_scalar": 256, "num_key_value_heads": 4},
    layer_rules={"layer_types": "'sliding_attention' if (layer + 1) % 2 else 'full_attention'"},
)  # fmt: skip

GEMMA3 = GEMMA2.extend(
    "gemma3",
    model_types=("gemma3_text",),
    arrows={
        "layers.{layer}.self_attn.q_proj": linear("normed -> q_raw:(kv_heads group pair freq)", bias="attention_bias"),
        "layers.{layer}.self_attn.k_proj": linear("normed -> k_raw:(kv_heads pair freq)", bias="attention_bias"),
        "layers.{layer}.self_attn.q_norm": rms_norm("q_raw -> q", over="(pair freq)", eps=_EPS, offset=1),
        "layers.{layer}.self_attn.k_norm": rms_norm("k_raw -> k", over="(pair freq)", eps=_EPS, offset=1),
    },
    rotary=(
        Rotary(
            frequency="freq",
            legacy={"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
        ),
    ),
    defaults={"sliding_window_pattern": 6},
    layer_rules={"layer_types": "'sliding_attention' if (layer + 1) % sliding_window_pattern else 'full_attention'"},
)
