"""DeepSeek: latent attention, where queries and keys have a rotated part and one that is not; experts in later layers.

The rotated part of keys is one for all heads, and comes out of the same matrix as their latent vector.
"""

from growformer.architecture.declaration import Add, Arrow, Attention, linear, parameter, rms_norm
from growformer.architecture.families.experts import (
    FIRST_DENSE,
    LATER,
    LISTED,
    NO_MORE_EXPERTS,
    experts,
    gated,
    packed,
)
from growformer.architecture.families.llama import LLAMA

_EPS = 1e-6  # of both latent norms, whatever the config says
_LATENT, _DIRECT = "q_lora_rank", "not q_lora_rank"


def latent_attention(rotated: str, bias: bool | str = "attention_bias") -> dict[str, Arrow | None]:
    """Return the arrows of latent attention; ``rotated`` is how coordinates of the rotated part lie in memory."""
    query = f"(heads [q_nope:nope q_rope:{rotated}])"
    at = "layers.{layer}.self_attn"
    return {
        f"{at}.q_proj": linear(f"normed -> {query}", when=_DIRECT),
        f"{at}.k_proj": None,
        f"{at}.v_proj": None,
        f"{at}.q_a_proj": linear("normed -> q_latent_raw:q_latent", bias=bias, when=_LATENT),
        f"{at}.q_a_layernorm": rms_norm("q_latent_raw -> q_latent", eps=_EPS, when=_LATENT),
        f"{at}.q_b_proj": linear(f"q_latent -> {query}", when=_LATENT),
        f"{at}.kv_a_proj_with_mqa": linear(f"normed -> [kv_latent_raw:kv_latent k_rope:{rotated}]", bias=bias),
        f"{at}.kv_a_layernorm": rms_norm("kv_latent_raw -> kv_latent", eps=_EPS),
        f"{at}.kv_b_proj": linear("kv_latent -> (heads [k_nope:nope v:value])"),
        f"{at}.o_proj": linear("attended:(heads value) -> stream", bias=bias),
    }


INTERLEAVED, HALVES = "(freq pair)", "(pair freq)"
_ROUTED = experts(when=LATER, shared="shared_experts", shared_bias="mlp_bias")

DEEPSEEK_V2 = LLAMA.extend(
    "deepseek_v2",
    model_types=("deepseek_v2",),
    sizes={
        "kv_heads": None,
        "group": None,
        "heads": "num_attention_heads",
        "nope": "qk_nope_head_dim",
        "freq": "qk_rope_head_dim / 2",
        "value": "v_head_dim",
        "q_latent": "q_lora_rank or 1",
        "kv_latent": "kv_lora_rank",
        "expert_mlp": "moe_intermediate_size",
        "shared_mlp": "moe_intermediate_size * n_shared_experts",
        "expert": "n_routed_experts",
    },
    arrows={
        **latent_attention(INTERLEAVED),
        **gated("mlp", "mlp", when=f"not ({LATER})", bias="mlp_bias"),
        **_ROUTED,
    },
    packed=packed(),
    attention=(
        Attention(
            query=("q_nope", "q_rope"), key=("k_nope", "k_rope"), value="v", output="attended",
            over=("nope", "freq", "pair"), scale="1 / sqrt(qk_nope_head_dim + qk_rope_head_dim)",
        ),
    ),
    kinds=(FIRST_DENSE,),
    defaults={
        "q_lora_rank": None, "num_key_value_heads": "num_attention_heads", "head_dim": "qk_rope_head_dim",
        "first_k_dense_replace": 0, "n_shared_experts": 2, "n_routed_experts": 64,
    },
    fixed=NO_MORE_EXPERTS,
    follows={
        "head_dim": "qk_rope_head_dim",
        "qk_head_dim": "qk_nope_head_dim + qk_rope_head_dim",
        "num_key_value_heads": "num_attention_heads",
    },
    roles={"kv_heads": None, "key": "qk_nope_head_dim", "value": "v_head_dim"},
)  # fmt: skip

_NEXT = {"layer": ("num_nextn_predict_layers or 0", "it predicts further tokens, for layers that are changed now")}

DEEPSEEK_V3 = DEEPSEEK_V2.extend(
    "deepseek_v3",
    model_types=("deepseek_v3",),
    variant="rope_interleave",
    multiples=(),
    arrows={
        **gated("mlp", "mlp", when=f"not ({LATER})"),
        **experts(when=LATER, shared="shared_experts", correction="gate.e_score_correction_bias"),
    },
    beyond=_NEXT,
    defaults={
        "first_k_dense_replace": 3, "n_shared_experts": 1, "n_routed_experts": 256, "rope_interleave": True,
        "num_nextn_predict_layers": 1,
    },
    follows={"num_nextn_predict_layers": "0"},
)  # fmt: skip
DEEPSEEK_V3_HALVES = DEEPSEEK_V3.extend(
    "deepseek_v3_halves", variant="not rope_interleave", arrows=latent_attention(HALVES)
)
