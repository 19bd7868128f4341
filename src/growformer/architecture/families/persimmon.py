"""Persimmon: LayerNorm, QKV in one matrix by heads, a part of each head rotated, mostly behind norms."""

from growformer.architecture.declaration import Attention, layer_norm, linear
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import HEAD, no_head_dim, plain_mlp, rotary_heads

_EPS = "layer_norm_eps"
_QKV = "layers.{layer}.self_attn.query_key_value"
_HEADS = rotary_heads(
    HEAD, partial=True, because="Persimmon has no head_dim of its own, it is hidden_size / num_attention_heads"
)

PERSIMMON = LLAMA.extend(
    "persimmon",
    model_types=("persimmon",),
    variant="not qk_layernorm",
    multiples=(),
    **{**_HEADS, "sizes": {**_HEADS["sizes"], "kv_heads": None, "group": None, "heads": "num_attention_heads"}},
    arrows={
        "layers.{layer}.input_layernorm": layer_norm("stream -> normed", eps=_EPS),
        "layers.{layer}.self_attn.q_proj": None,
        "layers.{layer}.self_attn.k_proj": None,
        "layers.{layer}.self_attn.v_proj": None,
        "layers.{layer}.self_attn.o_proj": None,
        _QKV: linear("normed -> (heads [[q:(pair freq) q_rest:rest] [k:(pair freq) k_rest:rest] v:value])", bias=True),
        "layers.{layer}.self_attn.dense": linear("attended:(heads value) -> stream", bias=True),
        "layers.{layer}.post_attention_layernorm": layer_norm("stream -> mlp_normed", eps=_EPS),
        **plain_mlp("dense_h_to_4h", "dense_4h_to_h", bias=True),
        "norm": None,
        "final_layernorm": layer_norm("stream -> final", eps=_EPS),
    },
    defaults={"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "qk_layernorm": True},
)

# With LayerNorm on queries and keys, heads keep their size.
PERSIMMON_QK_NORM = PERSIMMON.extend(
    "persimmon_qk_norm",
    variant="qk_layernorm",
    sizes={"pair": None, "freq": None, "rest": None, "key": HEAD},
    arrows={
        _QKV: linear("normed -> (heads [q_raw:key k_raw:key v:value])", bias=True),
        "layers.{layer}.self_attn.q_layernorm": layer_norm("q_raw -> q", over="key", eps=_EPS),
        "layers.{layer}.self_attn.k_layernorm": layer_norm("k_raw -> k", over="key", eps=_EPS),
    },
    attention=(Attention(query="q", key="k", value="v", output="attended", over=("key",), scale=f"1 / sqrt({HEAD})"),),
    rotary=(),
    **no_head_dim("its norms of queries and keys have hidden_size / num_attention_heads entries"),
    fixed={"pair": None, "key": "a LayerNorm reads every query and every key", "value": "a value is as large as a key"},
)
