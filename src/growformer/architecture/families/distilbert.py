"""DistilBERT: BERT without token types and pooler, under other names, and epsilons that are constants."""

from growformer.architecture.declaration import Architecture, Attention, Coupling, embedding, layer_norm, linear
from growformer.architecture.families.bert import BERT

_EPS = 1e-12
_LAYER = "transformer.layer.{layer}"

DISTILBERT = Architecture(
    name="distilbert",
    model_types=("distilbert",),
    sizes={
        "layer": "n_layers",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
        "stream": "dim",
        "mlp": "hidden_dim",
        "heads": "n_heads",
        "key": "dim / n_heads",
        "value": "dim / n_heads",
        "labels": "labels",
    },
    arrows={
        "embeddings.word_embeddings": embedding("vocab -> summed:stream"),
        "embeddings.position_embeddings": embedding("positions -> summed:stream"),
        "embeddings.LayerNorm": layer_norm("summed -> stream", eps=_EPS),
        f"{_LAYER}.attention.q_lin": linear("stream -> q:(heads key)", bias=True),
        f"{_LAYER}.attention.k_lin": linear("stream -> k:(heads key)", bias=True),
        f"{_LAYER}.attention.v_lin": linear("stream -> v:(heads value)", bias=True),
        f"{_LAYER}.attention.out_lin": linear("attended:(heads value) -> summed", bias=True),
        f"{_LAYER}.sa_layer_norm": layer_norm("summed -> stream", eps=_EPS),
        f"{_LAYER}.ffn.lin1": linear("stream -> mlp", bias=True),
        f"{_LAYER}.ffn.lin2": linear("mlp -> summed", bias=True),
        f"{_LAYER}.output_layer_norm": layer_norm("summed -> stream", eps=_EPS),
        "vocab_transform": linear("stream -> transformed:stream", bias=True, optional=True),
        "vocab_layer_norm": layer_norm("transformed -> prediction", eps=_EPS, optional=True),
        "vocab_projector": linear("prediction -> vocab", bias=True, optional=True),
        "pre_classifier": linear("stream -> pooled:stream", bias=True, optional=True),
        "classifier": linear("pooled -> labels", bias=True, optional=True, otherwise="stream"),
        "qa_outputs": linear("stream -> labels", bias=True, optional=True),
    },
    attention=(
        Attention(query="q", key="k", value="v", output="attended", over=("key",), scale="1 / sqrt(dim / n_heads)"),
    ),
    adds=BERT.adds,
    activated=BERT.activated,
    ties={"vocab_projector.weight": "embeddings.word_embeddings.weight"},
    tie_field="tie_word_embeddings",
    defaults={"max_position_embeddings": 512, "tie_word_embeddings": True, "initializer_range": 0.02},
    inferred=("labels",),
    coupled=(
        Coupling(
            field="n_heads", keeps="key", formula="dim / keep",
            because="DistilBERT has no head_dim of its own, it is dim / n_heads",
        ),
    ),
    fixed={name: BERT.fixed[name] for name in ("vocab", "positions", "labels")},
    aliases={
        "hidden_size": "dim", "intermediate_size": "hidden_dim", "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    },
    roles={"hidden": "dim", "mlp": "hidden_dim", "heads": "n_heads", "layers": "n_layers"},
    prefix="distilbert",
    heads=("vocab_transform", "vocab_layer_norm", "vocab_projector", "pre_classifier", "classifier", "qa_outputs"),
    renames=BERT.renames,
    ignored={r"(distilbert\.)?embeddings\.position_ids": "a buffer of older versions: 0, 1, 2, …"},
)  # fmt: skip
