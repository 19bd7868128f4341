"""BERT: post-norm. ``summed = stream + branch``, then ``stream = LayerNorm(summed)``."""

from collections.abc import Collection, Mapping

from growformer.architecture.declaration import (
    Architecture,
    Arrow,
    Attention,
    Coupling,
    embedding,
    layer_norm,
    linear,
    parameter,
)


def renamed(arrows: Mapping[str, Arrow], names: Mapping[str, str], without: Collection[str] = ()) -> dict[str, Arrow]:
    """Return arrows in the same order, parts of their names exchanged, some left out."""

    def other(name: str) -> str:
        for before, after in names.items():
            name = name.replace(before, after)
        return name

    return {other(name): arrow for name, arrow in arrows.items() if name not in without}


BERT = Architecture(
    name="bert",
    model_types=("bert",),
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
        "types": "type_vocab_size",
        "stream": "hidden_size",
        "mlp": "intermediate_size",
        "heads": "num_attention_heads",
        "key": "hidden_size / num_attention_heads",
        "value": "hidden_size / num_attention_heads",
        "labels": "labels",
        "relations": "2",
    },
    arrows={
        "embeddings.word_embeddings": embedding("vocab -> summed:stream"),
        "embeddings.position_embeddings": embedding("positions -> summed:stream"),
        "embeddings.token_type_embeddings": embedding("types -> summed:stream"),
        "embeddings.LayerNorm": layer_norm("summed -> stream", eps="layer_norm_eps"),
        "encoder.layer.{layer}.attention.self.query": linear("stream -> q:(heads key)", bias=True),
        "encoder.layer.{layer}.attention.self.key": linear("stream -> k:(heads key)", bias=True),
        "encoder.layer.{layer}.attention.self.value": linear("stream -> v:(heads value)", bias=True),
        "encoder.layer.{layer}.attention.output.dense": linear("attended:(heads value) -> summed", bias=True),
        "encoder.layer.{layer}.attention.output.LayerNorm": layer_norm("summed -> stream", eps="layer_norm_eps"),
        "encoder.layer.{layer}.intermediate.dense": linear("stream -> mlp", bias=True),
        "encoder.layer.{layer}.output.dense": linear("mlp -> summed", bias=True),
        "encoder.layer.{layer}.output.LayerNorm": layer_norm("summed -> stream", eps="layer_norm_eps"),
        "pooler.dense": linear("stream -> pooled:stream", bias=True, optional=True),
        "cls.predictions.transform.dense": linear("stream -> transformed:stream", bias=True, optional=True),
        "cls.predictions.transform.LayerNorm": layer_norm(
            "transformed -> prediction", eps="layer_norm_eps", optional=True
        ),
        "cls.predictions.bias": parameter("-> vocab", optional=True),
        "cls.predictions.decoder": linear("prediction -> vocab", bias=True, optional=True),
        "cls.seq_relationship": linear("pooled -> relations", bias=True, optional=True),
        # A sequence classifier reads what is pooled, a token classifier of the same name the stream.
        "classifier": linear("pooled -> labels", bias=True, optional=True, otherwise="stream"),
        "qa_outputs": linear("stream -> labels", bias=True, optional=True),
    },
    attention=(
        Attention(
            query="q", key="k", value="v", output="attended", over=("key",),
            scale="1 / sqrt(hidden_size / num_attention_heads)",
        ),
    ),
    adds=(("stream", "summed"),),
    activated=("transformed",),
    ties={
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    tie_field="tie_word_embeddings",
    defaults={
        "type_vocab_size": 2,
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "add_cross_attention": False,
    },
    constants={"add_cross_attention": (False, "BERT with cross-attention is not described yet")},
    inferred=("labels",),
    coupled=(
        Coupling(
            field="num_attention_heads", keeps="key", formula="hidden_size / keep",
            because="BERT has no head_dim of its own, it is hidden_size / num_attention_heads",
        ),
    ),
    fixed={
        "vocab": "a larger vocabulary changes the output distribution; use resize_token_embeddings",
        "positions": "positions past the table have no source",
        "types": "token types are not a size of the model",
        "labels": "a classifier's labels are not a size of the model",
        "relations": "next-sentence prediction has two classes",
    },
    roles={
        "hidden": "hidden_size",
        "mlp": "intermediate_size",
        "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
    },
    prefix="bert",
    heads=("cls", "classifier", "qa_outputs"),
    renames=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    ignored={r"(bert\.)?embeddings\.(position_ids|token_type_ids)": "a buffer of older versions: 0, 1, 2, …"},
)  # fmt: skip
