"""Towers that were trained on pairs of texts and images, alone and together."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case

TEXT: dict[str, Any] = {
    "vocab_size": 53, "max_position_embeddings": 64, "hidden_size": 30, "intermediate_size": 37,
    "num_hidden_layers": 2, "num_attention_heads": 3, "projection_dim": 13, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 1,
}  # fmt: skip
IMAGE: dict[str, Any] = {
    "image_size": 12, "patch_size": 4, "num_channels": 3, "hidden_size": 28, "intermediate_size": 41,
    "num_hidden_layers": 3, "num_attention_heads": 2, "projection_dim": 13,
}  # fmt: skip
#: Nothing selects rows of a table; colours and places are told apart by the image.
PLAIN: dict[str, Any] = {"inputs": "pixels", "lookups": {}, "ordered": ("channels", "positions")}


def text(model_type: str, model: str, name: str = "", config: dict[str, Any] | None = None, **options: Any) -> Case:
    """A case of a tower for texts; which token is the last depends on its number."""
    given = {"lookups": {"positions": "position_ids"}, **options}
    return Case(name=name, model_type=model_type, model=model, config={**TEXT, **(config or {})}, **given)


def image(model_type: str, model: str, name: str = "", config: dict[str, Any] | None = None, **options: Any) -> Case:
    """A case of a tower for images."""
    return Case(name=name, model_type=model_type, model=model, config={**IMAGE, **(config or {})}, **{**PLAIN, **options})


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
    image("git_vision_model", "GitVisionModel"),
    
    image("metaclip_2_vision_model", "MetaClip2VisionModel"),
    image("owlvit_vision_model", "OwlViTVisionModel"),
    image("owlv2_vision_model", "Owlv2VisionModel"),
)
