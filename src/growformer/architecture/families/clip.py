"""CLIP: a tower for texts and one for images, whose ends are projected to a space where they meet."""

from typing import Any

from growformer.architecture.declaration import (
    Architecture,
    Arrow,
    Attention,
    Coupling,
    convolution,
    embedding,
    layer_norm,
    linear,
    parameter,
)

FIXED = {
    "vocab": "a larger vocabulary changes the output distribution; use resize_token_embeddings",
    "positions": "positions past the table have no source",
    "channels": "colours of an image are not a size of the model",
    "patch_height": "larger patches see other pixels",
    "patch_width": "larger patches see other pixels",
    "labels": "a classifier's labels are not a size of the model",
    "projection": "where texts and images meet, new coordinates would be zero on both sides, and never learn",
}
INFERRED = ("labels", "positions", "patch_height", "patch_width")


def layers(side: str, eps: str, at: str = "encoder.layers", out: str = "out_proj") -> dict[str, Arrow]:
    """Return the arrows of a tower's layers; its spaces and axes have the side's name in front."""
    layer = f"{at}.{{{side}layer}}"
    return {
        f"{layer}.layer_norm1": layer_norm(f"{side}stream -> {side}normed", eps=eps),
        f"{layer}.self_attn.q_proj": linear(f"{side}normed -> {side}q:({side}heads {side}key)", bias=True),
        f"{layer}.self_attn.k_proj": linear(f"{side}normed -> {side}k:({side}heads {side}key)", bias=True),
        f"{layer}.self_attn.v_proj": linear(f"{side}normed -> {side}v:({side}heads {side}value)", bias=True),
        f"{layer}.self_attn.{out}": linear(f"{side}attended:({side}heads {side}value) -> {side}stream", bias=True),
        f"{layer}.layer_norm2": layer_norm(f"{side}stream -> {side}mlp_normed", eps=eps),
        f"{layer}.mlp.fc1": linear(f"{side}mlp_normed -> {side}mlp", bias=True),
        f"{layer}.mlp.fc2": linear(f"{side}mlp -> {side}stream", bias=True),
    }


def text_tower(side: str, eps: str) -> dict[str, Arrow]:
    """Return the arrows of a tower for texts."""
    return {
        "embeddings.token_embedding": embedding(f"{side}vocab -> {side}stream"),
        "embeddings.position_embedding": embedding(f"{side}positions -> {side}stream"),
        **layers(side, eps),
        "final_layer_norm": layer_norm(f"{side}stream -> {side}final", eps=eps),
    }


def image_tower(side: str, eps: str, pre: str = "pre_layrnorm") -> dict[str, Arrow]:
    """Return the arrows of a tower for images; a LayerNorm between its embeddings and its layers has this name."""
    return {
        "embeddings.class_embedding": parameter(f"-> {side}embedded:{side}stream"),
        "embeddings.patch_embedding": convolution(
            f"{side}channels -> {side}embedded:{side}stream",
            kernel=(f"{side}patch_height", f"{side}patch_width"),
            bias=False,
        ),
        "embeddings.position_embedding": embedding(f"{side}positions -> {side}embedded:{side}stream"),
        pre: layer_norm(f"{side}embedded -> {side}stream", eps=eps),
        **layers(side, eps),
        "post_layernorm": layer_norm(f"{side}stream -> {side}final", eps=eps, optional=True),
    }  # fmt: skip


def tower(side: str = "", config: str = "") -> dict[str, Any]:
    """Return what a tower has besides its arrows, its config nested in a field of this name."""
    nest = f"{config}." if config else ""
    head = f"{nest}hidden_size / {nest}num_attention_heads"
    return {
        "sizes": {
            f"{side}layer": f"{nest}num_hidden_layers",
            f"{side}stream": f"{nest}hidden_size",
            f"{side}mlp": f"{nest}intermediate_size",
            f"{side}heads": f"{nest}num_attention_heads",
            f"{side}key": head,
            f"{side}value": head,
        },
        "attention": (
            Attention(
                query=f"{side}q", key=f"{side}k", value=f"{side}v", output=f"{side}attended", over=(f"{side}key",),
                scale=f"1 / sqrt({head})",
            ),
        ),
        "coupled": (
            Coupling(
                field=f"{nest}num_attention_heads", keeps=f"{side}key", formula=f"{nest}hidden_size / keep",
                because="a tower has no head_dim of its own, it is hidden_size / num_attention_heads",
            ),
        ),
    }  # fmt: skip


ROLES = {
    "hidden": "hidden_size", "mlp": "intermediate_size", "heads": "num_attention_heads", "layers": "num_hidden_layers",
}  # fmt: skip

_TOWER = tower()

CLIP_TEXT = Architecture(
    name="clip_text",
    model_types=(
        "clip_text_model", "clipseg_text_model", "metaclip_2_text_model", "groupvit_text_model", "xclip_text_model",
    ),
    sizes={
        **_TOWER["sizes"], "vocab": "vocab_size", "positions": "max_position_embeddings",
        "projection": "projection_dim",
    },
    arrows={
        **text_tower("", "layer_norm_eps"),
        "text_projection": linear("final -> projection", optional=True),
    },
    attention=_TOWER["attention"],
    defaults={"layer_norm_eps": 1e-5, "max_position_embeddings": 77, "projection_dim": 512, "initializer_range": 0.02},
    coupled=_TOWER["coupled"],
    fixed={name: FIXED[name] for name in ("vocab", "positions", "projection")},
    roles=ROLES,
    prefix="text_model",
    heads=("text_projection",),
    ignored={r"(text_model\.)?embeddings\.position_ids": "a buffer of older versions: 0, 1, 2, …"},
)  # fmt: skip

OWLVIT_TEXT = CLIP_TEXT.extend(
    "owlvit_text",
    model_types=("owlvit_text_model", "owlv2_text_model"),
    defaults={"max_position_embeddings": 16},
)

CLIP_VISION = Architecture(
    name="clip_vision",
    model_types=(
        "clip_vision_model", "altclip_vision_model", "chinese_clip_vision_model", "clipseg_vision_model",
        "git_vision_model", "metaclip_2_vision_model",
    ),
    sizes={
        **_TOWER["sizes"], "channels": "num_channels", "projection": "projection_dim",
        **{name: name for name in ("positions", "patch_height", "patch_width")},
    },
    arrows={
        **image_tower("", "layer_norm_eps"),
        "visual_projection": linear("final -> projection", optional=True),
    },
    attention=_TOWER["attention"],
    outputs=("stream",),
    defaults={"layer_norm_eps": 1e-5, "num_channels": 3, "projection_dim": 512, "initializer_range": 0.02},
    inferred=("positions", "patch_height", "patch_width"),
    coupled=_TOWER["coupled"],
    fixed={
        name: FIXED[name] for name in ("positions", "channels", "patch_height", "patch_width", "projection")
    },
    roles=ROLES,
    prefix="vision_model",
    heads=("visual_projection",),
    ignored={r"(vision_model\.)?embeddings\.position_ids": "a buffer of older versions: 0, 1, 2, …"},
)  # fmt: skip

OWLVIT_VISION = CLIP_VISION.extend(
    "owlvit_vision",
    model_types=("owlvit_vision_model", "owlv2_vision_model"),
    arrows={"pre_layrnorm": None, **image_tower("", "layer_norm_eps", pre="pre_layernorm")},
)

KOSMOS_2_VISION = CLIP_VISION.extend(
    "kosmos_2_vision", model_types=("kosmos_2_vision_model",), prefix="model", heads=()
)
