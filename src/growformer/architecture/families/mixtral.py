"""Mixtral and its like: a router picks experts, each a gated MLP. One tensor per expert on disk, all in one in memory."""

from growformer.architecture.declaration import LayerKind, Packed, linear
from growformer.architecture.families.llama import LLAMA, PLAIN_ATTENTION, QWEN3

EXPERTS = {
    "layers.{layer}.mlp.gate_proj": None,
    "layers.{layer}.mlp.up_proj": None,
    "layers.{layer}.mlp.down_proj": None,
    "layers.{layer}.mlp.gate": linear("mlp_normed -> router:expert"),
    "layers.{layer}.mlp.experts.{expert}.gate_proj": linear("mlp_normed -> expert_mlp"),
    "layers.{layer}.mlp.experts.{expert}.up_proj": linear("mlp_normed -> expert_mlp"),
    "layers.{layer}.mlp.experts.{expert}.down_proj": linear("expert_mlp -> stream"),
}
FUSED_EXPERTS = {
    "layers.{layer}.mlp.experts.gate_up_proj": Packed(
        parts=(
            "layers.{layer}.mlp.experts.{expert}.gate_proj.weight",
            "layers.{layer}.mlp.experts.{expert}.up_proj.weight",
        ),
        stack="expert",
    ),
    "layers.{layer}.mlp.experts.down_proj": Packed(
        parts=("layers.{layer}.mlp.experts.{expert}.down_proj.weight",), stack="expert"
    ),
}
NO_MORE_EXPERTS = {"expert": "more experts change what the router picks"}

MIXTRAL = LLAMA.extend(
    "mixtral",
    model_types=("mixtral",),
    multiples=(),
    sizes={"mlp": None, "expert_mlp": "intermediate_size", "expert": "num_local_experts"},
    arrows={**PLAIN_ATTENTION, **EXPERTS},
    packed=FUSED_EXPERTS,
    renames=(
        (r"\.block_sparse_moe\.gate\.", ".mlp.gate."),
        (r"\.block_sparse_moe\.experts\.(\d+)\.w1\.", r".mlp.experts.\1.gate_proj."),
        (r"\.block_sparse_moe\.experts\.(\d+)\.w2\.", r".mlp.experts.\1.down_proj."),
        (r"\.block_sparse_moe\.experts\.(\d+)\.w3\.", r".mlp.experts.\1.up_proj."),
    ),
    defaults={"num_key_value_heads": 8, "num_local_experts": 8, "rms_norm_eps": 1e-5},
    fixed=NO_MORE_EXPERTS,
)

_SPARSE = "layer not in mlp_only_layers and (layer + 1) % decoder_sparse_step == 0"
_DENSE = f"not ({_SPARSE})"
SPARSE_LAYERS = LayerKind(
    when=_SPARSE,
    settle={"decoder_sparse_step": "1", "mlp_only_layers": "others"},
    because="whether a layer has experts follows from its number (decoder_sparse_step, mlp_only_layers)",
)
SOME_LAYERS = {
    **{name: linear(str(arrow), when=_SPARSE) for name, arrow in EXPERTS.items() if arrow is not None},
    "layers.{layer}.mlp.gate_proj": linear("mlp_normed -> mlp", when=_DENSE),
    "layers.{layer}.mlp.up_proj": linear("mlp_normed -> mlp", when=_DENSE),
    "layers.{layer}.mlp.down_proj": linear("mlp -> stream", when=_DENSE),
}

QWEN3_MOE = QWEN3.extend(
    "qwen3_moe",
    model_types=("qwen3_moe",),
    sizes={"expert_mlp": "moe_intermediate_size", "expert": "num_experts"},
    arrows=SOME_LAYERS,
    packed=FUSED_EXPERTS,
    kinds=(SPARSE_LAYERS,),
    defaults={
        "num_experts": "num_local_experts", "mlp_only_layers": [], "decoder_sparse_step": 1,
        "num_key_value_heads": 4, "head_dim": "hidden_size / num_attention_heads",
    },
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip
