"""Llama and the families that share its layout: RMSNorm before each branch, rotary GQA, gated MLP."""

from growformer.architecture.declaration import (
    Architecture,
    Attention,
    Multiple,
    Rotary,
    embedding,
    linear,
    rms_norm,
)

LLAMA = Architecture(
    name="llama",
    model_types=("llama",),
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "stream": "hidden_size",
        "mlp": "intermediate_size",
        "kv_heads": "num_key_value_heads",
        "group": "num_attention_heads / num_key_value_heads",
        "pair": "2",
        "freq": "head_dim / 2",
        "value": "head_dim",
    },
    arrows={
        "embed_tokens": embedding("vocab -> stream"),
        "layers.{layer}.input_layernorm": rms_norm("stream -> normed", eps="rms_norm_eps"),
        "layers.{layer}.self_attn.q_proj": linear("normed -> q:(kv_heads group pair freq)", bias="attention_bias"),
        "layers.{layer}.self_attn.k_proj": linear("normed -> k:(kv_heads pair freq)", bias="attention_bias"),
        "layers.{layer}.self_attn.v_proj": linear("normed -> v:(kv_heads value)", bias="attention_bias"),
        "layers.{layer}.self_attn.o_proj": linear("attended:(kv_heads group value) -> stream", bias="attention_bias"),
        "layers.{layer}.post_attention_layernorm": rms_norm("stream -> mlp_normed", eps="rms_norm_eps"),
        "layers.{layer}.mlp.gate_proj": linear("mlp_normed -> mlp", bias="mlp_bias"),
        "layers.{layer}.mlp.up_proj": linear("mlp_normed -> mlp", bias="mlp_bias"),
        "layers.{layer}.mlp.down_proj": linear("mlp -> stream", bias="mlp_bias"),
        "norm": rms_norm("stream -> final", eps="rms_norm_eps"),
        "lm_head": linear("final -> vocab", optional=True),
    },
    attention=(
        Attention(query="q", key="k", value="v", output="attended", over=("pair", "freq"), scale="1 / sqrt(head_dim)"),
    ),
    rotary=(Rotary(frequency="freq"),),
    multiples=(
        Multiple(
            field="hidden_size",
            of="num_attention_heads",
            because="LlamaConfig wants hidden_size to be a multiple of num_attention_heads, even with a head_dim of "
            "its own",
        ),
    ),
    ties={"lm_head.weight": "embed_tokens.weight"},
    tie_field="tie_word_embeddings",
    defaults={
        "num_key_value_heads": "num_attention_heads",
        "head_dim": "hidden_size / num_attention_heads",
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
    },
    fixed={
        "vocab": "a larger vocabulary changes the output distribution; use resize_token_embeddings",
        "pair": "a rotary plane has two coordinates",
    },
    layer_lists=("layer_types",),
    roles={
        "hidden": "hidden_size",
        "mlp": "intermediate_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "key": "head_dim",
        "value": "head_dim",
        "layers": "num_hidden_layers",
    },
    prefix="model",
    heads=("lm_head",),
    ignored={r"(.*\.)?rotary_emb\.inv_freq": "a buffer of older versions, computed from the config today"},
)

# Classes without the fields attention_bias or mlp_bias; one that stands in the config all the same has no effect.
PLAIN_ATTENTION = {
    "layers.{layer}.self_attn.q_proj": linear("normed -> q:(kv_heads group pair freq)"),
    "layers.{layer}.self_attn.k_proj": linear("normed -> k:(kv_heads pair freq)"),
    "layers.{layer}.self_attn.v_proj": linear("normed -> v:(kv_heads value)"),
    "layers.{layer}.self_attn.o_proj": linear("attended:(kv_heads group value) -> stream"),
}
PLAIN_MLP = {
    "layers.{layer}.mlp.gate_proj": linear("mlp_normed -> mlp"),
    "layers.{layer}.mlp.up_proj": linear("mlp_normed -> mlp"),
    "layers.{layer}.mlp.down_proj": linear("mlp -> stream"),
}

SLIDING = {
    "layer_types": "'sliding_attention' if use_sliding_window and sliding_window and layer >= max_window_layers "
    "else 'full_attention'"
}
SLIDING_DEFAULTS = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}

MISTRAL = LLAMA.extend(
    "mistral",
    multiples=(),
    model_types=("mistral",),
    arrows={**PLAIN_ATTENTION, **PLAIN_MLP},
    defaults={"num_key_value_heads": 8},
)

QWEN2 = LLAMA.extend(
    "qwen2",
    layer_rules=SLIDING,
    multiples=(),
    model_types=("qwen2",),
    arrows={
        "layers.{layer}.self_attn.q_proj": linear("normed -> q:(kv_heads group pair freq)", bias=True),
        "layers.{layer}.self_attn.k_proj": linear("normed -> k:(kv_heads pair freq)", bias=True),
        "layers.{layer}.self_attn.v_proj": linear("normed -> v:(kv_heads value)", bias=True),
        "layers.{layer}.self_attn.o_proj": linear("attended:(kv_heads group value) -> stream"),
        **PLAIN_MLP,
    },
    defaults={"num_key_value_heads": 32, **SLIDING_DEFAULTS},
)

QWEN3 = LLAMA.extend(
    "qwen3",
    layer_rules=SLIDING,
    multiples=(),
    model_types=("qwen3",),
    arrows={
        "layers.{layer}.self_attn.q_proj": linear("normed -> q_raw:(kv_heads group pair freq)", bias="attention_bias"),
        "layers.{layer}.self_attn.k_proj": linear("normed -> k_raw:(kv_heads pair freq)", bias="attention_bias"),
        "layers.{layer}.self_attn.q_norm": rms_norm("q_raw -> q", over="(pair freq)", eps="rms_norm_eps"),
        "layers.{layer}.self_attn.k_norm": rms_norm("k_raw -> k", over="(pair freq)", eps="rms_norm_eps"),
        **PLAIN_MLP,
    },
    defaults={"head_dim": 128, "num_key_value_heads": 32, **SLIDING_DEFAULTS},
)
