"""ViT: patches through a convolution, a class token and learned positions, LayerNorm before each branch."""

from growformer.architecture.declaration import (
    Architecture,
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

VIT = Architecture(
    name="vit",
    model_types=("vit",),
    sizes={
        "layer": "num_hidden_layers",
        "channels": "num_channels",
        "patch": "patch_size",
        "positions": "int(image_size / patch_size) * int(image_size / patch_size) + 1",
        "stream": "hidden_size",
        "mlp": "intermediate_size",
        "heads": "num_attention_heads",
        "key": _HEAD,
        "value": _HEAD,
        "labels": "labels",
        "pooled": "pooler_output_size or hidden_size",
    },
    arrows={
        "embeddings.cls_token": parameter("-> stream", leading=2),
        "embeddings.mask_token": parameter("-> stream", leading=2, optional=True),
        "embeddings.position_embeddings": embedding("positions -> stream", leading=1, bare=True),
        "embeddings.patch_embeddings.projection": convolution("channels -> stream", kernel=("patch", "patch")),
        "layers.{layer}.layernorm_before": layer_norm("stream -> normed", eps=_EPS),
        "layers.{layer}.attention.q_proj": linear("normed -> q:(heads key)", bias="qkv_bias"),
        "layers.{layer}.attention.k_proj": linear("normed -> k:(heads key)", bias="qkv_bias"),
        "layers.{layer}.attention.v_proj": linear("normed -> v:(heads value)", bias="qkv_bias"),
        "layers.{layer}.attention.o_proj": linear("attended:(heads value) -> stream", bias=True),
        "layers.{layer}.layernorm_after": layer_norm("stream -> mlp_normed", eps=_EPS),
        "layers.{layer}.mlp.fc1": linear("mlp_normed -> mlp", bias=True),
        "layers.{layer}.mlp.fc2": linear("mlp -> stream", bias=True),
        "layernorm": layer_norm("stream -> final", eps=_EPS),
        "pooler.dense": linear("final -> pooled", bias=True, optional=True),
        "classifier": linear("final -> labels", bias=True, optional=True),
    },
    attention=(Attention(query="q", key="k", value="v", output="attended", over=("key",), scale=f"1 / sqrt({_HEAD})"),),
    defaults={
        "num_channels": 3, "patch_size": 16, "image_size": 224, "layer_norm_eps": 1e-12, "qkv_bias": True,
        "pooler_output_size": "hidden_size", "initializer_range": 0.02,
    },
    inferred=("labels",),
    coupled=(
        Coupling(
            field="num_attention_heads", keeps="key", formula="hidden_size / keep",
            because="ViT has no head_dim of its own, it is hidden_size / num_attention_heads",
        ),
    ),
    fixed={
        "channels": "colours of an image are not a size of the model",
        "patch": "larger patches see other pixels",
        "positions": "more patches have no source",
        "labels": "a classifier's labels are not a size of the model",
        "pooled": "the pooler's output is not a size of the model",
    },
    roles={
        "hidden": "hidden_size", "mlp": "intermediate_size", "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
    },
    prefix="vit",
    heads=("classifier",),
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
