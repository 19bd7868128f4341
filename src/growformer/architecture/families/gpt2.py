"""GPT-2: LayerNorm before each branch, learned positions, fused QKV, matrices stored transposed (``Conv1D``)."""

from growformer.architecture.declaration import (
    Architecture,
    Attention,
    Coupling,
    embedding,
    layer_norm,
    linear,
    linear_transposed,
)

GPT2 = Architecture(
    name="gpt2",
    model_types=("gpt2",),
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
        "score": linear("final -> labels", optional=True),
        "classifier": linear("final -> labels", bias=True, optional=True),
        "qa_outputs": linear("final -> labels", bias=True, optional=True),
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
    coupled=(
        Coupling(
            field="n_head", keeps="key", formula="n_embd / keep",
            because="GPT-2 has no head_dim of its own, it is n_embd / n_head",
        ),
    ),
    fixed={
        "vocab": "a larger vocabulary changes the output distribution; use resize_token_embeddings",
        "positions": "positions past the table have no source",
        "labels": "a classifier's labels are not a size of the model",
    },
    aliases={
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    roles={"hidden": "n_embd", "mlp": "n_inner", "heads": "n_head", "layers": "n_layer"},
    prefix="transformer",
    heads=("lm_head", "score", "classifier", "qa_outputs"),
    ignored={r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)": "a causal mask that older versions stored"},
)  # fmt: skip
