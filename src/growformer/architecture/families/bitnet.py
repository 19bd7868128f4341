"""BitNet: norms of their own on what attention gives and on the product in the MLP, before the last projections."""

from growformer.architecture.declaration import Attention, linear, rms_norm
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import HEAD, gated_mlp, rotary_heads

_EPS = "rms_norm_eps"
_HEADS = rotary_heads(
    HEAD, because="BitNet norms hidden_size attended values, and has no head_dim of its own", theta=5e5
)

# What the norms read must keep its mean square: the MLP grows by whole factors only, and so do groups of heads.
BITNET = LLAMA.extend(
    "bitnet",
    model_types=("bitnet",),
    multiples=(),
    **{
        **_HEADS,
        "attention": (
            Attention(
                query="q", key="k", value="v", output="attended_raw", over=("pair", "freq"),
                scale=_HEADS["attention"][0].scale,
            ),
        ),
    },
    arrows={
        "layers.{layer}.self_attn.attn_sub_norm": rms_norm("attended_raw -> attended", eps=_EPS),
        **gated_mlp(),
        "layers.{layer}.mlp.gate_proj": linear("mlp_normed -> mlp_raw:mlp"),
        "layers.{layer}.mlp.up_proj": linear("mlp_normed -> mlp_raw:mlp"),
        "layers.{layer}.mlp.ffn_sub_norm": rms_norm("mlp_raw -> mlp", eps=_EPS),
    },
    activated=("mlp_raw",),
    defaults={"num_key_value_heads": 5, "rms_norm_eps": 1e-5},
)  # fmt: skip
