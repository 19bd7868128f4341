"""Falcon: QKV fused in three layouts, MLP beside attention or behind it, rotary or linear biases on scores.

Each is a declaration of its own; the class has no biases but where ``bias`` says so, and keys of a single head are
shared by all queries.
"""

from growformer.architecture.declaration import Alibi, Architecture, Attention, Rotary, embedding, layer_norm, linear
from growformer.architecture.families.gpt2 import HEADS, LABELS, VOCAB, no_head_dim

_EPS = "layer_norm_epsilon"
_HEAD = "hidden_size / num_attention_heads"
_QKV, _OUT = "h.{layer}.self_attention.query_key_value", "h.{layer}.self_attention.dense"
_UP = "h.{layer}.mlp.dense_h_to_4h"
_NORM, _SECOND = "h.{layer}.input_layernorm", "h.{layer}.post_attention_layernorm"
_ATTENTION = Attention(
    query="q", key="k", value="v", output="attended", over=("pair", "freq"), scale=f"1 / sqrt({_HEAD})"
)
_GROUPS = {"kv_heads": "num_kv_heads", "group": "num_attention_heads / num_kv_heads", "heads": None}
_ALIBI = {"attention": (_ATTENTION,), "alibi": (Alibi(heads="heads", slopes="bloom"),), "rotary": ()}
_BIASED = "the class divides its linear biases by sqrt(head_dim)"

FALCON = Architecture(
    name="falcon",
    model_types=("falcon",),
    variant="not new_decoder_architecture and multi_query and parallel_attn and not alibi",
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "stream": "hidden_size",
        "mlp": "ffn_hidden_size",
        "heads": "num_attention_heads",
        "pair": "2",
        "freq": f"{_HEAD} / 2",
        "value": _HEAD,
        "labels": "labels",
    },
    arrows={
        "word_embeddings": embedding("vocab -> stream"),
        _NORM: layer_norm("stream -> normed", eps=_EPS),
        _QKV: linear("normed -> [q:(heads pair freq) k:(pair freq) v:value]", bias="bias"),
        _OUT: linear("attended:(heads value) -> stream", bias="bias"),
        _UP: linear("normed -> mlp", bias="bias"),
        "h.{layer}.mlp.dense_4h_to_h": linear("mlp -> stream", bias="bias"),
        "ln_f": layer_norm("stream -> final", eps=_EPS),
        "lm_head": linear("final -> vocab", optional=True),
        **HEADS,
    },
    attention=(_ATTENTION,),
    rotary=(Rotary(frequency="freq"),),
    ties={"lm_head.weight": "word_embeddings.weight"},
    tie_field="tie_word_embeddings",
    defaults={
        "ffn_hidden_size": "4 * hidden_size",
        "num_kv_heads": "num_attention_heads",
        "layer_norm_epsilon": 1e-5,
        "bias": False,
        "alibi": False,
        "new_decoder_architecture": False,
        "multi_query": True,
        "parallel_attn": True,
        "num_ln_in_parallel_attn": None,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
    },
    follows={"num_kv_heads": "num_attention_heads"},
    inferred=("labels",),
    coupled=no_head_dim("Falcon", "hidden_size", "num_attention_heads", keeps="value"),
    fixed={**VOCAB, **LABELS, "pair": "a rotary plane has two coordinates"},
    aliases={
        "intermediate_size": "ffn_hidden_size", "n_embed": "hidden_size", "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
    },
    roles={
        "hidden": "hidden_size", "mlp": "ffn_hidden_size", "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
    },
    prefix="transformer",
    heads=("lm_head", *HEADS),
    ignored={r"(.*\.)?(rotary_emb|maybe_rotary)\.inv_freq": "a buffer of older versions, computed today"},
)  # fmt: skip

FALCON_SEQUENTIAL = FALCON.extend(
    "falcon_sequential",
    variant="not new_decoder_architecture and multi_query and not parallel_attn and not alibi",
    arrows={
        _SECOND: layer_norm("stream -> mlp_normed", eps=_EPS),
        _UP: linear("mlp_normed -> mlp", bias="bias"),
    },
)
FALCON_MULTI_HEAD = FALCON.extend(
    "falcon_multi_head",
    variant="not new_decoder_architecture and not multi_query and parallel_attn and not alibi",
    arrows={_QKV: linear("normed -> (heads [q:(pair freq) k:(pair freq) v:value])", bias="bias")},
)
FALCON_RW = FALCON_SEQUENTIAL.extend(
    "falcon_rw",
    variant="not new_decoder_architecture and not multi_query and not parallel_attn and alibi",
    arrows={_QKV: linear("normed -> (heads [q:(pair freq) k:(pair freq) v:value])", bias="bias")},
    fixed={"freq": _BIASED, "value": _BIASED},
    **_ALIBI,
)
FALCON_40B = FALCON.extend(
    "falcon_40b",
    variant="new_decoder_architecture and num_ln_in_parallel_attn != 1 and not alibi",
    sizes=_GROUPS,
    arrows={
        _NORM: None,
        "h.{layer}.ln_attn": layer_norm("stream -> normed", eps=_EPS),
        "h.{layer}.ln_mlp": layer_norm("stream -> mlp_normed", eps=_EPS),
        _QKV: linear("normed -> (kv_heads [q:(group pair freq) k:(pair freq) v:value])", bias="bias"),
        _OUT: linear("attended:(kv_heads group value) -> stream", bias="bias"),
        _UP: linear("mlp_normed -> mlp", bias="bias"),
    },
    follows={"num_kv_heads": None},
    roles={"kv_heads": "num_kv_heads"},
)
FALCON_11B = FALCON_40B.extend(
    "falcon_11b",
    variant="new_decoder_architecture and num_ln_in_parallel_attn == 1 and not alibi",
    arrows={
        _NORM: layer_norm("stream -> normed", eps=_EPS),
        "h.{layer}.ln_attn": None,
        "h.{layer}.ln_mlp": None,
        _UP: linear("normed -> mlp", bias="bias"),
    },
)
