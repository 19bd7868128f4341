"""MiMo-V2: layers with a sliding window have twice the key-value heads, and a sink per query head."""

from dataclasses import replace

from growformer.architecture.declaration import parameter
from growformer.architecture.families.experts import (
    ASKED,
    LAYER,
    LISTED,
    LISTS,
    NO_MORE_EXPERTS,
    NO_NEXT_TOKENS,
    packed,
    some_experts,
)
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import attention
from growformer.architecture.families.whole_heads import NO_PLANES, SIZES, scores

_SCORES = scores(theta=5e6)
_SLIDING = "layer_types[layer] == 'sliding_attention'"
_KV_HEADS = f"num_key_value_heads * (2 if {_SLIDING} else 1)"

MIMO_V2_FLASH = LLAMA.extend(
    "mimo_v2_flash",
    model_types=("mimo_v2_flash",),
    multiples=(),
    sizes={
        **SIZES,
        "value": "v_head_dim",
        "kv_heads": _KV_HEADS,
        "group": f"num_attention_heads / ({_KV_HEADS})",
        "expert_mlp": "moe_intermediate_size",
        "expert": "n_routed_experts",
    },
    arrows={
        **attention("key", bias="attention_bias"),
        f"{LAYER}.self_attn.sinks": parameter("-> sinks:(kv_heads group)", when=_SLIDING),
        **some_experts(LISTED, correction="gate.e_score_correction_bias"),
    },
    packed=packed(),
    attention=(replace(_SCORES["attention"][0], per_head=("sinks",)),),
    rotary=_SCORES["rotary"],
    layer_lists=LISTS,
    layer_rules={
        "layer_types": "'sliding_attention' if layer and (layer + 1) % 6 else 'full_attention'",
        "mlp_layer_types": "'sparse' if layer else 'dense'",
    },
    renames=((r"\.self_attn\.attention_sink_bias", ".self_attn.sinks"),),
    defaults={
        "num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128, "rms_norm_eps": 1e-5, "n_routed_experts": 256,
        "num_experts_per_tok": 8, "partial_rotary_factor": 0.334,
    },
    active=ASKED,
    fixed={
        **NO_MORE_EXPERTS,
        **NO_PLANES,
        "key": "layers of either kind may rotate another share of a head, and no one share is right for a larger one",
    },
    roles={"key": "head_dim", "value": "v_head_dim"},
    ignored={r"(model\.)?mtp\..*": NO_NEXT_TOKENS},
)  # fmt: skip
