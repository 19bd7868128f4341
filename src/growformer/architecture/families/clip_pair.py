"""CLIP and its like as a whole: a tower for texts and one for images, their configs inside of the model's."""

from collections.abc import Mapping
from dataclasses import replace

from growformer.architecture.declaration import Architecture, Arrow, linear
from growformer.architecture.families.clip import FIXED, image_tower, text_tower, tower
from growformer.architecture.families.siglip import attending, classless_tower, packed_pooling, pooling

_TEXT, _IMAGE = tower("text_", "text_config"), tower("vision_", "vision_config")
_SIDES = {
    "text_": ("text_config", {"vocab": "vocab_size", "positions": "max_position_embeddings"}),
    "vision_": ("vision_config", {"channels": "num_channels"}),
}


def at(module: str, arrows: Mapping[str, Arrow], optional: bool = False) -> dict[str, Arrow]:
    """Return arrows behind the name of a module."""
    return {f"{module}.{name}": replace(arrow, optional=optional or arrow.optional) for name, arrow in arrows.items()}


CLIP = Architecture(
    name="clip",
    model_types=("clip", "metaclip_2"),
    sizes={
        **_TEXT["sizes"],
        **_IMAGE["sizes"],
        **{side + n: f"{nest}.{f}" for side, (nest, fields) in _SIDES.items() for n, f in fields.items()},
        **{name: name for name in ("vision_positions", "vision_patch_height", "vision_patch_width", "labels")},
        "projection": "projection_dim",
    },
    arrows={
        **at("text_model", text_tower("text_", "text_config.layer_norm_eps"), optional=True),
        **at("vision_model", image_tower("vision_", "vision_config.layer_norm_eps")),
        "visual_projection": linear("vision_final -> projection", optional=True),
        "text_projection": linear("text_final -> projection", optional=True),
        "classifier": linear("vision_stream -> labels", bias=True, optional=True),
    },
    attention=(*_TEXT["attention"], *_IMAGE["attention"]),
    outputs=("vision_stream",),
    defaults={
        **{f"{nest}.layer_norm_eps": 1e-5 for nest in ("text_config", "vision_config")},
        "text_config.max_position_embeddings": 77, "vision_config.num_channels": 3, "projection_dim": 512,
    },
    inferred=("vision_positions", "vision_patch_height", "vision_patch_width", "labels"),
    coupled=(*_TEXT["coupled"], *_IMAGE["coupled"]),
    fixed={
        **{f"text_{name}": FIXED[name] for name in ("vocab", "positions")},
        **{f"vision_{name}": FIXED[name] for name in ("positions", "channels", "patch_height", "patch_width")},
        **{name: FIXED[name] for name in ("projection", "labels")},
    },
    nested=("text_config", "vision_config"),
    overriding={f"{nest}_dict": nest for nest in ("text_config", "vision_config")},
    ignored={r".*\.embeddings\.position_ids": "a buffer of older versions: 0, 1, 2, …"},
    carried={r"logit_scale": "one number"},
    std="",
)  # fmt: skip

_VISION_EPS, _WITH_HEAD = "vision_config.layer_norm_eps", "vision_config.vision_use_head"

SIGLIP = CLIP.extend(
    "siglip",
    model_types=("siglip",),
    sizes={
        "projection": "text_config.projection_size",
        "vision_one": "1",
        "seen": "vision_config.hidden_size",
    },
    arrows={
        **{name: None for name in CLIP.arrows if name.startswith("vision_model.") or "projection" in name},
        "text_model.head": linear("text_final -> projection", bias=True, optional=True),
        **at("vision_model", classless_tower("vision_", _VISION_EPS)),
        **at("vision_model", pooling("vision_", _VISION_EPS, _WITH_HEAD, axis="seen")),
        "classifier": linear("vision_final -> labels", bias=True, optional=True),
    },
    attention=(*CLIP.attention, attending(_IMAGE["attention"][0], "vision_")),
    outputs=("vision_pooled",),
    defaults={
        **{f"{nest}.layer_norm_eps": 1e-6 for nest in CLIP.nested},
        "text_config.max_position_embeddings": 64, "text_config.projection_size": "text_config.hidden_size",
        "vision_config.vision_use_head": True, "projection_dim": None,
    },
    fixed={
        "seen": "an image is compared with texts by its direction, which new coordinates would turn; the tower "
        "alone (SiglipVisionModel) grows",
        "vision_one": "an image is pooled by one probe",
    },
    overriding=dict.fromkeys(CLIP.overriding),
    carried={r"logit_(scale|bias)": "one number"},
    packed=packed_pooling("vision_model."),
)  # fmt: skip

SIGLIP2 = SIGLIP.extend(
    "siglip2",
    model_types=("siglip2",),
    sizes={
        **dict.fromkeys(("vision_channels", "vision_patch_height", "vision_patch_width")),
        "vision_pixels": "vision_config.num_channels * vision_config.patch_size * vision_config.patch_size",
    },
    arrows={"vision_model.embeddings.patch_embedding": linear("vision_pixels -> vision_stream", bias=True)},
    defaults={"vision_config.patch_size": 16},
    inferred=("vision_positions", "labels"),
    fixed={
        **dict.fromkeys(("vision_channels", "vision_patch_height", "vision_patch_width")),
        "vision_pixels": "larger patches see other pixels",
    },
)
