"""ALBERT: post-norm layers that are run several times over, and embeddings of a size of their own."""

from growformer.architecture.declaration import Architecture, embedding, layer_norm, linear, parameter
from growformer.architecture.families.bert import BERT

_EPS = "layer_norm_eps"
_LAYER = "encoder.albert_layer_groups.{group}.albert_layers.{layer}"

ALBERT = Architecture(
    name="albert",
    model_types=("albert",),
    sizes={
        **{axis: size for axis, size in BERT.sizes.items() if axis != "relations"},
        "group": "num_hidden_groups",
        "layer": "inner_group_num",
        "repeats": "num_hidden_layers",
        "embedded": "embedding_size",
    },
    arrows={
        "embeddings.word_embeddings": embedding("vocab -> embedded_sum:embedded"),
        "embeddings.position_embeddings": embedding("positions -> embedded_sum"),
        "embeddings.token_type_embeddings": embedding("types -> embedded_sum"),
        "embeddings.LayerNorm": layer_norm("embedded_sum -> embedded", eps=_EPS),
        "encoder.embedding_hidden_mapping_in": linear("embedded -> stream", bias=True),
        f"{_LAYER}.attention.query": linear("stream -> q:(heads key)", bias=True),
        f"{_LAYER}.attention.key": linear("stream -> k:(heads key)", bias=True),
        f"{_LAYER}.attention.value": linear("stream -> v:(heads value)", bias=True),
        f"{_LAYER}.attention.dense": linear("attended:(heads value) -> summed:stream", bias=True),
        f"{_LAYER}.attention.LayerNorm": layer_norm("summed -> stream", eps=_EPS),
        f"{_LAYER}.ffn": linear("stream -> mlp", bias=True),
        f"{_LAYER}.ffn_output": linear("mlp -> summed", bias=True),
        f"{_LAYER}.full_layer_layer_norm": layer_norm("summed -> stream", eps=_EPS),
        "pooler": linear("stream -> pooled:stream", bias=True, optional=True),
        "predictions.dense": linear("stream -> transformed:embedded", bias=True, optional=True),
        "predictions.LayerNorm": layer_norm("transformed -> prediction", eps=_EPS, optional=True),
        "predictions.bias": parameter("-> vocab", optional=True),
        "predictions.decoder": linear("prediction -> vocab", bias=True, optional=True),
        "sop_classifier.classifier": linear("pooled -> labels", bias=True, optional=True),
        "classifier": linear("pooled -> labels", bias=True, optional=True, otherwise="stream"),
        "qa_outputs": linear("stream -> labels", bias=True, optional=True),
    },
    attention=BERT.attention,
    adds=BERT.adds,
    activated=("transformed",),
    ties={
        "predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    tie_field="tie_word_embeddings",
    defaults={
        "embedding_size": 128, "num_hidden_groups": 1, "inner_group_num": 1, "type_vocab_size": 2,
        "max_position_embeddings": 512, "layer_norm_eps": 1e-12, "tie_word_embeddings": True, "initializer_range": 0.02,
    },
    inferred=("labels",),
    coupled=BERT.coupled,
    fixed={
        **{axis: reason for axis, reason in BERT.fixed.items() if axis != "relations"},
        "repeats": "it says how often the same layers are run; what adds a layer to each run is inner_group_num",
        "group": "it says which layers are run when; what adds a layer to each run is inner_group_num",
    },
    roles={**BERT.roles, "layers": "inner_group_num"},
    prefix="albert",
    heads=("predictions", "sop_classifier", "classifier", "qa_outputs"),
    renames=BERT.renames,
    ignored={r"(albert\.)?embeddings\.(position_ids|token_type_ids)": "a buffer of older versions: 0, 1, 2, …"},
)  # fmt: skip
