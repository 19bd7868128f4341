"""Text towers of models that see: frequencies follow three kinds of position (time, height, width)."""

from growformer.architecture.families.helium import ERNIE4_5
from growformer.architecture.families.llama import LLAMA, QWEN2, QWEN3
from growformer.architecture.families.parts import HEAD, attention, gated_mlp, plain_mlp, rotary_heads

QWEN2_VL = QWEN2.extend(
    "qwen2_vl",
    model_types=("qwen2_vl_text", "qwen2_5_vl_text"),
    **rotary_heads(
        HEAD,
        because="it has no head_dim of its own, it is hidden_size / num_attention_heads",
        theta=1e6,
        sections=(16, 24, 24),
    ),
    defaults={"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "max_window_layers": 80},
)

QWEN2_5_OMNI = QWEN2.extend(
    "qwen2_5_omni",
    model_types=("qwen2_5_omni_text",),
    rotary=rotary_heads(theta=1e6, sections=(16, 24, 24))["rotary"],
    defaults={"num_key_value_heads": 4, "tie_word_embeddings": True},
)

# Here kinds of position alternate from frequency to frequency, up to where the sections end: new ones follow time.
QWEN3_VL = QWEN3.extend(
    "qwen3_vl",
    model_types=("qwen3_vl_text",),
    rotary=rotary_heads(theta=5e5)["rotary"],
    layer_lists=(),
    layer_rules={"layer_types": None},
)

COSMOS3_EDGE = LLAMA.extend(
    "cosmos3_edge",
    model_types=("cosmos3_edge_text",),
    arrows=plain_mlp("fc1", "fc2", bias="mlp_bias"),
    rotary=rotary_heads(
        implied={"rope_type": "default", "rope_theta": 1e8, "mrope_section": [24, 20, 20]},
        theta=1e8,
        sections=(24, 20, 20),
    )["rotary"],
    defaults={"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5},
)

PADDLEOCR_VL = LLAMA.extend(
    "paddleocr_vl",
    model_types=("paddleocr_vl_text",),
    multiples=(),
    arrows={**attention(bias="use_bias", out="use_bias"), **gated_mlp(bias="use_bias")},
    rotary=rotary_heads(theta=5e5, sections=(16, 24, 24))["rotary"],
    defaults=ERNIE4_5.defaults,
)
