"""OPT: learned positions after two unused rows, norms with a constant epsilon, in front of branches or (350m) behind.

Embeddings may be narrower than the stream, and are projected then.
"""

from growformer.architecture.declaration import Architecture, Arrow, embedding, layer_norm, linear
from growformer.architecture.families.bart import EPS, attention, stack
from growformer.architecture.families.gpt2 import LABELS, POSITIONS, VOCAB, no_head_dim

_LAYER = "decoder.layers.{layer}"
_HEAD = "hidden_size / num_attention_heads"


def _heads(reads: str) -> dict[str, Arrow]:
    return {
        "lm_head": linear(f"{reads} -> vocab", optional=True),
        "score": linear(f"{reads} -> labels", optional=True),
        "qa_outputs": linear(f"{reads} -> labels", bias=True, optional=True),
    }


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
        **stack(_LAYER, pre=True, bias="enable_bias"),
        "decoder.final_layer_norm": layer_norm("stream -> final", eps=EPS),
        **_heads("final"),
    },
    attention=(attention("", "num_attention_heads", "hidden_size"),),
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
)
_NARROW = {"word": "a wider table of embeddings is not described; hidden_size is the width of the layers"}
_PROJECTED = {
    "decoder.embed_tokens": embedding("vocab -> embedded:word"),
    "decoder.project_in": linear("embedded -> stream"),
    "decoder.project_out": linear("final -> projected:word"),
    **_heads("projected"),
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
        **stack(_LAYER, pre=False, bias="enable_bias"),
        "decoder.final_layer_norm": None,
        **_heads("stream"),
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
