"""XLM and FlauBERT: post-norm, names numbered by layer at their end, an MLP of four times the stream."""

from growformer.architecture.declaration import Architecture, Attention, Coupling, embedding, layer_norm, linear
from growformer.architecture.families.bert import BERT

_EPS = "layer_norm_eps"

XLM = Architecture(
    name="xlm",
    model_types=("xlm",),
    sizes={
        "layer": "n_layers",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
        "languages": "n_langs",
        "stream": "emb_dim",
        "mlp": "4 * emb_dim",
        "heads": "n_heads",
        "key": "emb_dim / n_heads",
        "value": "emb_dim / n_heads",
        "labels": "labels",
    },
    arrows={
        "embeddings": embedding("vocab -> summed:stream"),
        "position_embeddings": embedding("positions -> summed:stream"),
        "lang_embeddings": embedding("languages -> summed:stream", when="n_langs > 1 and use_lang_emb"),
        "layer_norm_emb": layer_norm("summed -> stream", eps=_EPS),
        "attentions.{layer}.q_lin": linear("stream -> q:(heads key)", bias=True),
        "attentions.{layer}.k_lin": linear("stream -> k:(heads key)", bias=True),
        "attentions.{layer}.v_lin": linear("stream -> v:(heads value)", bias=True),
        "attentions.{layer}.out_lin": linear("attended:(heads value) -> summed", bias=True),
        "layer_norm1.{layer}": layer_norm("summed -> stream", eps=_EPS),
        "ffns.{layer}.lin1": linear("stream -> mlp", bias=True),
        "ffns.{layer}.lin2": linear("mlp -> summed", bias=True),
        "layer_norm2.{layer}": layer_norm("summed -> stream", eps=_EPS),
        "pred_layer.proj": linear("head_input:stream -> vocab", bias=True, optional=True),
        "sequence_summary.summary": linear("stream -> labels", bias=True, optional=True),
        "classifier": linear("stream -> labels", bias=True, optional=True),
        "qa_outputs": linear("stream -> labels", bias=True, optional=True),
    },
    attention=(
        Attention(query="q", key="k", value="v", output="attended", over=("key",), scale="1 / sqrt(emb_dim / n_heads)"),
    ),
    adds=(("stream", "summed"), ("stream", "head_input")),
    ties={"pred_layer.proj.weight": "embeddings.weight"},
    tie_field="tie_word_embeddings",
    defaults={
        "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "n_langs": 1, "use_lang_emb": True, "asm": False,
        "tie_word_embeddings": True, "init_std": 0.02, "summary_proj_to_labels": True,
    },
    constants={"asm": (False, "adaptive softmax is not described")},
    inferred=("labels",),
    coupled=(
        Coupling(
            field="n_heads", keeps="key", formula="emb_dim / keep",
            because="XLM has no head_dim of its own, it is emb_dim / n_heads",
        ),
    ),
    fixed={
        **{name: BERT.fixed[name] for name in ("vocab", "positions", "labels")},
        "languages": "languages are not a size of the model",
    },
    aliases={
        "hidden_size": "emb_dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers",
        "n_words": "vocab_size",
    },
    roles={"hidden": "emb_dim", "heads": "n_heads", "layers": "n_layers"},
    prefix="transformer",
    heads=("pred_layer", "sequence_summary", "classifier", "qa_outputs"),
    ignored={r"(transformer\.)?position_ids": "a buffer of older versions: 0, 1, 2, …"},
    std="init_std",
)  # fmt: skip

FLAUBERT = XLM.extend(
    "flaubert",
    model_types=("flaubert",),
    defaults={"pre_norm": False},
    constants={"pre_norm": (False, "its class fails with norms in front of the branches")},
)
