"""OLMo: the first has LayerNorms without parameters, later ones norm what a branch gives, and Q and K over all heads."""

from growformer.architecture.declaration import layer_norm, linear, rms_norm
from growformer.architecture.families.llama import LLAMA, PLAIN_MLP

_EPS = 1e-5

OLMO = LLAMA.extend(
    "olmo",
    model_types=("olmo",),
    multiples=(),
    arrows={
        **PLAIN_MLP,
        "layers.{layer}.input_layernorm": layer_norm("stream -> normed", eps=_EPS, gain=False, bias=False),
        "layers.{layer}.post_attention_layernorm": layer_norm("stream -> mlp_normed", eps=_EPS, gain=False, bias=False),
        "norm": layer_norm("stream -> final", eps=_EPS, gain=False, bias=False),
    },
    defaults={"clip_qkv": None},
    constants={"clip_qkv": (None, "clipped queries, keys and values change when they are rescaled")},
)

OLMO2 = LLAMA.extend(
    "olmo2",
    model_types=("olmo2", "olmo3"),
    multiples=(),
    arrows={
        "layers.{layer}.input_layernorm": None,
        "layers.{layer}.self_attn.q_proj": linear("stream -> q_raw:(kv_heads group pair freq)", bias="attention_bias"),
        "layers.{layer}.self_attn.k_proj": linear("stream -> k_raw:(kv_heads pair freq)", bias="attention_bias"),
        "layers.{layer}.self_attn.v_proj": linear("stream -> v:(kv_heads value)", bias="attention_bias"),
        "layers.{layer}.self_attn.o_proj": linear(
            "attended:(kv_heads group value) -> attn_raw:stream", bias="attention_bias"
        ),
        "layers.{layer}.self_attn.q_norm": rms_norm(
            "q_raw -> q", over="(kv_heads group pair freq)", eps="rms_norm_eps"
        ),
        "layers.{layer}.self_attn.k_norm": rms_norm("k_raw -> k", over="(kv_heads pair freq)", eps="rms_norm_eps"),
        "layers.{layer}.post_attention_layernorm": rms_norm("attn_raw -> stream", eps="rms_norm_eps"),
        "layers.{layer}.mlp.gate_proj": linear("stream -> mlp"),
        "layers.{layer}.mlp.up_proj": linear("stream -> mlp"),
        "layers.{layer}.mlp.down_proj": linear("mlp -> mlp_raw:stream"),
        "layers.{layer}.post_feedforward_layernorm": rms_norm("mlp_raw -> stream", eps="rms_norm_eps"),
    },
    defaults={"rms_norm_eps": 1e-5},
)
