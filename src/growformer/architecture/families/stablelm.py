"""StableLM: LayerNorm, a part of each head rotated, a gated MLP behind attention or beside it."""

from growformer.architecture.declaration import layer_norm
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import HEAD, attention, gated_mlp, rotary_heads

_EPS = "layer_norm_eps"

STABLELM = LLAMA.extend(
    "stablelm",
    model_types=("stablelm",),
    variant="not use_parallel_residual",
    multiples=(),
    arrows={
        "layers.{layer}.input_layernorm": layer_norm("stream -> normed", eps=_EPS),
        **attention(bias="use_qkv_bias", rest=True),
        "layers.{layer}.post_attention_layernorm": layer_norm("stream -> mlp_normed", eps=_EPS),
        **gated_mlp(),
        "norm": layer_norm("stream -> final", eps=_EPS),
    },
    **rotary_heads(
        HEAD, partial=True, because="StableLM has no head_dim of its own, it is hidden_size / num_attention_heads"
    ),
    defaults={
        "num_key_value_heads": 32, "layer_norm_eps": 1e-5, "use_qkv_bias": False, "partial_rotary_factor": 0.25,
        "use_parallel_residual": False, "qk_layernorm": False,
    },
    constants={"qk_layernorm": (False, "norms of every head on its own are not described yet")},
)  # fmt: skip

STABLELM_PARALLEL = STABLELM.extend(
    "stablelm_parallel",
    variant="use_parallel_residual",
    arrows={"layers.{layer}.post_attention_layernorm": None, **gated_mlp(reads="normed")},
)
