"""Experts behind attention with normed heads: in layers that the config lists (EXAONE-MoE, HY v3), or all (Kolibri)."""

from typing import Any

from growformer.architecture.declaration import rms_norm
from growformer.architecture.families.experts import (
    ASKED,
    LISTED,
    LISTS,
    NEXT,
    NO_MLP,
    NO_MORE_EXPERTS,
    NO_NEXT_TOKENS,
    experts,
    packed,
    some_experts,
)
from growformer.architecture.families.llama import QWEN3
from growformer.architecture.families.parts import attention, rotary_heads

_ROUTED: dict[str, Any] = {"shared": "shared_experts", "correction": "gate.e_score_correction_bias"}
_SIZES = {
    "expert_mlp": "moe_intermediate_size",
    "shared_mlp": "moe_intermediate_size * num_shared_experts",
    "expert": "num_experts",
}

EXAONE_MOE = QWEN3.extend(
    "exaone_moe",
    model_types=("exaone_moe",),
    sizes=_SIZES,
    arrows={**attention(raw=True), **some_experts(LISTED, **_ROUTED)},
    packed=packed(),
    renames=((r"\.mlp\.e_score_correction_bias", ".mlp.gate.e_score_correction_bias"),),
    layer_lists=LISTS,
    layer_rules={
        "layer_types": "'sliding_attention' if sliding_window_pattern and (layer + 1) % sliding_window_pattern "
        "else 'full_attention'",
        "mlp_layer_types": "'dense' if layer < first_k_dense_replace else 'sparse'",
    },
    defaults={
        "num_experts_per_tok": 8, "head_dim": "hidden_size / num_attention_heads", "rms_norm_eps": 1e-5,
        "num_experts": 64, "num_shared_experts": 1, "first_k_dense_replace": 1, "sliding_window_pattern": 4,
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
    ignored={r"mtp\..*": NO_NEXT_TOKENS},
)  # fmt: skip

HY_V3 = QWEN3.extend(
    "hy_v3",
    model_types=("hy_v3",),
    sizes=_SIZES,
    arrows=some_experts(LISTED, bias="mlp_bias", shared="shared_experts", correction="e_score_correction_bias"),
    packed=packed(),
    rotary=rotary_heads(theta=11158840.0)["rotary"],
    renames=(
        (r"\.mlp\.router\.gate\.", ".mlp.gate."),
        (r"\.mlp\.expert_bias", ".mlp.e_score_correction_bias"),
        (r"\.mlp\.shared_mlp\.", ".mlp.shared_experts."),
    ),
    beyond=NEXT,
    layer_lists=LISTS,
    layer_rules={"layer_types": None, "mlp_layer_types": "'sparse' if layer else 'dense'"},
    defaults={
        "num_experts_per_tok": 8, "head_dim": 128, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "num_experts": 192,
        "num_shared_experts": 1, "num_nextn_predict_layers": 1, "initializer_range": 0.006,
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip

KOLIBRI1 = QWEN3.extend(
    "kolibri1",
    model_types=("kolibri1",),
    sizes={
        "mlp": None, "expert_mlp": "moe_intermediate_size", "shared_mlp": "shared_expert_intermediate_size",
        "expert": "num_local_experts",
    },
    arrows={
        **attention(raw=True, writes="attn_raw:stream"),
        "layers.{layer}.post_self_attn_layernorm": rms_norm("attn_raw -> stream", eps="rms_norm_eps"),
        **NO_MLP,
        **experts(writes="mlp_raw:stream", **_ROUTED),
        "layers.{layer}.post_mlp_layernorm": rms_norm("mlp_raw -> stream", eps="rms_norm_eps"),
    },
    packed=packed(),
    renames=(
        (r"\.moe\.router\.expert_bias", ".mlp.gate.e_score_correction_bias"),
        (r"\.post_attn_norm\.", ".post_self_attn_layernorm."),
        (r"\.post_ffn_norm\.", ".post_mlp_layernorm."),
    ),
    layer_rules={"layer_types": "'sliding_attention' if (layer + 1) % 5 else 'full_attention'"},
    defaults={"num_experts_per_tok": 6, "num_key_value_heads": 4, "sliding_window": 513, "num_local_experts": 384},
    aliases={"num_experts": "num_local_experts"},
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
    roles={"mlp": "moe_intermediate_size"},
)  # fmt: skip
