"""Encoders that rotate queries and keys: post-norm as BERT (Nomic BERT, Jina v3, GTE), pre-norm as Llama (EuroBERT)."""

from dataclasses import replace

from growformer.architecture.declaration import (
    Packed,
    Rotary,
    embedding,
    layer_norm,
    linear,
    parameter,
)
from growformer.architecture.families.bert import BERT
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.roberta import CLASSIFIERS, HEADS, LM_HEAD, TIES

_EPS = "layer_norm_eps"
_LAYER = "layers.{layer}"
_HEAD = "hidden_size / num_attention_heads"


def _fused(target: str, sources: tuple[str, ...]) -> dict[str, Packed]:
    """Return how checkpoints store several matrices of a layer, with their biases, as one."""
    return {
        f"{_LAYER}.{target}.{part}": Packed(parts=tuple(f"{_LAYER}.{source}.{part}" for source in sources))
        for part in ("weight", "bias")
    }


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_EMBEDDINGS = {
    "embeddings.word_embeddings": embedding("vocab -> summed:stream"),
    "embeddings.token_type_embeddings": embedding("types -> summed:stream", when="type_vocab_size"),
    "embeddings.LayerNorm": layer_norm("summed -> stream", eps=_EPS),
}
_ATTENTION = {
    f"{_LAYER}.self_attn.q_proj": linear("stream -> q:(heads pair freq)", bias=True),
    f"{_LAYER}.self_attn.k_proj": linear("stream -> k:(heads pair freq)", bias=True),
    f"{_LAYER}.self_attn.v_proj": linear("stream -> v:(heads value)", bias=True),
    f"{_LAYER}.self_attn.o_proj": linear("attended:(heads value) -> summed", bias=True),
    f"{_LAYER}.post_attention_layernorm": layer_norm("summed -> stream", eps=_EPS),
}
_LAST_NORM = {f"{_LAYER}.post_mlp_layernorm": layer_norm("summed -> stream", eps=_EPS)}
_POOLER = {"pooler.dense": BERT.arrows["pooler.dense"], "qa_outputs": BERT.arrows["qa_outputs"]}

JINA_V3 = replace(
    BERT,
    name="jina_embeddings_v3",
    model_types=("jina_embeddings_v3",),
    sizes={
        **{a: s for a, s in BERT.sizes.items() if a not in ("positions", "key", "relations")},
        "pair": "2", "freq": f"{_HEAD} / 2",
    },
    arrows={
        **_EMBEDDINGS,
        **_ATTENTION,
        f"{_LAYER}.mlp.fc1": linear("stream -> mlp", bias=True),
        f"{_LAYER}.mlp.fc2": linear("mlp -> summed", bias=True),
        **_LAST_NORM, **LM_HEAD, **CLASSIFIERS, **_POOLER,
    },
    attention=(replace(BERT.attention[0], over=("pair", "freq")),),
    rotary=(Rotary(frequency="freq", of=_HEAD, theta=20000.0),),
    ties={head: table for head, table in TIES.items() if table},
    defaults={"type_vocab_size": 1, "layer_norm_eps": 1e-5, "tie_word_embeddings": True, "initializer_range": 0.02},
    constants={},
    coupled=(replace(BERT.coupled[0], keeps="value"),),
    fixed={**{a: BERT.fixed[a] for a in ("vocab", "types", "labels")}, "pair": "a rotary plane has two coordinates"},
    prefix="roberta",
    heads=HEADS,
    renames=(
        (r"emb_ln\.", "embeddings.LayerNorm."),
        (r"encoder\.layers\.", "layers."),
        (r"mixer\.out_proj\.", "self_attn.o_proj."),
        (r"mixer\.Wqkv\.", "self_attn.qkv_proj."),
        (r"\.norm1\.", ".post_attention_layernorm."),
        (r"\.norm2\.", ".post_mlp_layernorm."),
    ),
    ignored={},
    packed=_fused("self_attn.qkv_proj", _QKV),
)  # fmt: skip

GTE = replace(
    JINA_V3,
    name="gte",
    model_types=("gte",),
    arrows={
        **_EMBEDDINGS,
        **_ATTENTION,
        f"{_LAYER}.mlp.gate_proj": linear("stream -> mlp"),
        f"{_LAYER}.mlp.up_proj": linear("stream -> mlp"),
        f"{_LAYER}.mlp.down_proj": linear("mlp -> summed", bias=True),
        **_LAST_NORM, **{n: a for n, a in LM_HEAD.items() if n != "lm_head.bias"}, **CLASSIFIERS, **_POOLER,
    },
    rotary=(Rotary(frequency="freq", of=_HEAD, theta=160000.0),),
    ties={"lm_head.decoder.weight": "embeddings.word_embeddings.weight"},
    defaults={**JINA_V3.defaults, "layer_norm_eps": 1e-12},
    prefix="gte",
    renames=(
        (r"encoder\.layer\.", "layers."),
        (r"attention\.o_proj\.", "self_attn.o_proj."),
        (r"attention\.qkv_proj\.", "self_attn.qkv_proj."),
        (r"attn_ln\.", "post_attention_layernorm."),
        (r"mlp_ln\.", "post_mlp_layernorm."),
        (r"lm_head\.norm\.", "lm_head.layer_norm."),
    ),
    packed={
        **JINA_V3.packed,
        f"{_LAYER}.mlp.up_gate_proj.weight": Packed(
            parts=(f"{_LAYER}.mlp.up_proj.weight", f"{_LAYER}.mlp.gate_proj.weight")
        ),
    },
)  # fmt: skip

NOMIC_BERT = replace(
    JINA_V3,
    name="nomic_bert",
    model_types=("nomic_bert",),
    sizes={**JINA_V3.sizes, "freq": "head_dim / 2", "value": "head_dim"},
    arrows={
        **_EMBEDDINGS,
        **{name: replace(arrow, bias=arrow.kind == "norm") for name, arrow in _ATTENTION.items()},
        f"{_LAYER}.mlp.gate_proj": linear("stream -> mlp"),
        f"{_LAYER}.mlp.up_proj": linear("stream -> mlp"),
        f"{_LAYER}.mlp.down_proj": linear("mlp -> summed"),
        **_LAST_NORM,
        "cls.predictions.transform.dense": linear("stream -> transformed:stream", bias=True, optional=True),
        "cls.predictions.transform.layer_norm": layer_norm("transformed -> prediction", eps=_EPS, optional=True),
        "cls.predictions.bias": parameter("-> vocab", optional=True),
        "cls.predictions.decoder": linear("prediction -> vocab", bias=True, optional=True),
        "classifier": BERT.arrows["classifier"], **_POOLER,
    },
    attention=(replace(JINA_V3.attention[0], scale="1 / sqrt(head_dim)"),),
    rotary=(Rotary(frequency="freq", of="head_dim", theta=1000.0),),
    ties=BERT.ties,
    defaults={**JINA_V3.defaults, "layer_norm_eps": 1e-12, "type_vocab_size": 2, "head_dim": _HEAD},
    coupled=(),
    roles={**BERT.roles, "key": "head_dim", "value": "head_dim"},
    prefix="nomic_bert",
    heads=("cls", "classifier", "qa_outputs"),
    renames=(
        (r"emb_ln\.", "embeddings.LayerNorm."),
        (r"encoder\.layers\.", "layers."),
        (r"\.attn\.out_proj\.", ".self_attn.o_proj."),
        (r"\.attn\.Wqkv\.", ".self_attn.qkv_proj."),
        (r"\.fc11\.", ".up_proj."), (r"\.fc12\.", ".gate_proj."), (r"\.fc2\.", ".down_proj."),
        (r"\.norm1\.", ".post_attention_layernorm."),
        (r"\.norm2\.", ".post_mlp_layernorm."),
    ),
    packed={f"{_LAYER}.self_attn.qkv_proj.weight": JINA_V3.packed[f"{_LAYER}.self_attn.qkv_proj.weight"]},
)  # fmt: skip

EUROBERT = LLAMA.extend(
    "eurobert",
    model_types=("eurobert",),
    arrows={
        "lm_head": linear("final -> vocab", bias="mlp_bias", optional=True),
        "dense": linear("final -> pooled:stream", bias=True, optional=True),
        "classifier": linear("pooled -> labels", bias=True, optional=True, otherwise="final"),
    },
    sizes={"labels": "labels"},
    inferred=("labels",),
    fixed={"labels": BERT.fixed["labels"]},
    defaults={"rms_norm_eps": 1e-5},
    heads=("lm_head", "dense", "classifier"),
)
