"""GPT-J: one LayerNorm in front of both branches, part of each head rotated with a constant base, a head with a bias.

CodeGen fuses queries, values and keys in four shards, as its training machines held them.
"""

from growformer.architecture.declaration import Attention, Rotary, linear
from growformer.architecture.families.gpt2 import GPT2, no_head_dim

_HEAD = "n_embd / n_head"

GPTJ = GPT2.extend(
    "gptj",
    model_types=("gptj",),
    sizes={
        "positions": None,
        "pair": "2",
        "freq": "rotary_dim / 2",
        "rest": f"{_HEAD} - rotary_dim",
        "key": None,
    },
    arrows={
        "wpe": None,
        "h.{layer}.attn.c_attn": None,
        "h.{layer}.attn.c_proj": None,
        "h.{layer}.attn.q_proj": linear("normed -> (heads [q:(freq pair) q_rest:rest])"),
        "h.{layer}.attn.k_proj": linear("normed -> (heads [k:(freq pair) k_rest:rest])"),
        "h.{layer}.attn.v_proj": linear("normed -> v:(heads value)"),
        "h.{layer}.attn.out_proj": linear("attended:(heads value) -> stream"),
        "h.{layer}.ln_2": None,
        "h.{layer}.mlp.c_fc": None,
        "h.{layer}.mlp.c_proj": None,
        "h.{layer}.mlp.fc_in": linear("normed -> mlp", bias=True),
        "h.{layer}.mlp.fc_out": linear("mlp -> stream", bias=True),
        "lm_head": linear("final -> vocab", bias=True, optional=True),
    },
    attention=(
        Attention(
            query=("q", "q_rest"), key=("k", "k_rest"), value="v", output="attended", over=("pair", "freq", "rest"),
            scale=f"1 / sqrt({_HEAD})",
        ),
    ),
    rotary=(Rotary(frequency="freq"),),
    defaults={"rotary_dim": 64, "tie_word_embeddings": False},
    coupled=no_head_dim("GPT-J", "n_embd", "n_head", keeps="value"),
    fixed={
        "positions": None,
        "pair": "a rotary plane has two coordinates",
        "freq": "the class computes frequencies from their number with a constant base, so more would move them all; "
        "heads grow by what is not rotated",
    },
    ignored={
        r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias|causal_mask)": "a causal mask that older versions stored",
        r"(transformer\.)?h\.\d+\.attn\.embed_positions": "a buffer of older versions, computed from the config today",
    },
)  # fmt: skip

CODEGEN = GPTJ.extend(
    "codegen",
    model_types=("codegen",),
    sizes={"heads": None, "shard": "4", "lane": "n_head / 4"},
    arrows={
        "h.{layer}.attn.q_proj": None,
        "h.{layer}.attn.k_proj": None,
        "h.{layer}.attn.v_proj": None,
        "h.{layer}.attn.qkv_proj": linear(
            "normed -> (shard [(lane [q:(freq pair) q_rest:rest]) v:(lane value) (lane [k:(freq pair) k_rest:rest])])"
        ),
        "h.{layer}.attn.out_proj": linear("attended:(shard lane value) -> stream"),
    },
    coupled=no_head_dim("CodeGen", "n_embd", "n_head", keeps="value"),
    fixed={"shard": "the class has four shards"},
)
