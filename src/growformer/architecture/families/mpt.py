"""MPT: linear biases on scores, which the class always has, norms and projections without biases, QKV in a row."""

from growformer.architecture.declaration import Alibi, Architecture, Attention, embedding, layer_norm, linear
from growformer.architecture.families.gpt2 import HEADS, LABELS, VOCAB, no_head_dim

_EPS = "layer_norm_epsilon"
_HEAD = "d_model / n_heads"

MPT = Architecture(
    name="mpt",
    model_types=("mpt",),
    variant="not attn_config.clip_qkv",
    sizes={
        "layer": "n_layers",
        "vocab": "vocab_size",
        "stream": "d_model",
        "mlp": "4 * d_model",  # whatever expansion_ratio says
        "heads": "n_heads",
        "key": _HEAD,
        "value": _HEAD,
        "labels": "labels",
    },
    arrows={
        "wte": embedding("vocab -> stream"),
        "blocks.{layer}.norm_1": layer_norm("stream -> normed", eps=_EPS, bias=False),
        "blocks.{layer}.attn.Wqkv": linear("normed -> [q:(heads key) k:(heads key) v:(heads value)]"),
        "blocks.{layer}.attn.out_proj": linear("attended:(heads value) -> stream"),
        "blocks.{layer}.norm_2": layer_norm("stream -> mlp_normed", eps=_EPS, bias=False),
        "blocks.{layer}.ffn.up_proj": linear("mlp_normed -> mlp"),
        "blocks.{layer}.ffn.down_proj": linear("mlp -> stream"),
        "norm_f": layer_norm("stream -> final", eps=_EPS, bias=False),
        "lm_head": linear("final -> vocab", optional=True),
        **HEADS,
    },
    attention=(
        Attention(
            query="q", key="k", value="v", output="attended", over=("key",),
            scale=f"attn_config.softmax_scale or 1 / sqrt({_HEAD})",
        ),
    ),
    alibi=(Alibi(heads="heads", slopes="mpt"),),
    ties={"lm_head.weight": "wte.weight"},
    tie_field="tie_word_embeddings",
    defaults={
        "attn_config.softmax_scale": None,
        "attn_config.clip_qkv": None,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
    },
    nested=("attn_config",),
    inferred=("labels",),
    coupled=no_head_dim("MPT", "d_model", "n_heads"),
    fixed={**VOCAB, **LABELS},
    aliases={"hidden_size": "d_model", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    roles={"hidden": "d_model", "heads": "n_heads", "layers": "n_layers"},
    prefix="transformer",
    heads=("lm_head", *HEADS),
)  # fmt: skip

MPT_CLIPPED = MPT.extend(
    "mpt_clipped",
    variant="attn_config.clip_qkv",
    fixed={"key": "clip_qkv clips keys, whose scale would have to change"},
)
