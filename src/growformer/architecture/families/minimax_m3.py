"""MiniMax-M3's text model: gains stored as 1 + w, heads normed and rotated in part, gate and up fused in plain MLPs."""

from growformer.architecture.declaration import Arrow, linear, rms_norm
from growformer.architecture.families.experts import ASKED, LAYER, LISTED, LISTS, NO_MORE_EXPERTS, experts, packed
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.whole_heads import NO_PLANES, SIZES, scores, whole_heads

_EPS = "rms_norm_eps"
_FULL = "'minimax_m3_sparse' not in layer_types"
_INDEXED = "layer_types[layer] == 'minimax_m3_sparse'"
_PICKS = "the indexer picks blocks of tokens by it, for a share of all heads each"


def _fused(name: str, mlp: str, when: str) -> dict[str, Arrow]:
    return {
        f"{LAYER}.{name}.gate_up_proj": linear(f"mlp_normed -> [{mlp}:{mlp} {mlp}:{mlp}]", when=when),
        f"{LAYER}.{name}.down_proj": linear(f"{mlp} -> stream", when=when),
    }


MINIMAX_M3 = LLAMA.extend(
    "minimax_m3",
    model_types=("minimax_m3_vl_text",),
    variant=_FULL,
    multiples=(),
    sizes={
        **SIZES,
        "mlp": "dense_intermediate_size",
        "expert_mlp": "intermediate_size",
        "shared_mlp": "shared_intermediate_size",
        "expert": "num_local_experts",
    },
    arrows={
        f"{LAYER}.input_layernorm": rms_norm("stream -> normed", eps=_EPS, offset=1),
        **whole_heads(offset=1),
        f"{LAYER}.post_attention_layernorm": rms_norm("stream -> mlp_normed", eps=_EPS, offset=1),
        **dict.fromkeys(f"{LAYER}.mlp.{name}_proj" for name in ("gate", "up")),
        **_fused("mlp", "mlp", f"not ({LISTED})"),
        **experts(when=LISTED, correction="gate.e_score_correction_bias"),
        **_fused("mlp.shared_experts", "shared_mlp", LISTED),
        "norm": rms_norm("stream -> final", eps=_EPS, offset=1),
    },
    packed=packed(),
    **scores(theta=5e6),
    layer_lists=LISTS,
    layer_rules={"layer_types": "'full_attention'", "mlp_layer_types": "'sparse'"},
    defaults={
        "num_key_value_heads": 4, "head_dim": 128, "num_local_experts": 128, "num_experts_per_tok": 4,
        "dense_intermediate_size": 12288, "shared_intermediate_size": 3072, "partial_rotary_factor": 1.0,
    },
    active=ASKED,
    fixed={**NO_MORE_EXPERTS, **NO_PLANES},
)  # fmt: skip

MINIMAX_M3_SPARSE = MINIMAX_M3.extend(
    "minimax_m3_sparse",
    variant=f"not ({_FULL})",
    sizes={"index_heads": "index_n_heads", "index_key": "index_head_dim"},
    arrows={
        f"{LAYER}.self_attn.indexer.{x}_{part}": arrow
        for x, term in {"q": "(index_heads index_key)", "k": "index_key"}.items()
        for part, arrow in {
            "proj": linear(f"normed -> index_{x}_raw:{term}", when=_INDEXED),
            "norm": rms_norm(f"index_{x}_raw -> index_{x}", over="index_key", eps=_EPS, offset=1, when=_INDEXED),
        }.items()
    },
    defaults={"index_n_heads": 4, "index_head_dim": 128},
    fixed=dict.fromkeys(("index_heads", "index_key", "kv_heads", "group"), _PICKS),
)
