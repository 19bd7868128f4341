"""Towers that were trained on pairs of texts and images, alone and together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tests.families.case import Case, Inputs
from tests.families.inputs import clip

TEXT: dict[str, Any] = {
    "vocab_size": 53, "max_position_embeddings": 64, "hidden_size": 30, "intermediate_size": 37,
    "num_hidden_layers": 2, "num_attention_heads": 3, "projection_dim": 13, "bos_token_id": 1, "eos_token_id": 52,
    "pad_token_id": 1,
}  # fmt: skip
IMAGE: dict[str, Any] = {
    "image_size": 12, "patch_size": 4, "num_channels": 3, "hidden_size": 28, "intermediate_size": 41,
    "num_hidden_layers": 3, "num_attention_heads": 2, "projection_dim": 13,
}  # fmt: skip
#: Nothing selects rows of a table; colours and places are told apart by the image.
PLAIN: dict[str, Any] = {"inputs": "pixels", "lookups": {}, "ordered": ("channels", "positions")}


def _without_none(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if value is not None}


def flat(config: Mapping[str, Any]) -> Inputs:
    """Two images of three by four patches, of which one has less; every patch a vector."""
    size = config["num_channels"] * config["patch_size"] ** 2
    mask = torch.ones((2, 12), dtype=torch.long)
    mask[1, 8:] = 0
    return {
        "pixel_values": torch.randn((2, 12, size), generator=torch.Generator().manual_seed(3)),
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([[3, 4], [2, 4]]),
    }


def text(model_type: str, model: str, name: str = "", config: dict[str, Any] | None = None, **options: Any) -> Case:
    """A case of a tower for texts; which token is the last depends on its number."""
    given = {"lookups": {"positions": "position_ids"}, **options}
    return Case(
        name=name, model_type=model_type, model=model, config=_without_none({**TEXT, **(config or {})}), **given
    )


def image(model_type: str, model: str, name: str = "", config: dict[str, Any] | None = None, **options: Any) -> Case:
    """A case of a tower for images."""
    return Case(
        name=name,
        model_type=model_type,
        model=model,
        config=_without_none({**IMAGE, **(config or {})}),
        **{**PLAIN, **options},
    )


def several(config: Mapping[str, Any]) -> Inputs:
    """Six texts and images; a text ends where its last token stands."""
    made = clip(config, 9, 6)
    made["input_ids"] = made["input_ids"].clamp(max=51)
    made["input_ids"][:, -1] = 52
    return made


def flat_and_text(config: Mapping[str, Any]) -> Inputs:
    """Two texts, and images as lists of patches."""
    made = several({**config, "vision_config": {**config["vision_config"], "image_size": 12}})
    return {"input_ids": made["input_ids"][:2], **flat(config["vision_config"])}


def pair(model_type: str, model: str, config: dict[str, Any] | None = None, **options: Any) -> Case:
    """A case of both towers."""
    given = {"text_config": {**TEXT}, "vision_config": {**IMAGE}, "projection_dim": 13, **(config or {})}
    given = _without_none(given)
    ordered = ("vision_channels", "vision_positions", "projection", "seen")
    settings = {"inputs": several, "lookups": {}, "ordered": ordered, **options}
    return Case(model_type=model_type, model=model, config=given, **settings)


ALONE = {"projection_dim": None}
ROTATED: dict[str, Any] = {
    "ordered": (*PLAIN["ordered"], "half"),
    "variants": {key: {"hidden_size": 40, "num_attention_heads": 2} for key in ("hidden_size", "num_attention_heads")},
}
UNUSED = ("vision_model.post_layernorm.weight", "vision_model.post_layernorm.bias")
SIGLIP = {"text_config": {**TEXT, "projection_size": 28}}
WITHOUT = {"vision_config": {**IMAGE, "vision_use_head": False}, "projection_dim": None}
SIGLIP2 = {**SIGLIP, "vision_config": {**IMAGE, "num_patches": 16}}

CASES = (
    text("clip_text_model", "CLIPTextModel"),
    text("clip_text_model", "CLIPTextModelWithProjection"),
    text("clipseg_text_model", "CLIPSegTextModel"),
    text("metaclip_2_text_model", "MetaClip2TextModel"),
    text("groupvit_text_model", "GroupViTTextModel"),
    text("owlvit_text_model", "OwlViTTextModel"),
    text("owlv2_text_model", "Owlv2TextModel"),
    text("xclip_text_model", "XCLIPTextModel"),
    image("clip_vision_model", "CLIPVisionModel"),
    image("clip_vision_model", "CLIPVisionModelWithProjection"),
    image("altclip_vision_model", "AltCLIPVisionModel"),
    image("chinese_clip_vision_model", "ChineseCLIPVisionModel"),
    image("clipseg_vision_model", "CLIPSegVisionModel"),
    image("kosmos_2_vision_model", "models.kosmos2.modeling_kosmos2.Kosmos2VisionModel"),
    image("git_vision_model", "GitVisionModel"),
    image("metaclip_2_vision_model", "MetaClip2VisionModel"),
    image("owlvit_vision_model", "OwlViTVisionModel"),
    image("owlv2_vision_model", "Owlv2VisionModel"),
    text("siglip_text_model", "SiglipTextModel", config=ALONE),
    text("siglip_text_model", "SiglipTextModel", "projected", {**ALONE, "projection_size": 13}),
    text("siglip2_text_model", "Siglip2TextModel", config=ALONE),
    image("siglip_vision_model", "SiglipVisionModel", config=ALONE),
    image("siglip_vision_model", "SiglipVisionModel", "without head", {**ALONE, "vision_use_head": False}),
    image("phi4_multimodal_vision", "Phi4MultimodalVisionModel", config={**ALONE, "image_token_id": 3}),
    image(
        "siglip2_vision_model",
        "Siglip2VisionModel",
        config={**ALONE, "image_size": None, "num_patches": 16},
        inputs=flat,
    ),
    image("idefics2_vision", "models.idefics2.modeling_idefics2.Idefics2VisionTransformer", config=ALONE),
    image("idefics3_vision", "Idefics3VisionTransformer", config=ALONE),
    image("smolvlm_vision", "SmolVLMVisionTransformer", config=ALONE),
    image("blip_vision_model", "BlipVisionModel", config={"num_channels": None}),
    image("blip_2_vision_model", "Blip2VisionModel", config={**ALONE, "num_channels": None}),
    image("instructblip_vision_model", "InstructBlipVisionModel", config={**ALONE, "num_channels": None}),
    image("instructblipvideo_vision_model", "InstructBlipVideoVisionModel", config={**ALONE, "num_channels": None}),
    image(
        "janus_vision_model",
        "JanusVisionModel",
        config={**ALONE, "intermediate_size": None, "mlp_ratio": 1.5},
        variants={"mlp_ratio": {"mlp_ratio": 2.0}},
    ),
    image("mlcd_vision_model", "MLCDVisionModel", config={**ALONE, "hidden_size": 24}, **ROTATED),
    pair("clip", "CLIPModel"),
    pair("clip", "CLIPForImageClassification", {"num_labels": 7}, inputs="pixels", unused=UNUSED),
    pair("metaclip_2", "MetaClip2Model"),
    pair("siglip", "SiglipModel", {**SIGLIP, "projection_dim": None}),
    pair("siglip", "SiglipForImageClassification", {"num_labels": 7, **WITHOUT}, inputs="pixels"),
    pair("siglip2", "Siglip2Model", {**SIGLIP2, "projection_dim": None}, inputs=flat_and_text),
)
