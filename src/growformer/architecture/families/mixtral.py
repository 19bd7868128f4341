"""Mixtral and its like: a router picks experts in every layer, each a gated MLP."""

from growformer.architecture.declaration import layer_norm, linear
from growformer.architecture.families.experts import ASKED, NO_MLP, NO_MORE_EXPERTS, experts, packed
from growformer.architecture.families.llama import LLAMA, PLAIN_ATTENTION
from growformer.architecture.families.parts import rotary_heads
from growformer.architecture.families.whole_heads import NO_PLANES, SIZES, scores, whole_heads

_EPS = "rms_norm_eps"
_SIZES = {"mlp": None, "expert_mlp": "intermediate_size", "expert": "num_local_experts"}
_OLD_NAMES = (
    (r"\.block_sparse_moe\.", ".mlp."),
    (r"\.experts\.(\d+)\.w1\.", r".experts.\1.gate_proj."),
    (r"\.experts\.(\d+)\.w2\.", r".experts.\1.down_proj."),
    (r"\.experts\.(\d+)\.w3\.", r".experts.\1.up_proj."),
)

MIXTRAL = LLAMA.extend(
    "mixtral",
    model_types=("mixtral",),
    multiples=(),
    sizes=_SIZES,
    arrows={**PLAIN_ATTENTION, **NO_MLP, **experts()},
    packed=packed(),
    rotary=rotary_heads(theta=1e6)["rotary"],
    renames=_OLD_NAMES,
    defaults={"num_experts_per_tok": 2, "num_key_value_heads": 8, "num_local_experts": 8, "rms_norm_eps": 1e-5},
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)

PHIMOE = LLAMA.extend(
    "phimoe",
    model_types=("phimoe",),
    multiples=(),
    sizes=_SIZES,
    arrows={
        "layers.{layer}.input_layernorm": layer_norm("stream -> normed", eps=_EPS),
        "layers.{layer}.post_attention_layernorm": layer_norm("stream -> mlp_normed", eps=_EPS),
        **NO_MLP,
        **experts("router"),
        "norm": layer_norm("stream -> final", eps=_EPS),
        "lm_head": linear("final -> vocab", bias="lm_head_bias", optional=True),
    },
    packed=packed(),
    rotary=rotary_heads(theta=1e6)["rotary"],
    renames=(*_OLD_NAMES, (r"\.mlp\.gate\.", ".mlp.router.")),
    defaults={
        "num_experts_per_tok": 2, "num_key_value_heads": 8, "num_local_experts": 16, "rms_norm_eps": 1e-5,
        "lm_head_bias": False,
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip

MINIMAX_M2 = MIXTRAL.extend(
    "minimax_m2",
    model_types=("minimax_m2",),
    sizes=SIZES,
    arrows={**whole_heads("kv_heads"), **experts(correction="e_score_correction_bias")},
    **scores(theta=5e6),
    defaults={
        "num_experts_per_tok": 8, "head_dim": 128, "rms_norm_eps": 1e-6, "num_local_experts": 256,
        "rotary_dim": "head_dim", "partial_rotary_factor": "rotary_dim / head_dim",
    },
    fixed=NO_PLANES,
)  # fmt: skip
