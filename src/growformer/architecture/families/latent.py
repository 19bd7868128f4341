"""Latent attention behind plain MLPs: Youtu and MiniCPM3. Queries and keys have a rotated part and one that is not.

The rotated part of keys is one for all heads, and comes out of the same matrix as the vector that keys and values are
made of.
"""

from growformer.architecture.declaration import Add, Arrow, Attention, linear, rms_norm
from growformer.architecture.families.llama import LLAMA, PLAIN_MLP
from growformer.architecture.families.parts import HALVES, INTERLEAVED, LAYER, gated_mlp

_EPS = 1e-6  # of both latent norms, whatever the config says


def latent_attention(rotated: str, *, at: str = "self_attn", always: bool = False) -> dict[str, Arrow]:
    """Return the arrows of latent attention.

    Args:
        rotated: axes of the rotated part in memory order.
        at: its module.
        always: queries have a latent vector in any case.
    """
    query = f"(heads [q_nope:nope q_rope:({rotated})])"
    bias, latent = "attention_bias", None if always else "q_lora_rank"
    found = {
        "q_proj": linear(f"normed -> {query}", when="not q_lora_rank"),
        "q_a_proj": linear("normed -> q_latent_raw:q_latent", bias=bias, when=latent),
        "q_a_layernorm": rms_norm("q_latent_raw -> q_latent", eps=_EPS, when=latent),
        "q_b_proj": linear(f"q_latent -> {query}", when=latent),
        "kv_a_proj_with_mqa": linear(f"normed -> [kv_latent_raw:kv_latent k_rope:({rotated})]", bias=bias),
        "kv_a_layernorm": rms_norm("kv_latent_raw -> kv_latent", eps=_EPS),
        "kv_b_proj": linear("kv_latent -> (heads [k_nope:nope v:value])"),
        "o_proj": linear("attended:(heads value) -> stream", bias=bias),
    }
    return {f"{LAYER}.{at}.{name}": arrow for name, arrow in found.items() if name != "q_proj" or not always}


YOUTU = LLAMA.extend(
    "youtu",
    model_types=("youtu",),
    variant="rope_interleave",
    multiples=(),
    sizes={
        "kv_heads": None,
        "group": None,
        "heads": "num_attention_heads",
        "nope": "qk_nope_head_dim",
        "freq": "qk_rope_head_dim / 2",
        "value": "v_head_dim",
        "q_latent": "q_lora_rank or 1",
        "kv_latent": "kv_lora_rank",
    },
    arrows={
        "layers.{layer}.self_attn.k_proj": None,
        "layers.{layer}.self_attn.v_proj": None,
        **latent_attention(INTERLEAVED),
        **PLAIN_MLP,
    },
    attention=(
        Attention(
            query=("q_nope", "q_rope"), key=("k_nope", "k_rope"), value="v", output="attended",
            over=("nope", "freq", "pair"), scale="1 / sqrt(qk_nope_head_dim + qk_rope_head_dim)",
        ),
    ),
    defaults={
        "q_lora_rank": None, "num_key_value_heads": 16, "head_dim": "qk_rope_head_dim", "rope_interleave": True,
        "initializer_range": "2 / sqrt(5 * hidden_size)", "tie_word_embeddings": True,
    },
    follows={
        "head_dim": "qk_rope_head_dim",
        "qk_head_dim": "qk_nope_head_dim + qk_rope_head_dim",
        "num_key_value_heads": "num_attention_heads",
    },
    roles={"kv_heads": None, "key": "qk_nope_head_dim", "value": "v_head_dim"},
)  # fmt: skip
YOUTU_HALVES = YOUTU.extend("youtu_halves", variant="not rope_interleave", arrows=latent_attention(HALVES))

_BY_DEPTH = "scale_depth / sqrt(num_hidden_layers)"
MINICPM3 = YOUTU.extend(
    "minicpm3",
    model_types=("minicpm3",),
    variant=None,
    multiples=LLAMA.multiples,
    arrows={
        **latent_attention(HALVES),
        "layers.{layer}.self_attn.o_proj": linear("attended:(heads value) -> attn_out:stream", bias="attention_bias"),
        **gated_mlp(bias="mlp_bias", writes="mlp_out:stream"),
        "norm": rms_norm("stream -> final", eps="rms_norm_eps"),
        "lm_head": linear("head_input:stream -> vocab", optional=True),
    },
    adds=(
        Add(source="attn_out", target="stream", factor=_BY_DEPTH),
        Add(source="mlp_out", target="stream", factor=_BY_DEPTH),
        Add(source="final", target="head_input", factor="dim_model_base / hidden_size"),
    ),
    defaults={
        "v_head_dim": "hidden_size / num_attention_heads", "rms_norm_eps": 1e-5, "scale_depth": 1.4,
        "dim_model_base": 256, "num_key_value_heads": 40, "initializer_range": 0.1,
    },
)  # fmt: skip
