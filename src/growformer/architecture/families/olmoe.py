"""OLMoE and FlexOlmo: experts in every layer, and norms on queries and keys over all heads together."""

from growformer.architecture.declaration import rms_norm
from growformer.architecture.families.experts import ASKED, NO_MLP, NO_MORE_EXPERTS, experts, packed
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.olmo import OLMO2
from growformer.architecture.families.parts import HEAD, attention, rotary_heads

_EPS = "rms_norm_eps"
_SIZES = {"mlp": None, "expert_mlp": "intermediate_size", "expert": "num_experts"}
_HEADS = rotary_heads(
    HEAD, because="OLMoE norms as many queries as hidden_size, so a head has hidden_size / num_attention_heads of them"
)

OLMOE = LLAMA.extend(
    "olmoe",
    model_types=("olmoe",),
    multiples=(),
    **{**_HEADS, "sizes": {**_SIZES, **_HEADS["sizes"]}},
    arrows={
        **attention(bias="attention_bias", out="attention_bias", raw=True),
        "layers.{layer}.self_attn.q_norm": rms_norm("q_raw -> q", over="(kv_heads group pair freq)", eps=_EPS),
        "layers.{layer}.self_attn.k_norm": rms_norm("k_raw -> k", over="(kv_heads pair freq)", eps=_EPS),
        **NO_MLP,
        **experts(),
    },
    packed=packed(),
    defaults={"num_experts_per_tok": 8, "rms_norm_eps": 1e-5, "num_experts": 64, "clip_qkv": None},
    constants={"clip_qkv": (None, "clipped queries, keys and values change when they are rescaled")},
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)

FLEX_OLMO = OLMO2.extend(
    "flex_olmo",
    model_types=("flex_olmo",),
    sizes=_SIZES,
    arrows={**NO_MLP, **experts(reads="stream", writes="mlp_raw:stream")},
    packed=packed(),
    rotary=rotary_heads(theta=5e5)["rotary"],
    defaults={"num_experts_per_tok": 5, "rms_norm_eps": 1e-6, "num_experts": 7},
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)
