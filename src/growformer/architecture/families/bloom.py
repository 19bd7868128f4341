"""BLOOM: linear biases on scores instead of positions, a LayerNorm right after the embedding, QKV fused per head."""

from growformer.architecture.declaration import Alibi, Architecture, Attention, embedding, layer_norm, linear
from growformer.architecture.families.gpt2 import HEADS, LABELS, VOCAB, no_head_dim

_EPS = "layer_norm_epsilon"
_HEAD = "hidden_size / n_head"

BLOOM = Architecture(
    name="bloom",
    model_types=("bloom",),
    sizes={
        "layer": "n_layer",
        "vocab": "vocab_size",
        "stream": "hidden_size",
        "mlp": "4 * hidden_size",
        "heads": "n_head",
        "key": _HEAD,
        "value": _HEAD,
        "labels": "labels",
    },
    arrows={
        "word_embeddings": embedding("vocab -> embedded:stream"),
        "word_embeddings_layernorm": layer_norm("embedded -> stream", eps=_EPS),
        "h.{layer}.input_layernorm": layer_norm("stream -> normed", eps=_EPS),
        "h.{layer}.self_attention.query_key_value": linear("normed -> (heads [q:key k:key v:value])", bias=True),
        "h.{layer}.self_attention.dense": linear("attended:(heads value) -> stream", bias=True),
        "h.{layer}.post_attention_layernorm": layer_norm("stream -> mlp_normed", eps=_EPS),
        "h.{layer}.mlp.dense_h_to_4h": linear("mlp_normed -> mlp", bias=True),
        "h.{layer}.mlp.dense_4h_to_h": linear("mlp -> stream", bias=True),
        "ln_f": layer_norm("stream -> final", eps=_EPS),
        "lm_head": linear("final -> vocab", optional=True),
        **HEADS,
    },
    attention=(Attention(query="q", key="k", value="v", output="attended", over=("key",), scale=f"1 / sqrt({_HEAD})"),),
    alibi=(Alibi(heads="heads", slopes="bloom"),),
    ties={"lm_head.weight": "word_embeddings.weight"},
    tie_field="tie_word_embeddings",
    defaults={
        "layer_norm_epsilon": 1e-5,
        "apply_residual_connection_post_layernorm": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
    },
    constants={
        "apply_residual_connection_post_layernorm": (False, "residuals from behind the norms are not described yet")
    },
    inferred=("labels",),
    coupled=no_head_dim("BLOOM", "hidden_size", "n_head"),
    fixed={**VOCAB, **LABELS},
    aliases={"num_attention_heads": "n_head", "num_hidden_layers": "n_layer", "n_embed": "hidden_size"},
    roles={"hidden": "hidden_size", "heads": "n_head", "layers": "n_layer"},
    prefix="transformer",
    heads=("lm_head", *HEADS),
)  # fmt: skip
