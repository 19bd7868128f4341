"""DBRX: LayerNorm without bias, QKV fused and clipped, all experts of a layer in three matrices."""

from dataclasses import replace

from growformer.architecture.declaration import (
    Architecture,
    Attention,
    Coupling,
    Rotary,
    embedding,
    layer_norm,
    linear,
    linear_transposed,
)

_EPS, _HEAD = 1e-5, "d_model / n_heads"
_BLOCK, _EXPERTS = "blocks.{layer}.norm_attn_norm", "blocks.{layer}.ffn.experts.mlp"
_CLIPPED = "clipped queries and keys change when they are rescaled (clip_qkv); add heads instead"

DBRX = Architecture(
    name="dbrx",
    model_types=("dbrx",),
    sizes={
        "layer": "n_layers",
        "vocab": "vocab_size",
        "stream": "d_model",
        "expert_mlp": "ffn_config.ffn_hidden_size",
        "expert": "ffn_config.moe_num_experts",
        "kv_heads": "attn_config.kv_n_heads",
        "group": "n_heads / attn_config.kv_n_heads",
        "pair": "2",
        "freq": f"{_HEAD} / 2",
        "value": _HEAD,
    },
    arrows={
        "wte": embedding("vocab -> stream"),
        f"{_BLOCK}.norm_1": layer_norm("stream -> normed", eps=_EPS, bias=False),
        f"{_BLOCK}.attn.Wqkv": linear(
            "normed -> [q:(kv_heads group pair freq) k:(kv_heads pair freq) v:(kv_heads value)]"
        ),
        f"{_BLOCK}.attn.out_proj": linear("attended:(kv_heads group value) -> stream"),
        f"{_BLOCK}.norm_2": layer_norm("stream -> mlp_normed", eps=_EPS, bias=False),
        "blocks.{layer}.ffn.router.layer": linear("mlp_normed -> router:expert"),
        f"{_EXPERTS}.w1": replace(linear("mlp_normed -> inside:(expert expert_mlp)"), bare=True),
        f"{_EXPERTS}.v1": replace(linear("mlp_normed -> inside:(expert expert_mlp)"), bare=True),
        f"{_EXPERTS}.w2": replace(linear_transposed("inside -> stream"), bare=True),
        "norm_f": layer_norm("stream -> final", eps=_EPS, bias=False),
        "lm_head": linear("final -> vocab", optional=True),
    },
    attention=(
        Attention(query="q", key="k", value="v", output="attended", over=("pair", "freq"), scale=f"1 / sqrt({_HEAD})"),
    ),
    rotary=(Rotary(frequency="freq"),),
    defaults={"attn_config.kv_n_heads": 1, "ffn_config.ffn_hidden_size": 3584, "ffn_config.moe_num_experts": 4},
    coupled=(
        Coupling(
            field="n_heads", keeps="value", formula="d_model / keep",
            because="DBRX has no head_dim of its own, it is d_model / n_heads",
        ),
    ),
    nested=("attn_config", "ffn_config"),
    active={"expert": "ffn_config.moe_top_k"},
    fixed={
        "vocab": "a larger vocabulary changes the output distribution; use resize_token_embeddings",
        "pair": "a rotary plane has two coordinates",
        "expert": "more experts change what the router picks",
        "freq": _CLIPPED,
        "value": _CLIPPED,
    },
    follows={"ffn_config.hidden_size": "d_model", "num_key_value_heads": "attn_config.kv_n_heads"},
    aliases={
        "hidden_size": "d_model", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers",
        "num_key_value_heads": "attn_config.kv_n_heads", "intermediate_size": "ffn_config.ffn_hidden_size",
    },
    roles={
        "hidden": "d_model", "mlp": "ffn_config.ffn_hidden_size", "heads": "n_heads",
        "kv_heads": "attn_config.kv_n_heads", "layers": "n_layers",
    },
    prefix="transformer",
    heads=("lm_head",),
)  # fmt: skip
