"""Models of ViT's layers whose classes still have BERT's names for them: FLAVA, YOLOS, TimeSformer, VideoMAE."""

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
from growformer.architecture.families.bert import BERT, renamed
from growformer.architecture.families.vit import VIT, layers, without

_EPS = "layer_norm_eps"
_LAYER = "encoder.layer.{layer}"
_QKV = "normed -> [q:(heads key) k:(heads key) v:(heads value)]"
OLD_NAMES = {
    "layers.{layer}": _LAYER,
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}

FLAVA_IMAGE = replace(
    VIT,
    name="flava_image",
    model_types=("flava_image_model",),
    arrows={
        **renamed(VIT.arrows, OLD_NAMES, without=("classifier", "decoder.0")),
        "pooler.dense": linear("final -> summary:stream", bias=True, optional=True),
    },
    prefix="",
    heads=(),
    renames=(),
)

FLAVA_TEXT = replace(
    BERT,
    name="flava_text",
    model_types=("flava_text_model",),
    arrows={
        **{n: a for n, a in BERT.arrows.items() if n.startswith("embeddings.")},
        **renamed(layers(), OLD_NAMES),
        "layernorm": layer_norm("stream -> final", eps=_EPS),
        "pooler.dense": linear("final -> summary:stream", bias=True, optional=True),
    },
    sizes={a: s for a, s in BERT.sizes.items() if a != "relations"},
    adds=(),
    activated=(),
    ties={},
    tie_field=None,
    defaults={**BERT.defaults, "qkv_bias": True},
    fixed={a: r for a, r in BERT.fixed.items() if a != "relations"},
    coupled=(without("FLAVA"),),
    prefix="",
    heads=(),
)

_MLPS = {
    f"{head}.layers.{i}": linear(f"{'final' if i == 0 else f'{head}_{i}'} -> {to}", bias=True, optional=True)
    for head, end in (("class_labels_classifier", "labels"), ("bbox_predictor", "box"))
    for i, to in enumerate((f"{head}_1:stream", f"{head}_2:stream", end))
}

YOLOS = replace(
    VIT.extend(
        "yolos",
        sizes={"between": "num_hidden_layers - 1", "detections": "num_detection_tokens", "box": "4"},
        defaults={"num_detection_tokens": 100, "use_mid_position_embeddings": True},
        fixed={
            "layer": "a table of positions is added between all of its layers, and none would be between new ones",
            "between": "tables of positions follow the layers",
            "detections": "more boxes have no source",
            "box": "a box has four coordinates",
        },
    ),
    model_types=("yolos",),
    arrows={
        **renamed(VIT.arrows, OLD_NAMES, without=("classifier", "decoder.0", "embeddings.mask_token")),
        "embeddings.detection_tokens": embedding("detections -> stream", leading=1, bare=True),
        "encoder.interpolation.table.{between}": embedding(
            "positions -> stream", leading=1, bare=True, when="use_mid_position_embeddings"
        ),
        "pooler.dense": linear("final -> summary:stream", bias=True, optional=True),
        **_MLPS,
    },
    heads=("class_labels_classifier", "bbox_predictor"),
    renames=((r"encoder\.mid_position", "encoder.interpolation.mid_position"),),
    packed={
        "encoder.interpolation.mid_position_embeddings": Packed(
            parts=("encoder.interpolation.table.{between}",), stack="between"
        )
    },
)

_DIVIDED = "attention_type == 'divided_space_time'"

TIMESFORMER = replace(
    VIT.extend(
        "timesformer",
        sizes={"time": "num_frames"},
        defaults={"layer_norm_eps": 1e-6, "attention_type": "'divided_space_time'", "num_frames": 8},
        fixed={"time": "more frames have no source"},
    ),
    model_types=("timesformer",),
    arrows={
        **renamed(VIT.arrows, OLD_NAMES, without=("decoder.0", "embeddings.mask_token", "pooler.dense", *layers())),
        "embeddings.time_embeddings": embedding(
            "time -> stream", leading=1, bare=True, when="attention_type != 'space_only'"
        ),
        f"{_LAYER}.temporal_layernorm": layer_norm("stream -> time_normed", eps=_EPS, when=_DIVIDED),
        f"{_LAYER}.temporal_attention.attention.qkv": linear(
            "time_normed -> [time_q:(heads key) time_k:(heads key) time_v:(heads value)]", bias="qkv_bias",
            when=_DIVIDED,
        ),
        f"{_LAYER}.temporal_attention.output.dense": linear(
            "time_attended:(heads value) -> time_branch:stream", bias=True, when=_DIVIDED
        ),
        f"{_LAYER}.temporal_dense": linear("time_branch -> stream", bias=True, when=_DIVIDED),
        **{n: a for n, a in renamed(layers(), OLD_NAMES).items() if ".attention.attention." not in n},
        f"{_LAYER}.attention.attention.qkv": linear(_QKV, bias="qkv_bias"),
    },
    attention=(
        *VIT.attention,
        replace(VIT.attention[0], query="time_q", key="time_k", value="time_v", output="time_attended"),
    ),
    prefix="timesformer",
    heads=("classifier",),
    renames=(),
)  # fmt: skip

_SINUSOIDS = (
    "positions are sines and cosines that the class computes from hidden_size; intermediate_size grows, and depth"
)
_DECODER = "decoder_hidden_size / decoder_num_attention_heads"
_VIDEO: dict[str, bool | str] = {
    "attention.attention.query": "qv_bias",
    "attention.attention.key": False,
    "attention.attention.value": "qv_bias",
}


def _video(arrows: dict[str, Arrow]) -> dict[str, Arrow]:
    """Return layers in which keys have no bias."""
    biases = {
        name: next((b for part, b in _VIDEO.items() if part in name), arrow.bias) for name, arrow in arrows.items()
    }
    return {name: replace(arrow, bias=biases[name]) for name, arrow in arrows.items()}


VIDEOMAE = replace(
    VIT,
    name="videomae",
    model_types=("videomae",),
    sizes={
        **{a: s for a, s in VIT.sizes.items() if a not in ("positions", "pooled", "one", "pixels", "labels")},
        "frames": "frames",
        "decoder_layer": "decoder_num_hidden_layers",
        "decoder_stream": "decoder_hidden_size",
        "decoder_mlp": "decoder_intermediate_size",
        "decoder_heads": "decoder_num_attention_heads",
        "decoder_key": _DECODER,
        "decoder_value": _DECODER,
    },
    arrows={
        "embeddings.patch_embeddings.projection": convolution(
            "channels -> stream", kernel=("frames", "patch_height", "patch_width")
        ),
        **_video(renamed(layers(), OLD_NAMES)),
        "encoder_to_decoder": linear("stream -> decoder_stream", optional=True),
        **_video(
            renamed(
                layers("decoder.decoder_layers.{decoder_layer}", "decoder_", optional=True),
                {k: v for k, v in OLD_NAMES.items() if k != "layers.{layer}"},
            )
        ),
    },
    attention=(
        *VIT.attention,
        Attention(
            query="decoder_q", key="decoder_k", value="decoder_v", output="decoder_attended", over=("decoder_key",),
            scale=f"1 / sqrt({_DECODER})",
        ),
    ),
    outputs=("stream",),
    defaults={
        "layer_norm_eps": 1e-12, "qv_bias": True, "initializer_range": 0.02, "num_channels": 3,
        "decoder_num_attention_heads": 6,
        "decoder_hidden_size": 384, "decoder_num_hidden_layers": 4, "decoder_intermediate_size": 1536,
    },
    inferred=("frames", "patch_height", "patch_width"),
    coupled=(),
    fixed={
        **{axis: VIT.fixed[axis] for axis in ("channels", "patch_height", "patch_width")},
        "frames": "longer tubes see other frames",
    }
    | {
        f"{side}{axis}": _SINUSOIDS for side in ("", "decoder_") for axis in ("stream", "heads", "key", "value")
    },
    prefix="videomae",
    heads=("encoder_to_decoder", "mask_token", "decoder", "fc_norm", "classifier"),
    renames=(
        (r"attention\.attention\.q_bias", "attention.attention.query.bias"),
        (r"attention\.attention\.v_bias", "attention.attention.value.bias"),
    ),
    carried={r"(?!encoder\.layer\.|decoder\.decoder_layers\.).+": "before and behind the layers, where nothing grows"},
)  # fmt: skip
