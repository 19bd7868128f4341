"""DINOv2 and its like: ViT with LayerScale, whose MLP is a multiple of hidden_size, and with registers."""

from growformer.architecture.declaration import (
    Packed,
    Rotary,
    convolution,
    embedding,
    layer_norm,
    layer_scale,
    linear,
    parameter,
)
from growformer.architecture.families.bert import renamed
from growformer.architecture.families.vit import VIT, layers, without

_EPS = "layer_norm_eps"
_LAYER = "encoder.layer.{layer}"
_SWIGLU = "use_swiglu_ffn"

DINOV2 = VIT.extend(
    "dinov2",
    model_types=("dinov2",),
    sizes={
        # The gated MLP has two thirds of the other's size, rounded up to a multiple of 8.
        "mlp": "int((int(int(hidden_size * mlp_ratio) * 2 / 3) + 7) / 8) * 8 "
        "if use_swiglu_ffn else int(hidden_size * mlp_ratio)",
        "pooled": None, "one": None, "pixels": None,
    },
    arrows={
        **dict.fromkeys(layers()),
        "embeddings.mask_token": parameter("-> stream", leading=1, when="use_mask_token"),
        f"{_LAYER}.norm1": layer_norm("stream -> normed", eps=_EPS),
        f"{_LAYER}.attention.q_proj": linear("normed -> q:(heads key)", bias="qkv_bias"),
        f"{_LAYER}.attention.k_proj": linear("normed -> k:(heads key)", bias="qkv_bias"),
        f"{_LAYER}.attention.v_proj": linear("normed -> v:(heads value)", bias="qkv_bias"),
        f"{_LAYER}.attention.o_proj": linear("attended:(heads value) -> attention_branch:stream", bias=True),
        f"{_LAYER}.layer_scale1.lambda1": layer_scale("attention_branch -> stream"),
        f"{_LAYER}.norm2": layer_norm("stream -> mlp_normed", eps=_EPS),
        f"{_LAYER}.mlp.fc1": linear("mlp_normed -> mlp", bias=True, when=f"not {_SWIGLU}"),
        f"{_LAYER}.mlp.fc2": linear("mlp -> mlp_branch:stream", bias=True, when=f"not {_SWIGLU}"),
        f"{_LAYER}.mlp.gate_proj": linear("mlp_normed -> mlp", bias=True, when=_SWIGLU),
        f"{_LAYER}.mlp.up_proj": linear("mlp_normed -> mlp", bias=True, when=_SWIGLU),
        f"{_LAYER}.mlp.down_proj": linear("mlp -> mlp_branch:stream", bias=True, when=_SWIGLU),
        f"{_LAYER}.layer_scale2.lambda1": layer_scale("mlp_branch -> stream"),
        "pooler.dense": None,
        "classifier": linear("[final:stream final:stream] -> labels", bias=True, optional=True),
        "decoder.0": None,
    },
    defaults={
        "layer_norm_eps": 1e-6, "pooler_output_size": None, "mlp_ratio": 4, "use_swiglu_ffn": False,
        "use_mask_token": True,
    },
    inferred=("labels", "positions", "patch_height", "patch_width"),
    coupled=(without("DINOv2"),),
    fixed={"pooled": None, "one": None, "pixels": None},
    roles={"hidden": "hidden_size", "heads": "num_attention_heads", "layers": "num_hidden_layers"},
    prefix="dinov2",
    heads=("classifier",),
    packed={
        f"{_LAYER}.mlp.weights_in.{part}": Packed(
            parts=(f"{_LAYER}.mlp.gate_proj.{part}", f"{_LAYER}.mlp.up_proj.{part}")
        )
        for part in ("weight", "bias")
    },
    renames=(
        (r"attention\.attention\.query\.", "attention.q_proj."),
        (r"attention\.attention\.key\.", "attention.k_proj."),
        (r"attention\.attention\.value\.", "attention.v_proj."),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"mlp\.weights_out", "mlp.down_proj"),
    ),
)  # fmt: skip

DINOV2_WITH_REGISTERS = DINOV2.extend(
    "dinov2_with_registers",
    model_types=("dinov2_with_registers",),
    sizes={"registers": "num_register_tokens"},
    arrows={
        "embeddings.mask_token": parameter("-> stream", leading=1),
        "embeddings.register_tokens": embedding("registers -> stream", leading=1, bare=True),
    },
    defaults={"num_register_tokens": 4},
    fixed={"registers": "more registers change what patches attend to"},
    prefix="dinov2_with_registers",
)

PIXIO = VIT.extend(
    "pixio",
    model_types=("pixio",),
    sizes={
        "mlp": "int(hidden_size * mlp_ratio)", "summaries": "n_cls_tokens",
        **dict.fromkeys(("pooled", "one", "pixels", "labels")),
    },
    arrows={
        "embeddings.cls_token": embedding("summaries -> stream", leading=1, bare=True),
        "embeddings.mask_token": None,
        "pooler.dense": None,
        "classifier": None,
        "decoder.0": None,
    },
    defaults={"layer_norm_eps": 1e-6, "pooler_output_size": None, "mlp_ratio": 4, "n_cls_tokens": 8},
    inferred=("positions", "patch_height", "patch_width"),
    coupled=(without("Pixio"),),
    fixed={
        "summaries": "more class tokens have no source", **dict.fromkeys(("pooled", "one", "pixels", "labels")),
    },
    roles={"mlp": None},
    prefix="pixio",
    heads=(),
    renames=((r"norm1\.", "layernorm_before."), (r"norm2\.", "layernorm_after."), *VIT.renames),
)  # fmt: skip

_GATED = "use_gated_mlp"

DINOV3 = DINOV2.extend(
    "dinov3_vit",
    model_types=("dinov3_vit",),
    sizes={
        "mlp": "intermediate_size", "registers": "num_register_tokens", "positions": None, "labels": None,
        "turn": "hidden_size / num_attention_heads / 4",
    },
    arrows={
        **dict.fromkeys(DINOV2.arrows),
        **renamed(
            {n: a for n, a in DINOV2.arrows.items() if n.startswith(_LAYER) and ".mlp." not in n and "_proj" not in n},
            {"encoder.layer": "model.layer"},
        ),
        "embeddings.cls_token": parameter("-> stream", leading=2),
        "embeddings.mask_token": parameter("-> stream", leading=2),
        "embeddings.register_tokens": embedding("registers -> stream", leading=1, bare=True),
        "embeddings.patch_embeddings": convolution("channels -> stream", kernel=("patch_height", "patch_width")),
        "model.layer.{layer}.attention.q_proj": linear("normed -> q:(heads key)", bias="query_bias"),
        "model.layer.{layer}.attention.k_proj": linear("normed -> k:(heads key)", bias="key_bias"),
        "model.layer.{layer}.attention.v_proj": linear("normed -> v:(heads value)", bias="value_bias"),
        "model.layer.{layer}.attention.o_proj": linear(
            "attended:(heads value) -> attention_branch:stream", bias="proj_bias"
        ),
        "model.layer.{layer}.mlp.gate_proj": linear("mlp_normed -> mlp", bias="mlp_bias", when=_GATED),
        "model.layer.{layer}.mlp.up_proj": linear("mlp_normed -> mlp", bias="mlp_bias"),
        "model.layer.{layer}.mlp.down_proj": linear("mlp -> mlp_branch:stream", bias="mlp_bias"),
        "norm": layer_norm("stream -> final", eps=_EPS),
    },
    rotary=(Rotary(frequency="turn", of="hidden_size / num_attention_heads"),),
    defaults={
        "layer_norm_eps": 1e-5, "mlp_ratio": None, "use_swiglu_ffn": None, "use_mask_token": None, "qkv_bias": None,
        "query_bias": True, "key_bias": False, "value_bias": True, "proj_bias": True, "mlp_bias": True,
        "use_gated_mlp": False, "num_register_tokens": 0,
    },
    inferred=("patch_height", "patch_width"),
    fixed={
        "positions": None, "labels": None, "registers": "more registers change what patches attend to",
        "turn": "angles go with the size of a head; let the number of heads grow",
        "key": "angles by rows and columns go with the size of a head; let the number of heads grow",
    },
    roles=VIT.roles,
    prefix="",
    heads=(),
    renames=((r"^layer\.", "model.layer."),),
    packed=dict.fromkeys(DINOV2.packed),
)  # fmt: skip
