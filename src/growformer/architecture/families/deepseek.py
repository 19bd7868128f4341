"""DeepSeek and its like: latent attention, and experts in later layers, one of which is always asked."""

from growformer.architecture.declaration import linear, rms_norm
from growformer.architecture.families.experts import (
    FIRST_DENSE,
    LATER,
    LISTED,
    NO_MORE_EXPERTS,
    experts,
    gated,
    packed,
)
from growformer.architecture.families.latent import HALVES, INTERLEAVED, YOUTU, latent_attention
from growformer.architecture.families.llama import LLAMA

DEEPSEEK_V2 = YOUTU.extend(
    "deepseek_v2",
    model_types=("deepseek_v2",),
    variant=None,
    multiples=LLAMA.multiples,
    sizes={
        "expert_mlp": "moe_intermediate_size",
        "shared_mlp": "moe_intermediate_size * n_shared_experts",
        "expert": "n_routed_experts",
        # The class views what it rotates as complex numbers, which must begin at an even place.
        "half_nope": "qk_nope_head_dim / 2",
        "half_latent": "kv_lora_rank / 2",
    },
    arrows={
        **gated("mlp", "mlp", when=f"not ({LATER})", bias="mlp_bias"),
        **experts(when=LATER, shared="shared_experts", shared_bias="mlp_bias"),
    },
    packed=packed(),
    kinds=(FIRST_DENSE,),
    defaults={
        "first_k_dense_replace": 0, "n_shared_experts": 2, "n_routed_experts": 64, "tie_word_embeddings": False,
    },
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip

NEXT = {"layer": ("num_nextn_predict_layers or 0", "it predicts further tokens, for layers that are changed now")}
NO_NEXT = {"num_nextn_predict_layers": "0"}
_ANY = {"half_nope": None, "half_latent": None}
_CORRECTION = {"shared": "shared_experts", "correction": "gate.e_score_correction_bias"}

DEEPSEEK_V3 = DEEPSEEK_V2.extend(
    "deepseek_v3",
    model_types=("deepseek_v3",),
    variant="rope_interleave",
    multiples=(),
    sizes=_ANY,
    arrows={**gated("mlp", "mlp", when=f"not ({LATER})"), **experts(when=LATER, **_CORRECTION)},
    beyond=NEXT,
    defaults={
        "first_k_dense_replace": 3, "n_shared_experts": 1, "n_routed_experts": 256, "num_nextn_predict_layers": 1,
    },
    follows=NO_NEXT,
)  # fmt: skip
DEEPSEEK_V3_HALVES = DEEPSEEK_V3.extend(
    "deepseek_v3_halves", variant="not rope_interleave", arrows=latent_attention(HALVES)
)

SARVAM_MLA = DEEPSEEK_V3.extend(
    "sarvam_mla",
    model_types=("sarvam_mla",),
    defaults={
        "first_k_dense_replace": 1, "num_experts": 128, "n_routed_experts": "num_experts", "num_shared_experts": 1,
        "n_shared_experts": "num_shared_experts", "num_nextn_predict_layers": 0,
    },
    follows={"num_shared_experts": "n_shared_experts"},
)  # fmt: skip

MISTRAL4 = DEEPSEEK_V2.extend(
    "mistral4",
    model_types=("mistral4",),
    multiples=(),
    variant="rope_interleave",
    sizes=_ANY,
    arrows={**gated("mlp", "mlp", when=f"not ({LATER})"), **experts(when=LATER, shared="shared_experts")},
    defaults={"n_shared_experts": 1, "n_routed_experts": 128, "head_dim": "qk_nope_head_dim + qk_rope_head_dim"},
    follows={
        "head_dim": "qk_nope_head_dim + qk_rope_head_dim",
        "rope_parameters.partial_rotary_factor": "(qk_rope_head_dim + 0.5) / (qk_nope_head_dim + qk_rope_head_dim)",
    },
)

_LISTED = {**gated("mlp", "mlp", when=f"not ({LISTED})"), **experts(when=LISTED, **_CORRECTION)}
LISTS = ("layer_types", "mlp_layer_types")

GLM4_MOE_LITE = DEEPSEEK_V3.extend(
    "glm4_moe_lite",
    model_types=("glm4_moe_lite",),
    arrows=_LISTED,
    kinds=(),
    layer_lists=LISTS,
    layer_rules={"mlp_layer_types": "'sparse' if layer else 'dense'"},
    defaults={"rms_norm_eps": 1e-5, "n_routed_experts": 64},
)

AXK1 = DEEPSEEK_V3.extend(
    "axk1",
    model_types=("axk1",),
    arrows={
        **latent_attention(INTERLEAVED, always=True),
        "layers.{layer}.self_attn.q_proj": None,
        **gated("mlp", "mlp", when=f"not ({LISTED})"),
        **experts(when=LISTED, writes="mlp_raw:stream", **_CORRECTION),
        "layers.{layer}.mlp.post_mlp_layernorm": rms_norm("mlp_raw -> stream", eps="rms_norm_eps", when=LISTED),
    },
    kinds=(),
    layer_lists=LISTS,
    layer_rules={
        "mlp_layer_types": "'sparse' if layer >= first_k_dense_replace and layer % moe_layer_freq == 0 else 'dense'"
    },
    renames=((r"(layers\.\d+)\.post_mlp_layernorm\.", r"\1.mlp.post_mlp_layernorm."),),
    defaults={"first_k_dense_replace": 1, "moe_layer_freq": 1, "n_routed_experts": 192},
)
