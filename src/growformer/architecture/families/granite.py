"""Granite: constant factors on embeddings, scores, branches and logits; sinks or norms on branches in later ones."""

from growformer.architecture.declaration import parameter, rms_norm
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import MULTIPLE_OF_HEADS, attention, gated_mlp, rotary_heads

_SCALE = "attention_multiplier"

GRANITE = LLAMA.extend(
    "granite",
    model_types=("granite", "granite4_vision_text"),
    multiples=(),
    **rotary_heads(scale=_SCALE),
    defaults={"attention_multiplier": 1.0},
)

GRANITE_DOCLING = GRANITE.extend(
    "granite_docling",
    model_types=("granite_docling_text",),
    defaults={
        "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "attention_multiplier": 0.015625, "tie_word_embeddings": True,
    },
)  # fmt: skip

GRANITE_SWA = GRANITE.extend(
    "granite_swa",
    model_types=("granite_swa",),
    arrows={"layers.{layer}.self_attn.sinks": parameter("-> sinks:(kv_heads group)")},
    **rotary_heads(scale=_SCALE, per_head=("sinks",), per_layer="layer_rope_theta"),
    layer_lists=("layer_types", "layer_rope_theta"),
    layer_rules={"layer_types": "'sliding_attention' if layer % 4 else 'full_attention'"},
    defaults={"num_key_value_heads": 4, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
)

# Logits are multiplied, not divided, by logits_scaling: a constant all the same.
HYPERCLOVAX = GRANITE.extend(
    "hyperclovax",
    model_types=("hyperclovax",),
    variant="use_post_norm",
    multiples=MULTIPLE_OF_HEADS,
    attention=rotary_heads(scale=f"{_SCALE} or 1 / sqrt(head_dim)")["attention"],
    arrows={
        **attention(bias="attention_bias", out="attention_bias", writes="attn_raw:stream"),
        "layers.{layer}.post_norm1": rms_norm("attn_raw -> stream", eps="rms_norm_eps"),
        **gated_mlp(bias="mlp_bias", writes="mlp_raw:stream"),
        "layers.{layer}.post_norm2": rms_norm("mlp_raw -> stream", eps="rms_norm_eps"),
    },
    defaults={"attention_multiplier": None, "use_post_norm": True},
)

HYPERCLOVAX_PRE_NORM = GRANITE.extend(
    "hyperclovax_pre_norm",
    model_types=("hyperclovax",),
    variant="not use_post_norm",
    multiples=MULTIPLE_OF_HEADS,
    attention=HYPERCLOVAX.attention,
    defaults={"attention_multiplier": None, "use_post_norm": True},
)
