"""DeepSeek and its like: latent attention, and experts in later layers, one of which is always asked."""

from typing import Any

from growformer.architecture.declaration import Rotary, rms_norm
from growformer.architecture.families.experts import (
    ASKED,
    FIRST_DENSE,
    LATER,
    LISTED,
    LISTS,
    NEXT,
    NO_MORE_EXPERTS,
    experts,
    gated,
    packed,
    some_experts,
)
from growformer.architecture.families.latent import YOUTU, latent_attention
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import HALVES, INTERLEAVED

SIZES = {
    "expert_mlp": "moe_intermediate_size",
    "shared_mlp": "moe_intermediate_size * n_shared_experts",
    "expert": "n_routed_experts",
}

DEEPSEEK_V2 = YOUTU.extend(
    "deepseek_v2",
    model_types=("deepseek_v2",),
    variant=None,
    multiples=LLAMA.multiples,
    sizes={
        **SIZES,
        # The class views what it rotates as complex numbers, which must begin at an even place.
        "half_nope": "qk_nope_head_dim / 2",
        "half_latent": "kv_lora_rank / 2",
    },
    arrows=some_experts(LATER, shared="shared_experts", bias="mlp_bias"),
    packed=packed(),
    kinds=(FIRST_DENSE,),
    defaults={
        "num_experts_per_tok": 6, "first_k_dense_replace": 0, "n_shared_experts": 2, "n_routed_experts": 64,
        "tie_word_embeddings": False, "num_key_value_heads": "num_attention_heads", "initializer_range": 0.02,
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip

_ROUTED: dict[str, Any] = {"shared": "shared_experts", "correction": "gate.e_score_correction_bias"}

DEEPSEEK_V3 = DEEPSEEK_V2.extend(
    "deepseek_v3",
    model_types=("deepseek_v3",),
    variant="rope_interleave",
    multiples=(),
    sizes={"half_nope": None, "half_latent": None},
    arrows=some_experts(LATER, **_ROUTED),
    beyond=NEXT,
    defaults={
        "num_experts_per_tok": 8, "first_k_dense_replace": 3, "n_shared_experts": 1, "n_routed_experts": 256,
        "num_nextn_predict_layers": 1, "num_key_value_heads": 128,
    },
)  # fmt: skip
DEEPSEEK_V3_HALVES = DEEPSEEK_V3.extend(
    "deepseek_v3_halves", variant="not rope_interleave", arrows=latent_attention(HALVES)
)

_INTERLEAVED = {"rope_interleave": (True, "a rotation of halves against each other is described for DeepSeek-V3 only")}

SARVAM_MLA = DEEPSEEK_V3.extend(
    "sarvam_mla",
    model_types=("sarvam_mla",),
    variant=None,
    constants=_INTERLEAVED,
    defaults={
        "first_k_dense_replace": 1, "n_routed_experts": 128, "num_nextn_predict_layers": 0, "initializer_range": 0.006,
        "num_key_value_heads": "num_attention_heads",
    },
    aliases={"num_experts": "n_routed_experts", "num_shared_experts": "n_shared_experts"},
)  # fmt: skip

_HEAD = "qk_nope_head_dim + qk_rope_head_dim"
MISTRAL4 = DEEPSEEK_V3.extend(
    "mistral4",
    model_types=("mistral4",),
    variant=None,
    constants=_INTERLEAVED,
    arrows={**some_experts(LATER, shared="shared_experts"), "layers.{layer}.mlp.gate.e_score_correction_bias": None},
    rotary=(Rotary(frequency="freq", fraction="partial_rotary_factor", of=_HEAD),),
    beyond={"layer": None},
    defaults={
        "num_experts_per_tok": 4, "first_k_dense_replace": 0, "n_routed_experts": 128, "num_key_value_heads": 32,
        "head_dim": _HEAD, "partial_rotary_factor": f"qk_rope_head_dim / ({_HEAD})",
    },
    fixed={"freq": "what is rotated is a share of all heads' size (partial_rotary_factor), and is kept as it is"},
    follows={"head_dim": _HEAD},
)  # fmt: skip

GLM4_MOE_LITE = DEEPSEEK_V3.extend(
    "glm4_moe_lite",
    model_types=("glm4_moe_lite",),
    variant=None,
    constants=_INTERLEAVED,
    arrows=some_experts(LISTED, **_ROUTED),
    kinds=(),
    layer_lists=LISTS,
    layer_rules={"mlp_layer_types": "'sparse' if layer else 'dense'"},
    defaults={"num_experts_per_tok": 4, "rms_norm_eps": 1e-5, "n_routed_experts": 64, "num_key_value_heads": 20},
)

AXK1 = DEEPSEEK_V3.extend(
    "axk1",
    model_types=("axk1",),
    variant=None,
    constants=_INTERLEAVED,
    arrows={
        **latent_attention(INTERLEAVED, always=True),
        "layers.{layer}.self_attn.q_proj": None,
        **gated("mlp", "mlp", when=f"not ({LISTED})"),
        **experts(when=LISTED, writes="mlp_raw:stream", **_ROUTED),
        "layers.{layer}.mlp.post_mlp_layernorm": rms_norm("mlp_raw -> stream", eps="rms_norm_eps", when=LISTED),
    },
    kinds=(),
    layer_lists=LISTS,
    layer_rules={
        "mlp_layer_types": "'sparse' if layer >= first_k_dense_replace and layer % moe_layer_freq == 0 else 'dense'"
    },
    renames=((r"(layers\.\d+)\.post_mlp_layernorm\.", r"\1.mlp.post_mlp_layernorm."),),
    defaults={"first_k_dense_replace": 1, "moe_layer_freq": 1, "n_routed_experts": 192, "num_key_value_heads": 64},
)
