"""GLM-4.5 and its like: DeepSeek's experts (a shared one, a bias on scores) behind attention with grouped heads."""

from typing import Any

from growformer.architecture.declaration import Packed
from growformer.architecture.families.deepseek import SIZES
from growformer.architecture.families.experts import (
    ASKED,
    FIRST_DENSE,
    LATER,
    NEXT,
    NO_MLP,
    NO_MORE_EXPERTS,
    experts,
    packed,
    some_experts,
)
from growformer.architecture.families.llama import LLAMA, QWEN3
from growformer.architecture.families.parts import HALVES, attention, rotary_heads
from growformer.architecture.families.whole_heads import NO_PLANES, scores, whole_heads
from growformer.architecture.families.whole_heads import SIZES as WHOLE

_ROUTED: dict[str, Any] = {"shared": "shared_experts", "correction": "gate.e_score_correction_bias"}
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
        "num_experts_per_tok": 8, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "n_shared_experts": 1,
        "n_routed_experts": 128, "first_k_dense_replace": 1, "use_qk_norm": False, "partial_rotary_factor": 0.5,
        "num_nextn_predict_layers": 1,
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
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
        "num_experts_per_tok": 6, "head_dim": "hidden_size / num_attention_heads", "first_k_dense_replace": 0,
        "sliding_window": None, "max_window_layers": 62,
    },
    active=ASKED,
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
        "num_experts_per_tok": 8, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5,
        "n_shared_experts": 1, "n_routed_experts": 128,
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
    roles={"mlp": "moe_intermediate_size"},
)  # fmt: skip

# Here frequencies follow three kinds of position, and a part of each head follows none.
GLM4V_MOE = GLM4_MOE.extend(
    "glm4v_moe",
    model_types=("glm4v_moe_text",),
    variant=None,
    rotary=rotary_heads(partial=True, sections=(8, 12, 12))["rotary"],
    beyond={"layer": None},
    defaults={"attention_bias": True, "use_qk_norm": None, "num_nextn_predict_layers": None},
)

SARVAM_MOE = GLM4_MOE_NORMED.extend(
    "sarvam_moe",
    model_types=("sarvam_moe",),
    variant=None,
    constants={"use_qk_norm": (True, "Sarvam without norms on queries and keys is not described")},
    packed={
        f"layers.{{layer}}.self_attn.query_key_value.{part}": Packed(
            parts=tuple(f"layers.{{layer}}.self_attn.{name}_proj.{part}" for name in "qkv")
        )
        for part in ("weight", "bias")
    },
    rotary=scores(theta=8e6)["rotary"],
    renames=(
        (r"^(model\.)?word_embeddings\.", r"\1embed_tokens."),
        (r"\.attention\.", ".self_attn."),
        (r"\.self_attn\.dense\.", ".self_attn.o_proj."),
        (r"\.self_attn\.query_layernorm\.", ".self_attn.q_norm."),
        (r"\.self_attn\.key_layernorm\.", ".self_attn.k_norm."),
        (r"\.mlp\.gate\.expert_bias", ".mlp.gate.e_score_correction_bias"),
    ),
    defaults={
        "num_experts_per_tok": 6, "num_key_value_heads": 4, "head_dim": 64, "rms_norm_eps": 1e-6, "use_qk_norm": True,
        "partial_rotary_factor": 1.0, "num_nextn_predict_layers": 0, "initializer_range": 0.006,
    },
    aliases={
        "num_experts": "n_routed_experts", "num_shared_experts": "n_shared_experts", "use_qkv_bias": "attention_bias",
    },
)  # fmt: skip
