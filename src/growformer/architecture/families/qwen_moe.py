"""Qwen's mixtures of experts: some layers have experts, and Qwen2-MoE a gated expert that is always asked as well."""

from typing import Any

from growformer.architecture.declaration import linear, parameter
from growformer.architecture.families.experts import (
    ASKED,
    LISTED,
    LISTS,
    NEXT,
    NO_MORE_EXPERTS,
    NO_NEXT_TOKENS,
    SPARSE,
    STEPS,
    packed,
    some_experts,
)
from growformer.architecture.families.llama import QWEN2, QWEN3
from growformer.architecture.families.parts import attention, rotary_heads

_SIZES = {"expert_mlp": "moe_intermediate_size"}
_SHARED = {"shared_mlp": "shared_expert_intermediate_size"}

QWEN2_MOE = QWEN2.extend(
    "qwen2_moe",
    model_types=("qwen2_moe",),
    sizes={**_SIZES, **_SHARED, "expert": "num_experts"},
    arrows={
        **attention(bias="qkv_bias"),
        **some_experts(SPARSE, shared="shared_expert"),
        "layers.{layer}.mlp.shared_expert_gate": linear("mlp_normed -> shared_gate:-", when=SPARSE),
    },
    packed=packed(),
    kinds=(STEPS,),
    layer_rules={
        "layer_types": "'sliding_attention' if use_sliding_window and (layer + 1) % 2 and layer < max_window_layers "
        "else 'full_attention'"
    },
    defaults={
        "num_experts_per_tok": 4, "num_experts": 60, "qkv_bias": True, "mlp_only_layers": [], "decoder_sparse_step": 1,
        "num_key_value_heads": 16,
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip

QWEN3_MOE = QWEN3.extend(
    "qwen3_moe",
    model_types=("qwen3_moe",),
    sizes={**_SIZES, "expert": "num_local_experts"},
    arrows=some_experts(SPARSE),
    packed=packed(),
    kinds=(STEPS,),
    layer_lists=(),
    layer_rules={"layer_types": None},
    defaults={
        "num_experts_per_tok": 8, "num_local_experts": 128, "mlp_only_layers": [], "decoder_sparse_step": 1,
        "num_key_value_heads": 4, "head_dim": "hidden_size / num_attention_heads",
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
    aliases={"num_experts": "num_local_experts"},
)  # fmt: skip


def _base(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


MELLUM = QWEN3_MOE.extend(
    "mellum",
    model_types=("mellum",),
    arrows=some_experts(LISTED),
    rotary=rotary_heads(implied={"full_attention": _base(5e5), "sliding_attention": _base(1e4)})["rotary"],
    kinds=(),
    layer_lists=LISTS,
    layer_rules={"layer_types": "'full_attention'", "mlp_layer_types": "'sparse'"},
    defaults={"head_dim": 128, "num_local_experts": 64, "sliding_window": 1024},
    beyond=NEXT,
    ignored={r"mtp\..*": NO_NEXT_TOKENS},
)

FLINT = QWEN3_MOE.extend(
    "flint",
    model_types=("flint",),
    sizes={**_SHARED, "expert": "num_experts"},
    arrows={
        "layers.{layer}.self_attn.sinks": parameter("-> sinks:(kv_heads group)"),
        **some_experts(SPARSE, shared="shared_expert"),
    },
    attention=rotary_heads(per_head=("sinks",))["attention"],
    renames=((r"\.self_attn\.softmax_offset", ".self_attn.sinks"),),
    layer_lists=("layer_types",),
    layer_rules={
        "layer_types": "'full_attention' if layer < 2 or layer % 4 == 1 or layer == num_hidden_layers - 1 "
        "else 'sliding_attention'"
    },
    defaults={
        "num_experts_per_tok": 6, "head_dim": 128, "num_experts": 256, "mlp_only_layers": [0, 1], "sliding_window": 513,
    },
    aliases={"num_experts": None},
)  # fmt: skip

# Frequencies follow three kinds of position, which alternate up to where the sections end: new ones follow time.
QWEN3_VL_MOE = QWEN3_MOE.extend(
    "qwen3_vl_moe",
    model_types=("qwen3_vl_moe_text",),
    rotary=rotary_heads(theta=5e5)["rotary"],
    defaults={
        "num_experts_per_tok": 4, "num_key_value_heads": 16, "num_local_experts": 60, "tie_word_embeddings": True,
    },
)  # fmt: skip

QWEN3_OMNI_MOE = QWEN3_MOE.extend(
    "qwen3_omni_moe",
    model_types=("qwen3_omni_moe_text",),
    sizes={"expert": "num_experts"},
    rotary=rotary_heads(theta=1e6)["rotary"],
    defaults={"num_experts": 128, "num_local_experts": None},
    aliases={"num_experts": None},
)
