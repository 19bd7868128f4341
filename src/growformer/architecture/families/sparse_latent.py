"""DeepSeek-V3.2 and its like: latent attention to the tokens that an indexer picks.

What the indexer computes must not change, since it decides: its own sizes are kept, and the rotated part, which it has
as well.
"""

from growformer.architecture.declaration import layer_norm, linear
from growformer.architecture.families.deepseek import DEEPSEEK_V3
from growformer.architecture.families.experts import LAYER, LISTED, LISTS, some_experts
from growformer.architecture.families.latent import latent_attention
from growformer.architecture.families.parts import INTERLEAVED

_PICKS = "the indexer picks tokens by it"
_AT = f"{LAYER}.self_attn.indexer"


def _indexer(when: str | None = None) -> dict[str, object]:
    return {
        f"{_AT}.wq_b": linear("q_latent -> index_q:(index_heads index_key)", when=when),
        f"{_AT}.wk": linear("normed -> index_k_raw:index_key", when=when),
        f"{_AT}.k_norm": layer_norm("index_k_raw -> index_k", eps=1e-6, when=when),
        f"{_AT}.weights_proj": linear("normed -> index_weights:index_heads", when=when),
    }


DEEPSEEK_V32 = DEEPSEEK_V3.extend(
    "deepseek_v32",
    model_types=("deepseek_v32",),
    variant=None,
    sizes={"index_heads": "index_n_heads", "index_key": "index_head_dim"},
    arrows={
        **latent_attention(INTERLEAVED, always=True),
        f"{LAYER}.self_attn.q_proj": None,
        **some_experts(LISTED, shared="shared_experts", correction="gate.e_score_correction_bias"),
        **_indexer(),
    },
    activated=("index_q", "index_k"),
    kinds=(),
    layer_lists=LISTS,
    layer_rules={
        "layer_types": "'indexed_attention'",
        "mlp_layer_types": "'sparse' if layer >= first_k_dense_replace else 'dense'",
    },
    defaults={"index_n_heads": 64, "index_head_dim": 128, "rope_interleave": None},
    fixed={"index_heads": _PICKS, "index_key": _PICKS, "freq": _PICKS},
)

GLM_MOE_DSA = DEEPSEEK_V32.extend(
    "glm_moe_dsa",
    model_types=("glm_moe_dsa",),
    arrows=_indexer("indexer_types[layer] == 'full'"),
    layer_lists=(*LISTS, "indexer_types"),
    layer_rules={
        "indexer_types": "'full' if (layer - index_skip_topk_offset + 1 if layer >= index_skip_topk_offset else 0) "
        "% (index_topk_freq or 1) == 0 else 'shared'"
    },
    defaults={
        "rms_norm_eps": 1e-5, "index_n_heads": 32, "num_key_value_heads": 64, "index_skip_topk_offset": 2,
        "index_topk_freq": 1,
    },
    fixed={"layer": "layers share what an indexer before them picks, and a new one would pick for them"},
)  # fmt: skip
