"""SigLIP and other towers without a class token; an image may be pooled by attention of a learned probe."""

from dataclasses import replace

from growformer.architecture.declaration import (
    Arrow,
    Attention,
    Packed,
    convolution,
    embedding,
    layer_norm,
    linear,
)
from growformer.architecture.families.clip import CLIP_TEXT, CLIP_VISION, layers

_EPS = "layer_norm_eps"
_HEAD = "vision_use_head"


def pooling(side: str, eps: str, when: str | None, axis: str = "") -> dict[str, Arrow]:
    """Return the arrows of a head that attends with a probe; its output has an axis of this name, or the stream's."""
    axis = axis or f"{side}stream"
    return {
        "head.probe": embedding(f"{side}one -> {side}probe:{side}stream", leading=1, bare=True, when=when),
        "head.attention.q_proj": linear(
            f"{side}probe -> {side}head_q:({side}heads {side}key)", bias=True, when=when
        ),
        "head.attention.k_proj": linear(
            f"{side}final -> {side}head_k:({side}heads {side}key)", bias=True, when=when
        ),
        "head.attention.v_proj": linear(
            f"{side}final -> {side}head_v:({side}heads {side}value)", bias=True, when=when
        ),
        "head.attention.out_proj": linear(
            f"{side}head_attended:({side}heads {side}value) -> {side}pooled:{axis}", bias=True, when=when
        ),
        "head.layernorm": layer_norm(f"{side}pooled -> {side}pooled_normed", eps=eps, when=when),
        "head.mlp.fc1": linear(f"{side}pooled_normed -> {side}head_mlp:{side}mlp", bias=True, when=when),
        "head.mlp.fc2": linear(f"{side}head_mlp:{side}mlp -> {side}pooled", bias=True, when=when),
    }  # fmt: skip


def packed_pooling(at: str = "") -> dict[str, Packed]:
    """Return how torch.nn.MultiheadAttention stores queries, keys and values."""
    return {
        f"{at}head.attention.in_proj_{part}": Packed(
            parts=tuple(f"{at}head.attention.{name}_proj.{part}" for name in "qkv")
        )
        for part in ("weight", "bias")
    }


def attending(attention: Attention, side: str) -> Attention:
    """Return the attention of the head beside that of the layers."""
    return replace(
        attention, query=f"{side}head_q", key=f"{side}head_k", value=f"{side}head_v", output=f"{side}head_attended"
    )


SIGLIP_TEXT = CLIP_TEXT.extend(
    "siglip_text",
    model_types=("siglip_text_model", "siglip2_text_model"),
    sizes={"projection": "projection_size"},
    arrows={"text_projection": None, "head": linear("final -> projection", bias=True)},
    defaults={
        "layer_norm_eps": 1e-6, "max_position_embeddings": 64, "projection_dim": None, "projection_size": "hidden_size",
    },
    heads=(),
)  # fmt: skip


def classless_tower(side: str, eps: str) -> dict[str, Arrow]:
    """Return the arrows of a tower for images without a class token."""
    kernel = (f"{side}patch_height", f"{side}patch_width")
    return {
        "embeddings.patch_embedding": convolution(f"{side}channels -> {side}stream", kernel=kernel),
        "embeddings.position_embedding": embedding(f"{side}positions -> {side}stream"),
        **layers(side, eps),
        "post_layernorm": layer_norm(f"{side}stream -> {side}final", eps=eps),
    }


IDEFICS_VISION = CLIP_VISION.extend(
    "idefics_vision",
    model_types=("idefics2_vision", "idefics3_vision", "smolvlm_vision"),
    sizes={"projection": None},
    arrows={
        **dict.fromkeys(CLIP_VISION.arrows),
        **classless_tower("", _EPS),
    },
    outputs=(),
    defaults={"layer_norm_eps": 1e-6, "projection_dim": None},
    fixed={"projection": None},
    heads=(),
)

SIGLIP_VISION = IDEFICS_VISION.extend(
    "siglip_vision",
    model_types=("siglip_vision_model",),
    sizes={"one": "1"},
    arrows=pooling("", _EPS, _HEAD),
    outputs=("pooled",),
    attention=(*CLIP_VISION.attention, attending(CLIP_VISION.attention[0], "")),
    defaults={"vision_use_head": True},
    fixed={"one": "an image is pooled by one probe"},
    packed=packed_pooling(),
)

SIGLIP2_VISION = SIGLIP_VISION.extend(
    "siglip2_vision",
    model_types=("siglip2_vision_model",),
    sizes={
        "channels": None,
        "patch_height": None,
        "patch_width": None,
        "pixels": "num_channels * patch_size * patch_size",
    },
    arrows={"embeddings.patch_embedding": linear("pixels -> stream", bias=True)},
    defaults={"patch_size": 16},
    inferred=("positions",),
    fixed={
        "channels": None, "patch_height": None, "patch_width": None,
        "pixels": "larger patches see other pixels",
    },
)  # fmt: skip

PHI4_VISION = SIGLIP_VISION.extend(
    "phi4_multimodal_vision", model_types=("phi4_multimodal_vision",), arrows=pooling("", _EPS, None)
)
