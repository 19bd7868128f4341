"""Model types that growformer does not describe on purpose, with the reason, so that nobody waits or searches."""

from __future__ import annotations

_STATE_SPACE = "a state-space or recurrent model"
_CONVOLUTIONAL = "a convolutional model"
_HIERARCHICAL = "a hierarchical vision model, whose stages have windows or strides of their own"

_KINDS = {
    _STATE_SPACE: (
        "bamba falcon_h1 falcon_mamba jamba kimi_linear lfm2 lfm2_moe mamba mamba2 minimax nemotron_h olmo_hybrid "
        "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next recurrent_gemma rwkv xlstm zamba zamba2 "
        "bailing_hybrid"
    ),
    _CONVOLUTIONAL: (
        "bit convnext convnextv2 dinov3_convnext efficientnet hgnet_v2 mobilenet_v1 mobilenet_v2 regnet resnet "
        "textnet univnet focalnet poolformer vitdet"
    ),
    _HIERARCHICAL: "cvt dinat donut-swin efficientformer glpn hiera levit mobilevit mobilevitv2 pvt pvt_v2 segformer "
    "swiftformer swin swin2sr swinv2 maskformer-swin",
}
OUT_OF_SCOPE = {name: kind for kind, names in _KINDS.items() for name in names.split()}
"""Model type -> what it is."""

__all__ = ["OUT_OF_SCOPE"]
