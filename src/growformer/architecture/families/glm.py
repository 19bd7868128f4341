"""GLM: rotation of the first part of a head plane by plane, gate and up in one matrix; norms on branches in GLM-4."""

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
