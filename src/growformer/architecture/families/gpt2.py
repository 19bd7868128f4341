"""GPT-2: LayerNorm before each branch, learned positions, fused QKV, matrices stored transposed (``Conv1D``).

ImageGPT has RMSNorm and a head without the start token. GPT-BigCode stores matrices as usual and shares one key and
value between all heads, or fuses QKV head by head.
"""

from growformer.architecture.declaration import (
    Architecture,
    Attention,
    Coupling,
    embedding,
    layer_norm,
    linear,
    linear_transposed,
    rms_norm,
)

VOCAB = {"vocab": "a larger vocabulary changes the output distribution; use resize_token_embeddings"}
POSITIONS = {"positions": "positions past the table have no source"}
LABELS = {"labels": "a classifier's labels are not a size of the model"}
HEADS = {
    "score": linear("final -> labels", optional=True),
    "classifier": linear("final -> labels", bias=True, optional=True),
    "qa_outputs": linear("final -> labels", bias=True, optional=True),
}


def no_head_dim(family: str, hidden: str, heads: str, *, keeps: str = "key") -> tuple[Coupling, ...]:
    """Return the rule of a class whose heads share its width, by the names of its config fields."""
    because = f"{family} has no head_dim of its own, it is {hidden} / {heads}"
    return (Coupling(field=heads, keeps=keeps, formula=f"{hidden} / keep", because=because),)


GPT2 = Architecture(
    name="gpt2",
    model_types=("gpt2", "gpt-sw3"),
    sizes={
        "layer": "n_layer",
        "vocab": "vocab_size",
        "positions": "n_positions",
        "stream": "n_embd",
        "mlp": "n_inner",
        "heads": "n_head",
        "key": "n_embd / n_head",
        "value": "n_embd / n_head",
        "labels": "labels",
    },
    arrows={
        "wte": embedding("vocab -> stream"),
        "wpe": embedding("positions -> stream"),
        "h.{layer}.ln_1": layer_norm("stream -> normed", eps="layer_norm_epsilon"),
        "h.{layer}.attn.c_attn": linear_transposed(
            "normed -> [q:(heads key) k:(heads key) v:(heads value)]", bias=True
        ),
        "h.{layer}.attn.c_proj": linear_transposed("attended:(heads value) -> stream", bias=True),
        "h.{layer}.ln_2": layer_norm("stream -> mlp_normed", eps="layer_norm_epsilon"),
        "h.{layer}.mlp.c_fc": linear_transposed("mlp_normed -> mlp", bias=True),
        "h.{layer}.mlp.c_proj": linear_transposed("mlp -> stream", bias=True),
        "ln_f": layer_norm("stream -> final", eps="layer_norm_epsilon"),
        "lm_head": linear("final -> vocab", optional=True),
        **HEADS,
    },
    attention=(
        Attention(
            query="q", key="k", value="v", output="attended", over=("key",),
            scale="(1 / sqrt(n_embd / n_head) if scale_attn_weights else 1)"
            " / (layer + 1 if scale_attn_by_inverse_layer_idx else 1)",
        ),
    ),
    ties={"lm_head.weight": "wte.weight"},
    tie_field="tie_word_embeddings",
    defaults={
        "n_inner": "4 * n_embd",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "add_cross_attention": False,
    },
    constants={"add_cross_attention": (False, "GPT-2 with cross-attention is not described yet")},
    inferred=("labels",),
    coupled=no_head_dim("GPT-2", "n_embd", "n_head"),
    fixed={**VOCAB, **POSITIONS, **LABELS},
    aliases={
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    roles={"hidden": "n_embd", "mlp": "n_inner", "heads": "n_head", "layers": "n_layer"},
    prefix="transformer",
    heads=("lm_head", *HEADS),
    ignored={r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)": "a causal mask that older versions stored"},
)  # fmt: skip

IMAGEGPT = GPT2.extend(
    "imagegpt",
    model_types=("imagegpt",),
    sizes={"codes": "vocab_size - 1"},
    arrows={
        "h.{layer}.ln_1": rms_norm("stream -> normed", eps="layer_norm_epsilon"),
        "h.{layer}.ln_2": rms_norm("stream -> mlp_normed", eps="layer_norm_epsilon"),
        "ln_f": rms_norm("stream -> final", eps="layer_norm_epsilon"),
        "lm_head": linear("final -> codes", optional=True),
    },
    ties={"lm_head.weight": None},
    tie_field=None,
    defaults={"tie_word_embeddings": False},
    coupled=no_head_dim("ImageGPT", "n_embd", "n_head"),
    constants={"tie_word_embeddings": (False, "ImageGPT's head has a row less than its table and cannot share it")},
    fixed={"codes": "a larger palette changes the output distribution"},
)

GPT_BIGCODE = GPT2.extend(
    "gpt_bigcode",
    model_types=("gpt_bigcode",),
    variant="multi_query",
    arrows={
        "h.{layer}.attn.c_attn": linear("normed -> [q:(heads key) k:key v:value]", bias=True),
        "h.{layer}.attn.c_proj": linear("attended:(heads value) -> stream", bias=True),
        "h.{layer}.mlp.c_fc": linear("mlp_normed -> mlp", bias=True),
        "h.{layer}.mlp.c_proj": linear("mlp -> stream", bias=True),
    },
    defaults={"multi_query": True},
    coupled=no_head_dim("GPT-BigCode", "n_embd", "n_head"),
    follows={"num_key_value_heads": "1 if multi_query else n_head"},
)
GPT_BIGCODE_MULTI_HEAD = GPT_BIGCODE.extend(
    "gpt_bigcode_multi_head",
    variant="not multi_query",
    arrows={"h.{layer}.attn.c_attn": linear("normed -> (heads [q:key k:key v:value])", bias=True)},
)
