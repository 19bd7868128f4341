"""ViT's layers behind other embeddings, or with a decoder: spectrograms, videos, masked autoencoders."""

from growformer.architecture.declaration import (
    Attention,
    Coupling,
    convolution,
    embedding,
    layer_norm,
    linear,
    parameter,
)
from growformer.architecture.families.vit import VIT, layers

_EPS = "layer_norm_eps"
_KERNEL = ("patch_height", "patch_width")

AST = VIT.extend(
    "ast",
    model_types=("audio-spectrogram-transformer",),
    sizes={"channels": "1", **dict.fromkeys(("pooled", "one", "pixels"))},
    arrows={
        "embeddings.mask_token": None,
        "embeddings.distillation_token": parameter("-> stream", leading=2),
        "pooler.dense": None,
        "decoder.0": None,
        "classifier": None,
        "classifier.layernorm": layer_norm("final -> judged", eps=_EPS, optional=True),
        "classifier.dense": linear("judged -> labels", bias=True, optional=True),
    },
    defaults={"pooler_output_size": None},
    inferred=tuple(name for name in VIT.inferred if name != "pixels"),
    fixed=dict.fromkeys(("pooled", "one", "pixels")),
    prefix="audio_spectrogram_transformer",
    heads=("classifier",),
)

VIVIT = VIT.extend(
    "vivit",
    model_types=("vivit",),
    sizes={"frames": "frames", "one": None, "pixels": None},
    arrows={
        "embeddings.mask_token": None,
        "embeddings.patch_embeddings.projection": convolution("channels -> stream", kernel=("frames", *_KERNEL)),
        "decoder.0": None,
    },
    defaults={"layer_norm_eps": 1e-6},
    inferred=(*AST.inferred, "frames"),
    fixed={"frames": "longer tubelets see other frames", "one": None, "pixels": None},
    prefix="vivit",
    heads=("classifier",),
)

_DECODER_HEAD = "decoder_hidden_size / decoder_num_attention_heads"

VIT_MAE = VIT.extend(
    "vit_mae",
    model_types=("vit_mae",),
    sizes={
        "decoder_layer": "decoder_num_hidden_layers",
        "decoder_stream": "decoder_hidden_size",
        "decoder_mlp": "decoder_intermediate_size",
        "decoder_heads": "decoder_num_attention_heads",
        "decoder_key": _DECODER_HEAD,
        "decoder_value": _DECODER_HEAD,
        "pooled": None, "one": None,
    },
    arrows={
        "embeddings.mask_token": None,
        "pooler.dense": None,
        "classifier": None,
        "decoder.0": None,
        "decoder.decoder_embed": linear("final -> decoder_stream", bias=True, optional=True),
        "decoder.mask_token": parameter("-> decoder_stream", leading=2, optional=True),
        "decoder.decoder_pos_embed": embedding("positions -> decoder_stream", leading=1, bare=True, optional=True),
        **layers("decoder.decoder_layers.{decoder_layer}", "decoder_", optional=True),
        "decoder.decoder_norm": layer_norm("decoder_stream -> decoded", eps=_EPS, optional=True),
        "decoder.decoder_pred": linear("decoded -> pixels", bias=True, optional=True),
    },
    attention=(
        *VIT.attention,
        Attention(
            query="decoder_q", key="decoder_k", value="decoder_v", output="decoder_attended", over=("decoder_key",),
            scale=f"1 / sqrt({_DECODER_HEAD})",
        ),
    ),
    defaults={
        "pooler_output_size": None, "decoder_hidden_size": 512, "decoder_num_hidden_layers": 8,
        "decoder_num_attention_heads": 16, "decoder_intermediate_size": 2048,
    },
    coupled=(
        *VIT.coupled,
        Coupling(
            field="decoder_num_attention_heads", keeps="decoder_key", formula="decoder_hidden_size / keep",
            because="a head of the decoder has decoder_hidden_size / decoder_num_attention_heads coordinates",
        ),
    ),
    fixed={"pooled": None, "one": None},
    heads=("decoder", "layers"),
    renames=((r"decoder_encoder\.layer\.", "decoder_layers."), *VIT.renames),
)  # fmt: skip
