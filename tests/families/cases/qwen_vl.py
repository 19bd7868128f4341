"""Text towers with three kinds of position."""

from __future__ import annotations

from typing import Any

from tests.families.cases.llama import SLIDING, decoder

PLAIN: dict[str, Any] = {"hidden_size": 72, "drop": ("head_dim",)}


def rope(*sections: int, **more: Any) -> dict[str, Any]:
    """Rotary parameters with a partition of the frequencies."""
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections), **more}


HEADS = {
    "hidden_size": {"hidden_size": 96, "rope_parameters": rope(1, 1, 2)},
    "num_attention_heads": {"num_attention_heads": 18, "rope_parameters": rope(1, 1, 0)},
}
OWN = {"head_dim": {"head_dim": 16, "rope_parameters": rope(2, 3, 3)}}
QUARTERS = {
    "hidden_size": {"hidden_size": 192, "rope_parameters": rope(1, 1, 2, partial_rotary_factor=0.5)},
    "num_attention_heads": {"num_attention_heads": 6, "rope_parameters": rope(1, 1, 2, partial_rotary_factor=0.5)},
}

CASES = (
    decoder("qwen2_vl_text", "Qwen2VLTextModel", rope_parameters=rope(1, 1, 1), variants=HEADS, **PLAIN),
    decoder(
        "qwen2_5_vl_text", "Qwen2_5_VLTextModel", rope_parameters=rope(1, 1, 1), variants=HEADS, **SLIDING, **PLAIN
    ),
    decoder("qwen2_5_omni_text", "Qwen2_5OmniThinkerTextModel", rope_parameters=rope(3, 2, 2), variants=OWN),
    decoder("qwen3_vl_text", "Qwen3VLTextModel", rope_parameters=rope(3, 2, 2), attention_bias=True),
    decoder(
        "cosmos3_edge_text",
        "Cosmos3EdgeTextModel",
        rope_parameters=rope(3, 2, 2),
        variants=OWN,
        attention_bias=True,
        mlp_bias=True,
        hidden_act="gelu",
    ),
    decoder("paddleocr_vl_text", "PaddleOCRTextModel", rope_parameters=rope(3, 2, 2), variants=OWN, use_bias=True),
    decoder(
        "glm4v_text",
        "Glm4vTextModel",
        rope_parameters=rope(1, 0, 1, partial_rotary_factor=0.5),
        variants=QUARTERS,
        **{**PLAIN, "hidden_size": 96},
    ),
    decoder(
        "glm_ocr_text",
        "GlmOcrTextModel",
        rope_parameters=rope(1, 0, 1, partial_rotary_factor=0.5),
        variants=QUARTERS,
        **{**PLAIN, "hidden_size": 96},
    ),
    decoder(
        "glm_image_text",
        "GlmImageTextModel",
        rope_parameters=rope(1, 0, 1, partial_rotary_factor=0.5),
        variants=QUARTERS,
        **{**PLAIN, "hidden_size": 96},
        pad_token_id=0,
    ),
)
