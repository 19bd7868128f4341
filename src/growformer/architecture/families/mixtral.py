"""Mixtral and its like: a router picks experts in every layer, each a gated MLP."""

from growformer.architecture.declaration import layer_norm, linear
from growformer.architecture.families.experts import NO_MLP, NO_MORE_EXPERTS, experts, packed
from growformer.architecture.families.llama import LLAMA, PLAIN_ATTENTION

_OLD_EXPERTS = (
    (r"\.block_sparse_moe\.", ".mlp."),
    (r"\.experts\.(\d+)\.w1\.", r".experts.\1.gate_proj."),
    (r"\.experts\.(\d+)\.w2\.", r".experts.\1.down_proj."),
    (r"\.experts\.(\d+)\.w3\.", r".experts.\1.up_proj."),
)

MIXTRAL = LLAMA.extend(
    "mixtral",
    model_types=("mixtral",),
    multiples=(),
    sizes={"mlp": None, "expert_mlp": "intermediate_size", "expert": "num_local_experts"},
    arrows={**PLAIN_ATTENTION, **NO_MLP, **experts()},
    packed=packed(),
    renames=_OLD_EXPERTS,
    defaults={"num_key_value_heads": 8, "num_local_experts": 8, "rms_norm_eps": 1e-5},
    fixed=NO_MORE_EXPERTS,
)

PHIMOE = LLAMA.extend(
    "phimoe",
    model_types=("phimoe",),
    multiples=(),
    sizes={"mlp": None, "expert_mlp": "intermediate_size", "expert": "num_local_experts"},
    arrows={
        "layers.{layer}.input_layernorm": layer_norm("stream -> normed", eps="rms_norm_eps"),
        "layers.{layer}.post_attention_layernorm": layer_norm("stream -> mlp_normed", eps="rms_norm_eps"),
        **NO_MLP,
        **experts("router"),
        "norm": layer_norm("stream -> final", eps="rms_norm_eps"),
        "lm_head": linear("final -> vocab", bias="lm_head_bias", optional=True),
    },
    packed=packed(),
    renames=(*_OLD_EXPERTS, (r"\.mlp\.gate\.", ".mlp.router.")),
    defaults={"num_key_value_heads": 8, "num_local_experts": 16, "rms_norm_eps": 1e-5, "lm_head_bias": False},
    fixed=NO_MORE_EXPERTS,
)
