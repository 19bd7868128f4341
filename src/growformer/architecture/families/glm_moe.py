"""GLM-4.5 and its like: DeepSeek's experts (a shared one, a bias on scores) behind attention with grouped heads."""

from growformer.architecture.families.deepseek import NEXT, NO_NEXT, SIZES
from growformer.architecture.families.experts import (
    FIRST_DENSE,
    LATER,
    LISTED,
    LISTS,
    NO_MLP,
    NO_MORE_EXPERTS,
    NO_NEXT_TOKENS,
    experts,
    packed,
    some_experts,
)
from growformer.architecture.families.llama import LLAMA, QWEN3
from growformer.architecture.families.parts import HALVES, attention, rotary_heads
from growformer.architecture.families.whole_heads import NO_PLANES, scores, whole_heads
from growformer.architecture.families.whole_heads import SIZES as WHOLE

_ROUTED = {"shared": "shared_experts", "correction": "gate.e_score_correction_bias"}
_HEADS = rotary_heads(partial=True)

GLM4_MOE = LLAMA.extend(
    "glm4_moe",
    model_types=("glm4_moe",),
    variant="not use_qk_norm",
    multiples=(),
    sizes={**SIZES, **_HEADS["sizes"]},
    arrows={**attention(HALVES, bias="attention_bias", rest=True), **some_experts(LATER, **_ROUTED)},
    packed=packed(),
    attention=_HEADS["attention"],
    rotary=_HEADS["rotary"],
    kinds=(FIRST_DENSE,),
    beyond=NEXT,
    defaults={
        "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "n_shared_experts": 1, "n_routed_experts": 128,
        "first_k_dense_replace": 1, "use_qk_norm": False, "partial_rotary_factor": 0.5, "num_nextn_predict_layers": 1,
    },
    fixed=NO_MORE_EXPERTS,
    follows=NO_NEXT,
)  # fmt: skip
GLM4_MOE_NORMED = GLM4_MOE.extend(
    "glm4_moe_normed",
    variant="use_qk_norm",
    sizes={**WHOLE, "rest": None},
    arrows=whole_heads(bias="attention_bias"),
    **scores(),
    fixed=NO_PLANES,
)

DOTS1 = QWEN3.extend(
    "dots1",
    model_types=("dots1",),
    sizes=SIZES,
    arrows=some_experts(LATER, **_ROUTED),
    packed=packed(),
    kinds=(FIRST_DENSE,),
    layer_rules={
        "layer_types": "'sliding_attention' if sliding_window is not None and layer >= max_window_layers "
        "else 'full_attention'"
    },
    defaults={
        "head_dim": "hidden_size / num_attention_heads", "first_k_dense_replace": 0, "sliding_window": None,
        "max_window_layers": 62,
    },
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip

SOLAR_OPEN = LLAMA.extend(
    "solar_open",
    model_types=("solar_open",),
    multiples=(),
    sizes={**SIZES, "mlp": None},
    arrows={**attention(bias="attention_bias"), **NO_MLP, **experts(**_ROUTED)},
    packed=packed(),
    rotary=rotary_heads(theta=1e6)["rotary"],
    defaults={
        "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5, "n_shared_experts": 1, "n_routed_experts": 128,
    },
    fixed=NO_MORE_EXPERTS,
    roles={"mlp": "moe_intermediate_size"},
)  # fmt: skip

_NUMBERED = {
    "expert_mlp": "moe_intermediate_size",
    "shared_mlp": "moe_intermediate_size * num_shared_experts",
    "expert": "num_experts",
}

EXAONE_MOE = QWEN3.extend(
    "exaone_moe",
    model_types=("exaone_moe",),
    sizes=_NUMBERED,
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
        "head_dim": "hidden_size / num_attention_heads", "rms_norm_eps": 1e-5, "num_experts": 64,
        "num_shared_experts": 1, "first_k_dense_replace": 1, "sliding_window_pattern": 4,
    },
    fixed=NO_MORE_EXPERTS,
    ignored={r"mtp\..*": NO_NEXT_TOKENS},
)  # fmt: skip

HY_V3 = QWEN3.extend(
    "hy_v3",
    model_types=("hy_v3",),
    sizes=_NUMBERED,
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
        "head_dim": 128, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "num_experts": 192, "num_shared_experts": 1,
        "num_nextn_predict_layers": 1,
    },
    fixed=NO_MORE_EXPERTS,
    follows=NO_NEXT,
)  # fmt: skip
