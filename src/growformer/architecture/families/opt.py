"""OPT: learned positions after two unused rows, norms with a constant epsilon, in front of branches or (350m) behind.

Embeddings may be narrower than the stream, and are projected then. BioGPT and XGLM scale embeddings by the root of the
width; XGLM's positions are sinusoids that the class computes.
"""

from growformer.architecture.declaration import Add, Architecture, Attention, embedding, layer_norm, linear
from growformer.architecture.families.gpt2 import LABELS, POSITIONS, VOCAB, no_head_dim

_HEAD = "hidden_size / num_attention_heads"
_LAYER = "decoder.layers.{layer}"
_NARROW = {"word": "a wider table of embeddings is not described; hidden_size is the width of the layers"}
_EPS = 1e-5

OPT = Architecture(
    name="opt",
    model_types=("opt",),
    variant="do_layer_norm_before and word_embed_proj_dim == hidden_size",
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings + 2",
        "stream": "hidden_size",
        "mlp": "ffn_dim",
        "heads": "num_attention_heads",
        "key": _HEAD,
        "value": _HEAD,
        "labels": "labels",
    },
    arrows={
        "decoder.embed_tokens": embedding("vocab -> stream"),
        "decoder.embed_positions": embedding("positions -> stream"),
        f"{_LAYER}.self_attn_layer_norm": layer_norm("stream -> normed", eps=_EPS),
        f"{_LAYER}.self_attn.q_proj": linear("normed -> q:(heads key)", bias="enable_bias"),
        f"{_LAYER}.self_attn.k_proj": linear("normed -> k:(heads key)", bias="enable_bias"),
        f"{_LAYER}.self_attn.v_proj": linear("normed -> v:(heads value)", bias="enable_bias"),
        f"{_LAYER}.self_attn.out_proj": linear("attended:(heads value) -> stream", bias="enable_bias"),
        f"{_LAYER}.final_layer_norm": layer_norm("stream -> mlp_normed", eps=_EPS),
        f"{_LAYER}.fc1": linear("mlp_normed -> mlp", bias="enable_bias"),
        f"{_LAYER}.fc2": linear("mlp -> stream", bias="enable_bias"),
        "decoder.final_layer_norm": layer_norm("stream -> final", eps=_EPS),
        "lm_head": linear("final -> vocab", optional=True),
        "score": linear("final -> labels", optional=True),
        "qa_outputs": linear("final -> labels", bias=True, optional=True),
    },
    attention=(Attention(query="q", key="k", value="v", output="attended", over=("key",), scale=f"1 / sqrt({_HEAD})"),),
    ties={"lm_head.weight": "decoder.embed_tokens.weight"},
    tie_field="tie_word_embeddings",
    defaults={
        "word_embed_proj_dim": "hidden_size",
        "do_layer_norm_before": True,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "_remove_final_layer_norm": False,
        "tie_word_embeddings": True,
        "init_std": 0.02,
    },
    constants={
        "layer_norm_elementwise_affine": (True, "norms without gains are not described"),
        "_remove_final_layer_norm": (False, "a model whose last norm was removed is not described"),
    },
    follows={"word_embed_proj_dim": "hidden_size"},
    inferred=("labels",),
    coupled=no_head_dim("OPT", "hidden_size", "num_attention_heads"),
    fixed={**VOCAB, **POSITIONS, **LABELS},
    aliases={"intermediate_size": "ffn_dim"},
    roles={"hidden": "hidden_size", "mlp": "ffn_dim", "heads": "num_attention_heads", "layers": "num_hidden_layers"},
    prefix="model",
    heads=("lm_head", "score", "qa_outputs"),
    std="init_std",
)  # fmt: skip


def _read_from(space: str) -> dict[str, object]:
    """Return the heads, reading another space."""
    return {
        "lm_head": linear(f"{space} -> vocab", optional=True),
        "score": linear(f"{space} -> labels", optional=True),
        "qa_outputs": linear(f"{space} -> labels", bias=True, optional=True),
    }


_PROJECTED = {
    "decoder.embed_tokens": embedding("vocab -> embedded:word"),
    "decoder.project_in": linear("embedded -> stream"),
    "decoder.project_out": linear("final -> projected:word"),
    **_read_from("projected"),
}

OPT_PROJECTED = OPT.extend(
    "opt_projected",
    variant="do_layer_norm_before and word_embed_proj_dim != hidden_size",
    sizes={"word": "word_embed_proj_dim"},
    arrows=_PROJECTED,
    follows={"word_embed_proj_dim": None},
    fixed=_NARROW,
)
OPT_POST_NORM = OPT.extend(
    "opt_post_norm",
    variant="not do_layer_norm_before and word_embed_proj_dim == hidden_size",
    arrows={
        f"{_LAYER}.self_attn.q_proj": linear("stream -> q:(heads key)", bias="enable_bias"),
        f"{_LAYER}.self_attn.k_proj": linear("stream -> k:(heads key)", bias="enable_bias"),
        f"{_LAYER}.self_attn.v_proj": linear("stream -> v:(heads value)", bias="enable_bias"),
        f"{_LAYER}.self_attn.out_proj": linear("attended:(heads value) -> summed:stream", bias="enable_bias"),
        f"{_LAYER}.self_attn_layer_norm": layer_norm("summed -> stream", eps=_EPS),
        f"{_LAYER}.fc1": linear("stream -> mlp", bias="enable_bias"),
        f"{_LAYER}.fc2": linear("mlp -> summed", bias="enable_bias"),
        f"{_LAYER}.final_layer_norm": layer_norm("summed -> stream", eps=_EPS),
        "decoder.final_layer_norm": None,
        **_read_from("stream"),
    },
    adds=(("stream", "summed"),),
)
OPT_350M = OPT_POST_NORM.extend(
    "opt_350m",
    variant="not do_layer_norm_before and word_embed_proj_dim != hidden_size",
    sizes={"word": "word_embed_proj_dim"},
    arrows={**_PROJECTED, "decoder.project_out": linear("stream -> projected:word")},
    follows={"word_embed_proj_dim": None},
    fixed=_NARROW,
)
