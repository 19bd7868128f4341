"""Phi: one LayerNorm for attention and MLP beside each other, biases everywhere, a part of each head rotated."""

from growformer.architecture.declaration import Attention, layer_norm, linear
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import HEAD, attention, no_head_dim, plain_mlp, rotary_heads

_EPS = "layer_norm_eps"

PHI = LLAMA.extend(
    "phi",
    model_types=("phi",),
    variant="not qk_layernorm",
    multiples=(),
    arrows={
        "layers.{layer}.input_layernorm": layer_norm("stream -> normed", eps=_EPS),
        **attention(bias=True, rest=True),
        "layers.{layer}.self_attn.o_proj": None,
        "layers.{layer}.self_attn.dense": linear("attended:(kv_heads group value) -> stream", bias=True),
        "layers.{layer}.post_attention_layernorm": None,
        **plain_mlp("fc1", "fc2", bias=True, reads="normed"),
        "norm": None,
        "final_layernorm": layer_norm("stream -> final", eps=_EPS),
        "lm_head": linear("final -> vocab", bias=True, optional=True),
    },
    **rotary_heads(partial=True),
    defaults={"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "qk_layernorm": False},
)

# With LayerNorm on queries and keys, heads keep their size.
PHI_QK_NORM = PHI.extend(
    "phi_qk_norm",
    variant="qk_layernorm",
    sizes={"pair": None, "freq": None, "rest": None, "key": HEAD, "value": HEAD},
    arrows={
        **attention("key", bias=True, raw=True),
        "layers.{layer}.self_attn.o_proj": None,
        "layers.{layer}.self_attn.q_layernorm": layer_norm("q_raw -> q", over="key", eps=_EPS),
        "layers.{layer}.self_attn.k_layernorm": layer_norm("k_raw -> k", over="key", eps=_EPS),
    },
    attention=(
        Attention(query="q", key="k", value="v", output="attended", over=("key",), scale=f"1 / sqrt({HEAD})"),
    ),
    rotary=(),
    **no_head_dim("its norms of queries and keys have hidden_size / num_attention_heads entries"),
    fixed={"pair": None, "key": "a LayerNorm reads every query and every key", "value": "a value is as large as a key"},
)
