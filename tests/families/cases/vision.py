"""Towers for images and videos: ViT and what came after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tests.families.case import Case, Inputs
from tests.families.inputs import pixels

SIZES: dict[str, Any] = {
    "image_size": 12, "patch_size": 4, "num_channels": 3, "hidden_size": 30, "intermediate_size": 37,
    "num_hidden_layers": 2, "num_attention_heads": 3,
}  # fmt: skip
#: Nothing selects rows of a table; colours and places are told apart by the image.
PLAIN: dict[str, Any] = {"inputs": "pixels", "lookups": {}, "ordered": ("channels", "positions", "pixels")}


def vision(model_type: str, model: str, name: str = "", config: dict[str, Any] | None = None, **options: Any) -> Case:
    """A case with ViT's field names; None leaves one out."""
    made = {n: v for n, v in {**SIZES, **(config or {})}.items() if v is not None}
    return Case(name=name, model_type=model_type, model=model, config=made, **{**PLAIN, **options})


def masked(config: Mapping[str, Any]) -> Inputs:
    """Images, with the noise that decides which patches are seen."""
    made = pixels(config, 0, 2)
    patches = (config["image_size"] // config["patch_size"]) ** 2
    made["noise"] = torch.rand((2, patches), generator=torch.Generator().manual_seed(7))
    return made


def hidden(config: Mapping[str, Any]) -> Inputs:
    """Images of which some patches are hidden."""
    made = pixels(config, 0, 2)
    patches = (config["image_size"] // config["patch_size"]) ** 2
    made["bool_masked_pos"] = torch.arange(2 * patches).reshape(2, patches) % 4 == 0
    return made


def spectrogram(config: Mapping[str, Any]) -> Inputs:
    """Spectrograms of the config's size."""
    shape = (2, config["max_length"], config["num_mel_bins"])
    return {"input_values": torch.randn(shape, generator=torch.Generator().manual_seed(8))}


def frames(config: Mapping[str, Any]) -> Inputs:
    """Videos of the config's size."""
    size = config["image_size"]
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    shape = (2, config["num_frames"], config["num_channels"], height, width)
    return {"pixel_values": torch.randn(shape, generator=torch.Generator().manual_seed(9))}


def many(config: Mapping[str, Any]) -> Inputs:
    """So many images that every unit behind a ReLU is seen at work."""
    return pixels(config, 0, 12)


def tubes(config: Mapping[str, Any]) -> Inputs:
    """Videos of which some tubes are hidden, as many in each."""
    made = frames(config)
    count = config["num_frames"] // config["tubelet_size"] * (config["image_size"] // config["patch_size"]) ** 2
    made["bool_masked_pos"] = torch.arange(count).expand(2, count) % 3 == 0
    return made


LABELS = {"num_labels": 7}
AST = {
    "max_length": 20,
    "num_mel_bins": 12,
    "frequency_stride": 3,
    "time_stride": 5,
    "image_size": None,
    "num_channels": None,
}
MAE = {
    "decoder_hidden_size": 24, "decoder_intermediate_size": 41, "decoder_num_hidden_layers": 3,
    "decoder_num_attention_heads": 2, "mask_ratio": 0.5,
}  # fmt: skip
VIVIT = {"num_frames": 6, "tubelet_size": [2, 4, 4], "patch_size": None}
WHOLE_PATCHES = {"encoder_stride": 4}
MASK = ("embeddings.mask_token",)
RATIO = {"intermediate_size": None, "mlp_ratio": 3}
ROTATED = {"hidden_size": 24, "num_attention_heads": 2}
TURNED: dict[str, Any] = {
    "ordered": (*PLAIN["ordered"], "key"),
    "variants": {key: {"hidden_size": 40, "num_attention_heads": 2} for key in ("hidden_size", "num_attention_heads")},
}
TEXT = {
    "vocab_size": 53, "max_position_embeddings": 64, "type_vocab_size": 5, "pad_token_id": None, "image_size": None,
    "patch_size": None, "num_channels": None,
}  # fmt: skip
BOXES = {"image_size": [12, 8], "num_detection_tokens": 11, "num_hidden_layers": 3}
#: Units behind a ReLU that are never at work.
DEAD = "class_labels_classifier|bbox_predictor"
WHOLE = {"patch_size": {"patch_size": 2}}
TUBES = {
    "num_frames": 4, "tubelet_size": 2, "decoder_hidden_size": 24, "decoder_intermediate_size": 41,
    "decoder_num_hidden_layers": 3, "decoder_num_attention_heads": 2,
}  # fmt: skip
#: Embeddings and heads are carried, and tell channels apart.
CARRIED = ("stream", "decoder_stream", "channels")

CASES = (
    vision("vit", "ViTModel"),
    vision("vit", "ViTForImageClassification", config=LABELS),
    vision("vit", "ViTForMaskedImageModeling", config=WHOLE_PATCHES, inputs=hidden),
    vision("vit", "ViTModel", "pooled", {"pooler_output_size": 11}),
    vision("vit", "ViTForImageClassification", "oblong", {"image_size": [12, 8], "patch_size": [4, 2], **LABELS}),
    vision("deit", "DeiTModel"),
    vision("deit", "DeiTForImageClassificationWithTeacher", config=LABELS),
    vision("deit", "DeiTForImageClassification", config=LABELS),
    vision("deit", "DeiTForMaskedImageModeling", config=WHOLE_PATCHES, inputs=hidden),
    vision("vit_msn", "ViTMSNModel"),
    vision("vit_msn", "ViTMSNForImageClassification", config=LABELS),
    vision("ijepa", "IJepaModel"),
    vision("ijepa", "IJepaForImageClassification", config=LABELS),
    vision("audio-spectrogram-transformer", "ASTModel", config=AST, inputs=spectrogram),
    vision("audio-spectrogram-transformer", "ASTForAudioClassification", config={**AST, **LABELS}, inputs=spectrogram),
    vision("vivit", "VivitModel", config=VIVIT, inputs=frames),
    vision("vivit", "VivitForVideoClassification", config={**VIVIT, **LABELS}, inputs=frames),
    vision("vit_mae", "ViTMAEModel", config=MAE, inputs=masked),
    vision("vit_mae", "ViTMAEForPreTraining", config=MAE, inputs=masked),
    vision("beit", "BeitModel", config={"use_relative_position_bias": True, "use_mask_token": True}, inputs=hidden),
    vision("beit", "BeitModel", "absolute", {"use_absolute_position_embeddings": True, "use_mean_pooling": False}),
    vision("beit", "BeitForImageClassification", config={"use_shared_relative_position_bias": True, **LABELS}),
    vision("beit", "BeitForImageClassification", "not mean", {"use_mean_pooling": False, **LABELS}),
    vision("data2vec-vision", "Data2VecVisionModel", config={"use_relative_position_bias": True}),
    vision(
        "data2vec-vision",
        "Data2VecVisionForImageClassification",
        config={"use_shared_relative_position_bias": True, **LABELS},
    ),
    vision("dinov2", "Dinov2Model", config=RATIO, inputs=hidden),
    vision("dinov2", "Dinov2Model", "gated", {"use_swiglu_ffn": True, **RATIO}, inputs=hidden),
    vision("dinov2", "Dinov2ForImageClassification", config={**RATIO, **LABELS}, unused=MASK),
    vision(
        "dinov2_with_registers",
        "Dinov2WithRegistersModel",
        config={**RATIO, "num_register_tokens": 3},
        inputs=hidden,
    ),
    vision(
        "dinov2_with_registers",
        "Dinov2WithRegistersForImageClassification",
        config={"use_swiglu_ffn": True, **RATIO, **LABELS},
        unused=(*MASK, "embeddings.register_tokens"),
    ),
    vision("pixio", "PixioModel", config={**RATIO, "n_cls_tokens": 3}),
    vision("dinov3_vit", "DINOv3ViTModel", config={**ROTATED, "num_register_tokens": 2}, inputs=hidden, **TURNED),
    vision(
        "dinov3_vit",
        "DINOv3ViTModel",
        "gated",
        {**ROTATED, "use_gated_mlp": True, "num_register_tokens": 0, "key_bias": True},
        inputs=hidden,
        **{**TURNED, "unused": ("embeddings.register_tokens",)},
    ),
    vision("flava_image_model", "FlavaImageModel", inputs=hidden),
    vision("flava_text_model", "FlavaTextModel", config=TEXT, inputs="tokens", lookups=None, ordered=()),
    vision("yolos", "YolosModel", config=BOXES, variants=WHOLE),
    vision("yolos", "YolosForObjectDetection", config={**BOXES, **LABELS}, inputs=many, variants=WHOLE, untrained=DEAD),
    vision("timesformer", "TimesformerModel", config={"num_frames": 4}, inputs=frames),
    vision(
        "timesformer",
        "TimesformerForVideoClassification",
        config={"num_frames": 4, **LABELS},
        inputs=frames,
        untrained="temporal",
    ),
    vision(
        "timesformer",
        "TimesformerModel",
        "joint",
        {"num_frames": 4, "attention_type": "joint_space_time"},
        inputs=frames,
    ),
    vision("videomae", "VideoMAEModel", config=TUBES, inputs=frames, ordered=CARRIED),
    vision("videomae", "VideoMAEForVideoClassification", config={**TUBES, **LABELS}, inputs=frames, ordered=CARRIED),
    vision("videomae", "VideoMAEForPreTraining", config=TUBES, inputs=tubes, ordered=CARRIED),
)
