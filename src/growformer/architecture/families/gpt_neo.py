"""GPT-Neo: as GPT-2, but queries, keys and values apart, no scale on scores, and layers that see all or a window."""

from growformer.architecture.declaration import Attention, linear
from growformer.architecture.families.gpt2 import GPT2, no_head_dim

_HEAD = "hidden_size / num_heads"

GPT_NEO = GPT2.extend(
    "gpt_neo",
    model_types=("gpt_neo",),
    sizes={
        "layer": "num_layers",
        "positions": "max_position_embeddings",
        "stream": "hidden_size",
        "mlp": "intermediate_size",
        "heads": "num_heads",
        "key": _HEAD,
        "value": _HEAD,
    },
    arrows={
        "h.{layer}.attn.c_attn": None,
        "h.{layer}.attn.c_proj": None,
        "h.{layer}.attn.attention.q_proj": linear("normed -> q:(heads key)"),
        "h.{layer}.attn.attention.k_proj": linear("normed -> k:(heads key)"),
        "h.{layer}.attn.attention.v_proj": linear("normed -> v:(heads value)"),
        "h.{layer}.attn.attention.out_proj": linear("attended:(heads value) -> stream", bias=True),
        "h.{layer}.mlp.c_fc": linear("mlp_normed -> mlp", bias=True),
        "h.{layer}.mlp.c_proj": linear("mlp -> stream", bias=True),
    },
    attention=(Attention(query="q", key="k", value="v", output="attended", over=("key",), scale="1"),),
    defaults={"n_inner": None, "intermediate_size": "4 * hidden_size"},
    coupled=no_head_dim("GPT-Neo", "hidden_size", "num_heads"),
    # The class reads attention_types, and expands them to one entry per layer: attention_layers.
    layer_lists=("attention_layers",),
    follows={"attention_types": "[[attention_layers, 1]]"},
    aliases={
        "hidden_size": None, "intermediate_size": None, "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    },
    roles={"hidden": "hidden_size", "mlp": "intermediate_size", "heads": "num_heads", "layers": "num_layers"},
    ignored={r"(transformer\.)?h\.\d+\.attn\.attention\.(bias|masked_bias)": "a causal mask of older versions"},
)  # fmt: skip
