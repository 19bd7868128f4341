"""Decoders that differ little from Llama: some layers of SmolLM3 do not rotate, others have other defaults."""

from growformer.architecture.families.llama import LLAMA, PLAIN_ATTENTION
from growformer.architecture.families.parts import LLAMA3, attention, gated_mlp, rotary_heads

SMOLLM3 = LLAMA.extend(
    "smollm3",
    model_types=("smollm3",),
    multiples=(),
    layer_lists=("layer_types", "no_rope_layers"),
    layer_rules={
        "no_rope_layers": "1 if (layer + 1) % no_rope_layer_interval else 0",
        "layer_types": "'sliding_attention' if use_sliding_window and sliding_window is not None "
        "and not no_rope_layers[layer] else 'full_attention'",
    },
    rotary=rotary_heads(theta=2e6)["rotary"],
    defaults={
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "no_rope_layer_interval": 4,
        "use_sliding_window": False,
        "sliding_window": None,
    },
)

CWM = LLAMA.extend(
    "cwm",
    model_types=("cwm",),
    arrows=PLAIN_ATTENTION,
    layer_rules={"layer_types": "'sliding_attention' if layer % 4 else 'full_attention'"},
    rotary=rotary_heads(implied={**LLAMA3, "rope_theta": 1e6, "factor": 16.0}, theta=1e6)["rotary"],
    defaults={"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5},
)

SEED_OSS = LLAMA.extend(
    "seed_oss",
    model_types=("seed_oss",),
    multiples=(),
    arrows={**attention(bias="attention_bias", out="attention_out_bias"), **gated_mlp(bias="mlp_bias")},
    defaults={"num_key_value_heads": 8, "head_dim": 128, "attention_bias": True, "attention_out_bias": False},
)

IQUESTCODER = LLAMA.extend(
    "iquestcoder",
    model_types=("iquestcoder",),
    defaults={"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5},
)

INTERNLM3 = LLAMA.extend(
    "internlm3",
    model_types=("internlm3",),
    aliases={"qkv_bias": "attention_bias", "bias": "mlp_bias"},
    defaults={"num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1e-5},
)

EMU3 = LLAMA.extend(
    "emu3",
    model_types=("emu3_text_model",),
    multiples=(),
    rotary=rotary_heads(theta=1e6)["rotary"],
    defaults={"num_key_value_heads": 8, "rms_norm_eps": 1e-5},
)
