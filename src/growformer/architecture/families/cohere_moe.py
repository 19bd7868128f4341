"""Cohere 2 with experts: one norm for attention and experts beside each other; some layers have a plain MLP instead."""

from growformer.architecture.declaration import rms_norm
from growformer.architecture.families.cohere import COHERE
from growformer.architecture.families.experts import ASKED, NO_MORE_EXPERTS, experts, gated, packed
from growformer.architecture.families.parts import rotary_heads

_SPARSE = "mlp_layer_types[layer] != 'dense'"
_FROM_FIRST = "(layer + 1) % prefix_dense_sliding_window_pattern"
_FROM_SPARSE = "(layer - first_k_dense_replace + 1) % sliding_window_pattern"

COHERE2_MOE = COHERE.extend(
    "cohere2_moe",
    model_types=("cohere2_moe",),
    variant="not rms_norm_eps",
    sizes={
        "mlp": "prefix_dense_intermediate_size or intermediate_size",
        "expert_mlp": "intermediate_size",
        "shared_mlp": "intermediate_size * num_shared_experts",
        "expert": "num_experts",
    },
    arrows={
        **gated("mlp", "mlp", when=f"not ({_SPARSE})", reads="normed"),
        **experts(when=_SPARSE, reads="normed"),
        **gated("mlp.shared_experts", "shared_mlp", when=f"num_shared_experts and {_SPARSE}", reads="normed"),
    },
    packed=packed(),
    rotary=rotary_heads()["rotary"],
    layer_lists=("layer_types", "mlp_layer_types"),
    layer_rules={
        "layer_types": f"'sliding_attention' if ({_FROM_FIRST} if layer < first_k_dense_replace else {_FROM_SPARSE}) "
        "else 'full_attention'",
        "mlp_layer_types": "'dense' if layer < first_k_dense_replace else 'sparse'",
    },
    defaults={
        "head_dim": 128, "rms_norm_eps": None, "num_experts": 8, "num_experts_per_tok": 2, "num_shared_experts": 0,
        "first_k_dense_replace": 0, "prefix_dense_intermediate_size": None, "prefix_dense_sliding_window_pattern": 1,
        "sliding_window_pattern": 4, "use_qk_norm": None,
    },
    constants={"use_qk_norm": None},
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip

COHERE2_MOE_RMS = COHERE2_MOE.extend(
    "cohere2_moe_rms",
    variant="rms_norm_eps",
    arrows={
        "layers.{layer}.input_layernorm": rms_norm("stream -> normed", eps="rms_norm_eps"),
        "norm": rms_norm("stream -> final", eps="rms_norm_eps"),
    },
)
