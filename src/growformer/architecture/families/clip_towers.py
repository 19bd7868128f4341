"""CLIP's tower for images with other stems and projections: BLIP, Janus, MLCD."""

from growformer.architecture.declaration import Rotary, embedding, layer_norm, linear, parameter
from growformer.architecture.families.clip import CLIP_VISION
from growformer.architecture.families.siglip import IDEFICS_VISION

_EPS = "layer_norm_eps"
_ATTENTION = "encoder.layers.{layer}.self_attn"
_NO_PROJECTIONS = dict.fromkeys(f"{_ATTENTION}.{name}_proj" for name in ("q", "k", "v", "out"))

# What is pooled goes through the last LayerNorm once more, which so reads what it writes.
_POOLED = {"(pooled)": layer_norm("final -> pooled", eps=_EPS, gain=False, bias=False)}

BLIP_VISION = IDEFICS_VISION.extend(
    "blip_vision",
    model_types=("blip_vision_model",),
    sizes={"channels": "3"},
    arrows={
        "embeddings.class_embedding": parameter("-> stream", leading=2),
        "embeddings.position_embedding": embedding("positions -> stream", leading=1, bare=True),
        **_NO_PROJECTIONS,
        f"{_ATTENTION}.qkv": linear("normed -> [q:(heads key) k:(heads key) v:(heads value)]", bias=True),
        f"{_ATTENTION}.projection": linear("attended:(heads value) -> stream", bias=True),
        **_POOLED,
    },
    outputs=("final",),
    defaults={"layer_norm_eps": 1e-5, "num_channels": None, "initializer_range": None},
    std="",
)

BLIP_2_VISION = BLIP_VISION.extend(
    "blip_2_vision",
    model_types=("blip_2_vision_model", "instructblip_vision_model", "instructblipvideo_vision_model"),
    arrows={
        f"{_ATTENTION}.qkv": linear("normed -> [q:(heads key) k:(heads key) v:(heads value)]", bias="qkv_bias"),
    },
    defaults={"layer_norm_eps": 1e-6, "qkv_bias": True},
)

JANUS_VISION = IDEFICS_VISION.extend(
    "janus_vision",
    model_types=("janus_vision_model",),
    sizes={"mlp": "int(hidden_size * mlp_ratio)"},
    arrows={
        f"{_ATTENTION}.q_proj": linear("normed -> q:(heads key)", bias="attention_bias"),
        f"{_ATTENTION}.k_proj": linear("normed -> k:(heads key)", bias="attention_bias"),
        f"{_ATTENTION}.v_proj": linear("normed -> v:(heads value)", bias="attention_bias"),
        f"{_ATTENTION}.out_proj": None,
        f"{_ATTENTION}.projection_layer": linear("attended:(heads value) -> stream", bias=True),
        **_POOLED,
    },
    outputs=("final",),
    defaults={"mlp_ratio": 4.0, "attention_bias": True, "use_qk_norm": False},
    constants={"use_qk_norm": (False, "its class fails with norms on queries and keys")},
    roles={"mlp": None},
)

MLCD_VISION = CLIP_VISION.extend(
    "mlcd_vision",
    model_types=("mlcd_vision_model",),
    sizes={"positions": None, "half": "hidden_size / num_attention_heads / 2", "projection": None},
    arrows={
        "embeddings.position_embedding": None,
        "class_pos_emb": parameter("-> turn:half", leading=1),
        "visual_projection": None,
    },
    rotary=(Rotary(frequency="half", of="hidden_size / num_attention_heads"),),
    defaults={"projection_dim": None},
    inferred=("patch_height", "patch_width"),
    fixed={
        "positions": None,
        "projection": None,
        "key": "angles by rows and columns go with the size of a head; let the number of heads grow",
        "half": "angles go with the size of a head; let the number of heads grow",
    },
    prefix="vision_model",
    heads=(),
)
