"""Muse Glimmer: Gemma 2 with gated attention, and norms without gain on the embedding, on queries and on keys."""

from growformer.architecture.declaration import embedding, linear, rms_norm
from growformer.architecture.families.gemma import GEMMA2
from growformer.architecture.families.parts import attention, rotary_heads

_EPS, _POST_EPS = "rms_norm_eps", "post_norm_eps"
_ATTENTION = "layers.{layer}.self_attn"
_WHOLE = "num_hidden_layers - 1 - layer"

MUSE_GLIMMER = GEMMA2.extend(
    "muse_glimmer",
    model_types=("muse_glimmer_text",),
    arrows={
        "embed_tokens": embedding("vocab -> embedded:stream"),
        "embed_tokens.embed_norm": rms_norm("embedded -> stream", eps=_EPS, gain=False),
        **attention(bias="attention_bias", out="attention_bias", raw=True, writes="attn_raw:stream"),
        f"{_ATTENTION}.q_norm": rms_norm("q_raw -> q", over="(pair freq)", eps=_EPS, gain=False),
        f"{_ATTENTION}.k_norm": rms_norm("k_raw -> k", over="(pair freq)", eps=_EPS, gain=False),
        f"{_ATTENTION}.gate_proj": linear("normed -> attended:(kv_heads group value)"),
        "layers.{layer}.post_attention_layernorm": rms_norm("attn_raw -> stream", eps=_POST_EPS, offset=1),
        "layers.{layer}.post_feedforward_layernorm": rms_norm("mlp_raw -> stream", eps=_POST_EPS, offset=1),
        "norm": rms_norm("stream -> final", eps=_EPS),
    },
    adds=(),
    attention=rotary_heads()["attention"],
    layer_lists=("layer_types", "layer_rope_theta"),
    layer_rules={
        "layer_types": f"'sliding_attention' if ({_WHOLE}) % 4 else 'full_attention'",
        "layer_rope_theta": f"rope_parameters['rope_theta'] if ({_WHOLE}) % 4 else 0",
    },
    defaults={
        "num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1e-5, "post_norm_eps": 1e-8,
        "tie_word_embeddings": False, "query_pre_attn_scalar": None,
        "rope_parameters": {"rope_theta": 10000.0},
    },
    fixed={
        "freq": "its norms of queries and keys have no gain that could make up for more of them",
        "value": "a value is as large as a key",
    },
)  # fmt: skip
