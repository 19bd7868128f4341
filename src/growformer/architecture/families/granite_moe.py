"""Granite's mixtures of experts: scores scaled by a constant of the config, fused MLPs, experts under other names."""

from growformer.architecture.declaration import Attention, linear, parameter
from growformer.architecture.families.experts import NO_MLP, NO_MORE_EXPERTS, experts, packed
from growformer.architecture.families.llama import LLAMA

_SCALE = {"query": "q", "key": "k", "value": "v", "output": "attended", "over": ("pair", "freq")}

GRANITEMOE = LLAMA.extend(
    "granitemoe",
    model_types=("granitemoe",),
    multiples=(),
    sizes={"mlp": None, "expert_mlp": "intermediate_size", "expert": "num_local_experts"},
    arrows={**NO_MLP, **experts("router", block="block_sparse_moe")},
    packed=packed("block_sparse_moe.experts"),
    renames=(
        (r"\.block_sparse_moe\.input_linear\.weight", ".block_sparse_moe.experts.gate_up_proj"),
        (r"\.block_sparse_moe\.output_linear\.weight", ".block_sparse_moe.experts.down_proj"),
        (r"\.block_sparse_moe\.router\.layer\.", ".block_sparse_moe.router."),
    ),
    attention=(Attention(**_SCALE, scale="attention_multiplier"),),
    defaults={"num_local_experts": 8, "attention_multiplier": 1.0},
    fixed=NO_MORE_EXPERTS,
)

GRANITEMOESHARED = GRANITEMOE.extend(
    "granitemoeshared",
    model_types=("granitemoeshared",),
    sizes={"shared_mlp": "shared_intermediate_size"},
    arrows={
        "layers.{layer}.shared_mlp.input_linear": linear(
            "mlp_normed -> [shared_mlp:shared_mlp shared_mlp:shared_mlp]", when="shared_intermediate_size"
        ),
        "layers.{layer}.shared_mlp.output_linear": linear("shared_mlp -> stream", when="shared_intermediate_size"),
    },
    defaults={"shared_intermediate_size": 0},
)
