"""OLMoE and FlexOlmo: experts in every layer, and norms on queries and keys over all heads together."""

from growformer.architecture.declaration import Attention, Coupling, linear, rms_norm
from growformer.architecture.families.experts import NO_MLP, NO_MORE_EXPERTS, experts, packed
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.olmo import OLMO2

_HEAD = "hidden_size / num_attention_heads"
_SIZES = {"mlp": None, "expert_mlp": "intermediate_size", "expert": "num_experts"}

OLMOE = LLAMA.extend(
    "olmoe",
    model_types=("olmoe",),
    multiples=(),
    sizes={**_SIZES, "freq": f"{_HEAD} / 2", "value": _HEAD},
    arrows={
        "layers.{layer}.self_attn.q_proj": linear("normed -> q_raw:(kv_heads group pair freq)", bias="attention_bias"),
        "layers.{layer}.self_attn.k_proj": linear("normed -> k_raw:(kv_heads pair freq)", bias="attention_bias"),
        "layers.{layer}.self_attn.q_norm": rms_norm(
            "q_raw -> q", over="(kv_heads group pair freq)", eps="rms_norm_eps"
        ),
        "layers.{layer}.self_attn.k_norm": rms_norm("k_raw -> k", over="(kv_heads pair freq)", eps="rms_norm_eps"),
        **NO_MLP,
        **experts(),
    },
    packed=packed(),
    attention=(
        Attention(query="q", key="k", value="v", output="attended", over=("pair", "freq"), scale=f"1 / sqrt({_HEAD})"),
    ),
    coupled=(
        Coupling(
            field="num_attention_heads", keeps="value", formula="hidden_size / keep",
            because="OLMoE norms as many queries as hidden_size, so a head has hidden_size / num_attention_heads",
        ),
    ),
    defaults={"head_dim": None, "rms_norm_eps": 1e-5, "num_experts": 64, "clip_qkv": None},
    constants={"clip_qkv": (None, "clipped queries, keys and values change when they are rescaled")},
    fixed=NO_MORE_EXPERTS,
    roles={"key": None, "value": None},
)  # fmt: skip

FLEX_OLMO = OLMO2.extend(
    "flex_olmo",
    model_types=("flex_olmo",),
    sizes=_SIZES,
    arrows={
        **NO_MLP,
        **experts(reads="stream", writes="mlp_raw:stream"),
    },
    packed=packed(),
    defaults={"rms_norm_eps": 1e-6, "num_experts": 7},
    fixed=NO_MORE_EXPERTS,
)
