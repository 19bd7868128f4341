"""Laguna: a softplus gate on what each head attends to, as many query heads in a layer as the config lists."""

from dataclasses import replace

from growformer.architecture.declaration import linear
from growformer.architecture.families.experts import ASKED, LAYER, LISTED, LISTS, NO_MORE_EXPERTS, packed, some_experts
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.whole_heads import NO_PLANES, SIZES, scores, whole_heads

_SCORES = scores()
_HEAD = "layers of either kind rotate another share of a head, and no one share is right for a larger one"

LAGUNA = LLAMA.extend(
    "laguna",
    model_types=("laguna",),
    variant="gating in (True, 'per-head')",
    multiples=(),
    sizes={
        **SIZES,
        "freq": None,
        "group": "num_attention_heads_per_layer[layer] / num_key_value_heads",
        "expert_mlp": "moe_intermediate_size",
        "shared_mlp": "shared_expert_intermediate_size",
        "expert": "num_experts",
    },
    arrows={
        **whole_heads(bias="attention_bias", out="attention_bias"),
        f"{LAYER}.self_attn.g_proj": linear("normed -> gate:(kv_heads group)"),
        **some_experts(LISTED, shared="shared_experts", correction="gate.e_score_correction_bias"),
    },
    packed=packed(),
    attention=(replace(_SCORES["attention"][0], per_head=("gate",)),),
    rotary=(),
    layer_lists=LISTS,
    layer_rules={
        "layer_types": "'full_attention'",
        "mlp_layer_types": "'sparse' if layer else 'dense'",
        "num_attention_heads_per_layer": "num_attention_heads",
    },
    renames=(
        (r"\.mlp\.experts\.e_score_correction_bias", ".mlp.gate.e_score_correction_bias"),
        (r"\.mlp\.shared_expert\.", ".mlp.shared_experts."),
    ),
    defaults={
        "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "num_experts": 256,
        "num_experts_per_tok": 8, "gating": True,
    },
    active=ASKED,
    fixed={**NO_MORE_EXPERTS, **NO_PLANES, "key": _HEAD, "value": _HEAD},
    roles={"heads": "num_attention_heads_per_layer"},
)  # fmt: skip
LAGUNA_PER_ELEMENT = LAGUNA.extend(
    "laguna_per_element",
    variant="gating not in (True, 'per-head')",
    arrows={f"{LAYER}.self_attn.g_proj": linear("normed -> attended:(kv_heads group value)")},
    attention=_SCORES["attention"],
)
