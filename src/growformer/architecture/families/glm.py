"""GLM: rotation of the first part of a head plane by plane, gate and up in one matrix; norms on branches in GLM-4."""

from typing import Any

from growformer.architecture.declaration import rms_norm
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import HALVES, HEAD, INTERLEAVED, attention, fused_mlp, rotary_heads

_EPS = "rms_norm_eps"

GLM = LLAMA.extend(
    "glm",
    model_types=("glm",),
    multiples=(),
    arrows={**attention(INTERLEAVED, bias="attention_bias", rest=True), **fused_mlp()},
    **rotary_heads(partial=True),
    defaults={
        "num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1.5625e-7, "attention_bias": True,
        "partial_rotary_factor": 0.5,
    },
)  # fmt: skip

_SANDWICH = {
    **fused_mlp(writes="mlp_raw:stream"),
    "layers.{layer}.post_self_attn_layernorm": rms_norm("attn_raw -> stream", eps=_EPS),
    "layers.{layer}.post_mlp_layernorm": rms_norm("mlp_raw -> stream", eps=_EPS),
}
GLM4 = GLM.extend(
    "glm4",
    model_types=("glm4",),
    arrows={
        **attention(INTERLEAVED, bias="attention_bias", rest=True, writes="attn_raw:stream"),
        **_SANDWICH,
    },
)

# The text towers of GLM-V have no bias to choose and no head_dim of their own.
_GLMV_HEADS: dict[str, Any] = {
    "partial": True,
    "because": "it has no head_dim of its own, it is hidden_size / num_attention_heads",
    "sections": (8, 12, 12),
}
GLM4V = GLM4.extend(
    "glm4v",
    model_types=("glm4v_text",),
    arrows=attention(INTERLEAVED, bias=True, rest=True, writes="attn_raw:stream"),
    **rotary_heads(HEAD, **_GLMV_HEADS),
    defaults={
        "rms_norm_eps": 1e-5,
        "partial_rotary_factor": 1.0,
        "head_dim": "hidden_size / num_attention_heads",
    },
)

GLM_OCR = GLM4V.extend(
    "glm_ocr",
    model_types=("glm_ocr_text",),
    arrows=attention(INTERLEAVED, rest=True, writes="attn_raw:stream"),
    defaults={"num_key_value_heads": 8},
)

GLM_IMAGE = GLM4V.extend(
    "glm_image",
    model_types=("glm_image_text",),
    arrows=attention(HALVES, bias="attention_bias", rest=True, writes="attn_raw:stream"),
)
