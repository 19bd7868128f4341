"""ViT: patches through a convolution, a class token and learned positions, LayerNorm before each branch."""

from dataclasses import replace

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

_EPS = "layer_norm_eps"
_HEAD = "hidden_size / num_attention_heads"


def layers(at: str = "layers.{layer}", side: str = "", optional: bool = False) -> dict[str, Arrow]:
    """Return the arrows of layers of this name; spaces and axes have the side's name in front."""
    arrows = {
        f"{at}.layernorm_before": layer_norm(f"{side}stream -> {side}normed", eps=_EPS),
        f"{at}.attention.q_proj": linear(f"{side}normed -> {side}q:({side}heads {side}key)", bias="qkv_bias"),
        f"{at}.attention.k_proj": linear(f"{side}normed -> {side}k:({side}heads {side}key)", bias="qkv_bias"),
        f"{at}.attention.v_proj": linear(f"{side}normed -> {side}v:({side}heads {side}value)", bias="qkv_bias"),
        f"{at}.attention.o_proj": linear(f"{side}attended:({side}heads {side}value) -> {side}stream", bias=True),
        f"{at}.layernorm_after": layer_norm(f"{side}stream -> {side}mlp_normed", eps=_EPS),
        f"{at}.mlp.fc1": linear(f"{side}mlp_normed -> {side}mlp", bias=True),
        f"{at}.mlp.fc2": linear(f"{side}mlp -> {side}stream", bias=True),
    }
    return {name: replace(arrow, optional=optional) for name, arrow in arrows.items()}


def without(name: str) -> Coupling:
    """Return the coupling of a class without a field for the size of its heads."""
    return Coupling(
        field="num_attention_heads", keeps="key", formula="hidden_size / keep",
        because=f"{name} has no head_dim of its own, it is hidden_size / num_attention_heads",
    )  # fmt: skip


VIT = Architecture(
    name="vit",
    model_types=("vit",),
    sizes={
        "layer": "num_hidden_layers",
        "channels": "num_channels",
        "patch_height": "patch_height",
        "patch_width": "patch_width",
        "positions": "positions",
        "stream": "hidden_size",
        "mlp": "intermediate_size",
        "heads": "num_attention_heads",
        "key": _HEAD,
        "value": _HEAD,
        "labels": "labels",
        "pooled": "pooler_output_size or hidden_size",
        "one": "1",
        "pixels": "pixels",
    },
    arrows={
        "embeddings.cls_token": parameter("-> stream", leading=2),
        "embeddings.mask_token": parameter("-> stream", leading=2, optional=True),
        "embeddings.position_embeddings": embedding("positions -> stream", leading=1, bare=True),
        "embeddings.patch_embeddings.projection": convolution(
            "channels -> stream", kernel=("patch_height", "patch_width")
        ),
        **layers(),
        "layernorm": layer_norm("stream -> final", eps=_EPS),
        "pooler.dense": linear("final -> pooled", bias=True, optional=True),
        "classifier": linear("final -> labels", bias=True, optional=True),
        "decoder.0": convolution("final -> pixels", kernel=("one", "one"), optional=True),
    },
    attention=(Attention(query="q", key="k", value="v", output="attended", over=("key",), scale=f"1 / sqrt({_HEAD})"),),
    defaults={
        "num_channels": 3, "layer_norm_eps": 1e-12, "qkv_bias": True, "pooler_output_size": "hidden_size",
        "initializer_range": 0.02,
    },
    inferred=("labels", "positions", "patch_height", "patch_width", "pixels"),
    coupled=(without("ViT"),),
    fixed={
        "channels": "colours of an image are not a size of the model",
        "patch_height": "larger patches see other pixels",
        "patch_width": "larger patches see other pixels",
        "positions": "more patches have no source",
        "labels": "a classifier's labels are not a size of the model",
        "pooled": "the pooler's output is not a size of the model",
        "one": "a convolution of one place",
        "pixels": "what is painted is an image",
    },
    layer_numbers={"out_indices": "{}", "out_features": "stage{}", "stage_names": "stage{}"},
    roles={
        "hidden": "hidden_size", "mlp": "intermediate_size", "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
    },
    prefix="vit",
    heads=("classifier", "decoder"),
    renames=(
        (r"(^|\.)encoder\.layer\.", r"\1layers."),
        (r"attention\.attention\.query\.", "attention.q_proj."),
        (r"attention\.attention\.key\.", "attention.k_proj."),
        (r"attention\.attention\.value\.", "attention.v_proj."),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"(layers\.\d+)\.output\.dense", r"\1.mlp.fc2"),
    ),
)  # fmt: skip

DEIT = VIT.extend(
    "deit",
    model_types=("deit",),
    arrows={
        "embeddings.distillation_token": parameter("-> stream", leading=2),
        "cls_classifier": linear("final -> labels", bias=True, optional=True),
        "distillation_classifier": linear("final -> labels", bias=True, optional=True),
    },
    prefix="deit",
    heads=("classifier", "cls_classifier", "distillation_classifier", "decoder"),
)

# Saved by transformers 5, the layers of these have no prefix, though the rest has one.
VIT_MSN = VIT.extend(
    "vit_msn", model_types=("vit_msn",), defaults={"layer_norm_eps": 1e-6}, heads=("classifier", "layers")
)

IJEPA = VIT.extend(
    "ijepa", model_types=("ijepa",), arrows={"embeddings.cls_token": None}, prefix="ijepa", heads=("classifier",)
)
