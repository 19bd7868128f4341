"""ModernBERT: pre-norm with a LayerNorm after the embedding, so that layer 0 has none before its attention."""

from growformer.architecture.declaration import (
    Add,
    Architecture,
    Attention,
    Coupling,
    LayerKind,
    Rotary,
    embedding,
    layer_norm,
    linear,
)
from growformer.architecture.families.bert import BERT

_EPS, _BIAS = "norm_eps", "norm_bias"
_HEAD = "hidden_size / num_attention_heads"
_LAYER = "layers.{layer}"

MODERNBERT = Architecture(
    name="modernbert",
    model_types=("modernbert",),
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "stream": "hidden_size",
        "mlp": "intermediate_size",
        "heads": "num_attention_heads",
        "pair": "2",
        "freq": f"{_HEAD} / 2",
        "value": _HEAD,
        "labels": "labels",
    },
    arrows={
        "embeddings.tok_embeddings": embedding("vocab -> embedded:stream"),
        "embeddings.norm": layer_norm("embedded -> stream", eps=_EPS, bias=_BIAS),
        f"{_LAYER}.attn_norm": layer_norm("stream -> normed", eps=_EPS, bias=_BIAS, when="layer > 0"),
        f"{_LAYER}.attn.Wqkv": linear(
            "normed -> [q:(heads pair freq) k:(heads pair freq) v:(heads value)]", bias="attention_bias"
        ),
        f"{_LAYER}.attn.Wo": linear("attended:(heads value) -> stream", bias="attention_bias"),
        f"{_LAYER}.mlp_norm": layer_norm("stream -> mlp_normed", eps=_EPS, bias=_BIAS),
        f"{_LAYER}.mlp.Wi": linear("mlp_normed -> [mlp:mlp mlp:mlp]", bias="mlp_bias"),
        f"{_LAYER}.mlp.Wo": linear("mlp -> stream", bias="mlp_bias"),
        "final_norm": layer_norm("stream -> final", eps=_EPS, bias=_BIAS),
        "head.dense": linear("final -> transformed:stream", bias="classifier_bias", optional=True),
        "head.norm": layer_norm("transformed -> prediction", eps=_EPS, bias=_BIAS, optional=True),
        "decoder": linear("prediction -> vocab", bias="decoder_bias", optional=True),
        "classifier": linear("prediction -> labels", bias=True, optional=True),
    },
    attention=(
        Attention(
            query="q", key="k", value="v", output="attended", over=("pair", "freq"), scale=f"1 / sqrt({_HEAD})"
        ),
    ),
    adds=(Add(source="stream", target="normed", when="layer == 0"),),
    rotary=(
        Rotary(
            frequency="freq", of=_HEAD,
            legacy={"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
        ),
    ),
    activated=("transformed",),
    ties={"decoder.weight": "embeddings.tok_embeddings.weight"},
    tie_field="tie_word_embeddings",
    defaults={
        "norm_eps": 1e-5, "norm_bias": False, "attention_bias": False, "mlp_bias": False, "classifier_bias": False,
        "decoder_bias": True, "tie_word_embeddings": True, "initializer_range": 0.02, "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
    },
    inferred=("labels",),
    coupled=(
        Coupling(
            field="num_attention_heads", keeps="value", formula="hidden_size / keep",
            because="ModernBERT has no head_dim of its own, it is hidden_size / num_attention_heads",
        ),
    ),
    fixed={"vocab": BERT.fixed["vocab"], "labels": BERT.fixed["labels"], "pair": "a rotary plane has two coordinates"},
    layer_lists=("layer_types",),
    layer_rules={
        "layer_types": "'sliding_attention' if layer % global_attn_every_n_layers else 'full_attention'",
    },
    kinds=(LayerKind(when="layer == 0", because="layer 0 has no LayerNorm before its attention"),),
    roles=BERT.roles,
    prefix="model",
    heads=("head", "decoder", "classifier"),
)  # fmt: skip
