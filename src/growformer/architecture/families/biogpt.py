"""BioGPT and XGLM: OPT's layers, with embeddings scaled by the root of the width; XGLM computes its positions."""

from growformer.architecture.declaration import Add, embedding, layer_norm, linear
from growformer.architecture.families.bart import COMPUTED, EPS, attention, stack
from growformer.architecture.families.gpt2 import no_head_dim
from growformer.architecture.families.opt import OPT

_OWN = dict.fromkeys(name for name in OPT.arrows if name.startswith("decoder."))
_PLAIN = {
    "word_embed_proj_dim": None, "do_layer_norm_before": None, "enable_bias": None,
    "layer_norm_elementwise_affine": None, "_remove_final_layer_norm": None,
}  # fmt: skip

BIOGPT = OPT.extend(
    "biogpt",
    model_types=("biogpt",),
    variant=None,
    sizes={"mlp": "intermediate_size"},
    arrows={
        **_OWN,
        "embed_tokens": embedding("vocab -> embedded:stream"),
        "embed_positions": embedding("positions -> stream"),
        **stack("layers.{layer}", pre=True),
        "layer_norm": layer_norm("stream -> final", eps=EPS),
        "lm_head": None,
        "output_projection": linear("final -> vocab", optional=True),
        "qa_outputs": None,
        "classifier": linear("final -> labels", bias=True, optional=True),
    },
    adds=(Add(source="embedded", target="stream", factor="sqrt(hidden_size) if scale_embedding else 1"),),
    ties={"lm_head.weight": None, "output_projection.weight": "embed_tokens.weight"},
    defaults={**_PLAIN, "scale_embedding": True},
    constants=dict.fromkeys(OPT.constants),
    follows=dict.fromkeys(OPT.follows),
    coupled=no_head_dim("BioGPT", "hidden_size", "num_attention_heads"),
    aliases={"intermediate_size": None},
    roles={"mlp": "intermediate_size"},
    prefix="biogpt",
    heads=("output_projection", "classifier", "score"),
    std="initializer_range",
)

XGLM = BIOGPT.extend(
    "xglm",
    model_types=("xglm",),
    sizes={
        "layer": "num_layers",
        "positions": None,
        "stream": "d_model",
        "mlp": "ffn_dim",
        "heads": "attention_heads",
        "key": "d_model / attention_heads",
        "value": "d_model / attention_heads",
    },
    arrows={
        "embed_positions": None,
        "output_projection": None,
        "lm_head": linear("final -> vocab", optional=True),
        "classifier": None,
        "score": None,
    },
    attention=(attention("", "attention_heads"),),
    adds=(Add(source="embedded", target="stream", factor="sqrt(d_model) if scale_embedding else 1"),),
    ties={"output_projection.weight": None, "lm_head.weight": "embed_tokens.weight"},
    defaults={"add_cross_attention": False},
    constants={"add_cross_attention": (False, "XGLM with cross-attention is not described")},
    coupled=(),
    fixed={"positions": None, **COMPUTED},
    aliases={
        "hidden_size": "d_model", "intermediate_size": "ffn_dim", "num_attention_heads": "attention_heads",
        "num_hidden_layers": "num_layers",
    },
    roles={"hidden": "d_model", "mlp": "ffn_dim", "heads": "attention_heads", "layers": "num_layers"},
    prefix="model",
    heads=("lm_head",),
    std="init_std",
)  # fmt: skip
