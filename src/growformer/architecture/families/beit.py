"""BEiT and data2vec-vision: ViT with LayerScale, relative biases on scores and no bias on keys."""

from dataclasses import replace

from growformer.architecture.declaration import embedding, layer_norm, layer_scale, linear, parameter
from growformer.architecture.families.vit import VIT, without

_EPS = "layer_norm_eps"
_LAYER = "layers.{layer}"
_TABLE = "relative_position_bias_table"

BEIT = VIT.extend(
    "beit",
    model_types=("beit",),
    sizes={"distances": "distances", "pooled": None, "one": None, "pixels": None},
    arrows={
        "embeddings.mask_token": parameter("-> stream", leading=2, when="use_mask_token"),
        "embeddings.position_embeddings": embedding(
            "positions -> stream", leading=1, bare=True, when="use_absolute_position_embeddings"
        ),
        f"shared_position_bias.{_TABLE}": embedding(
            "distances -> shared_bias:heads", bare=True, when="use_shared_relative_position_bias"
        ),
        f"{_LAYER}.relative_position_bias.{_TABLE}": embedding(
            "distances -> bias:heads", bare=True, when="use_relative_position_bias"
        ),
        f"{_LAYER}.attention.q_proj": linear("normed -> q:(heads key)", bias=True),
        f"{_LAYER}.attention.k_proj": linear("normed -> k:(heads key)"),
        f"{_LAYER}.attention.v_proj": linear("normed -> v:(heads value)", bias=True),
        f"{_LAYER}.attention.o_proj": linear("attended:(heads value) -> attention_branch:stream", bias=True),
        f"{_LAYER}.lambda_1": layer_scale("attention_branch -> stream"),
        f"{_LAYER}.mlp.fc2": linear("mlp -> mlp_branch:stream", bias=True),
        f"{_LAYER}.lambda_2": layer_scale("mlp_branch -> stream"),
        "layernorm": layer_norm("stream -> final", eps=_EPS, when="not use_mean_pooling", optional=True),
        "pooler.dense": None,
        "pooler.layernorm": layer_norm("stream -> final", eps=_EPS, when="use_mean_pooling", optional=True),
        "classifier": linear("final -> labels", bias=True, optional=True),
        "decoder.0": None,
    },
    attention=(replace(VIT.attention[0], per_head=("bias", "shared_bias")),),
    outputs=("stream",),
    defaults={
        "qkv_bias": None, "pooler_output_size": None, "use_mask_token": False, "use_relative_position_bias": False,
        "use_absolute_position_embeddings": False, "use_shared_relative_position_bias": False, "use_mean_pooling": True,
    },
    inferred=("labels", "positions", "patch_height", "patch_width", "distances"),
    coupled=(without("BEiT"),),
    fixed={"distances": "more distances have no source", "pooled": None, "one": None, "pixels": None},
    prefix="beit",
    heads=("classifier",),
    renames=(
        (rf"encoder\.relative_position_bias\.{_TABLE}", f"shared_position_bias.{_TABLE}"),
        (rf"attention\.attention\.relative_position_bias\.{_TABLE}", f"relative_position_bias.{_TABLE}"),
        *VIT.renames,
    ),
    ignored={r".*\.relative_position_index": "computed from the size of the window"},
)  # fmt: skip

DATA2VEC_VISION = BEIT.extend("data2vec_vision", model_types=("data2vec-vision",), prefix="data2vec_vision")
