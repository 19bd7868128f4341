"""OLMo: LayerNorms without parameters at first; later ones norm what a branch gives, and Q and K over all heads."""

from growformer.architecture.declaration import layer_norm, rms_norm
from growformer.architecture.families.llama import LLAMA, PLAIN_MLP
from growformer.architecture.families.parts import attention, gated_mlp, rotary_heads

_EPS = "rms_norm_eps"

OLMO = LLAMA.extend(
    "olmo",
    model_types=("olmo",),
    multiples=(),
    arrows={
        **PLAIN_MLP,
        "layers.{layer}.input_layernorm": layer_norm("stream -> normed", eps=1e-5, gain=False, bias=False),
        "layers.{layer}.post_attention_layernorm": layer_norm("stream -> mlp_normed", eps=1e-5, gain=False, bias=False),
        "norm": layer_norm("stream -> final", eps=1e-5, gain=False, bias=False),
    },
    defaults={"clip_qkv": None},
    constants={"clip_qkv": (None, "clipped queries, keys and values change when they are rescaled")},
)

OLMO2 = LLAMA.extend(
    "olmo2",
    model_types=("olmo2",),
    multiples=(),
    arrows={
        "layers.{layer}.input_layernorm": None,
        **attention(bias="attention_bias", out="attention_bias", raw=True, reads="stream", writes="attn_raw:stream"),
        "layers.{layer}.self_attn.q_norm": rms_norm("q_raw -> q", over="(kv_heads group pair freq)", eps=_EPS),
        "layers.{layer}.self_attn.k_norm": rms_norm("k_raw -> k", over="(kv_heads pair freq)", eps=_EPS),
        "layers.{layer}.post_attention_layernorm": rms_norm("attn_raw -> stream", eps=_EPS),
        **gated_mlp(reads="stream", writes="mlp_raw:stream"),
        "layers.{layer}.post_feedforward_layernorm": rms_norm("mlp_raw -> stream", eps=_EPS),
    },
    defaults={"rms_norm_eps": 1e-5},
)

_ONE_BASE = {"rope_type": "default", "rope_theta": 5e5}
# Of an older config's base and scaling, layers that look at a window take neither.
OLMO3 = OLMO2.extend(
    "olmo3",
    model_types=("olmo3",),
    rotary=rotary_heads(
        theta=5e5,
        legacy={"full_attention": "rope_theta"},
        implied={"sliding_attention": _ONE_BASE, "full_attention": _ONE_BASE},
    )["rotary"],
    layer_rules={"layer_types": "'sliding_attention' if (layer + 1) % 4 else 'full_attention'"},
)
