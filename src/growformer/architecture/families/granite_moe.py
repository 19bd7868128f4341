"""Granite's mixtures of experts: Granite's constant multipliers, experts under other names, fused MLPs beside them."""

from growformer.architecture.declaration import linear
from growformer.architecture.families.experts import ASKED, LAYER, NO_MLP, NO_MORE_EXPERTS, experts, packed
from growformer.architecture.families.granite import GRANITE, GRANITE_SWA

_SIZES = {"mlp": None, "expert_mlp": "intermediate_size", "expert": "num_local_experts"}

GRANITEMOE = GRANITE.extend(
    "granitemoe",
    model_types=("granitemoe",),
    sizes=_SIZES,
    arrows={**NO_MLP, **experts("router", block="block_sparse_moe")},
    packed=packed("block_sparse_moe.experts"),
    renames=(
        (r"\.block_sparse_moe\.input_linear\.weight", ".block_sparse_moe.experts.gate_up_proj"),
        (r"\.block_sparse_moe\.output_linear\.weight", ".block_sparse_moe.experts.down_proj"),
        (r"\.block_sparse_moe\.router\.layer\.", ".block_sparse_moe.router."),
    ),
    defaults={"num_experts_per_tok": 2, "num_local_experts": 8},
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)


def _shared(when: str | None = "shared_intermediate_size", experts_when: str | None = None) -> dict[str, object]:
    """Return what a fused MLP beside the experts adds."""
    return {
        "sizes": {**_SIZES, "shared_mlp": "shared_intermediate_size"},
        "arrows": {
            **NO_MLP,
            **experts("router", block="block_sparse_moe", when=experts_when),
            f"{LAYER}.shared_mlp.input_linear": linear(
                "mlp_normed -> [shared_mlp:shared_mlp shared_mlp:shared_mlp]", when=when
            ),
            f"{LAYER}.shared_mlp.output_linear": linear("shared_mlp -> stream", when=when),
        },
    }


GRANITEMOESHARED = GRANITEMOE.extend(
    "granitemoeshared", model_types=("granitemoeshared",), **_shared(), defaults={"shared_intermediate_size": 0}
)

GRANITEMOE_SWA = GRANITE_SWA.extend(
    "granitemoe_swa",
    model_types=("granitemoe_swa",),
    **_shared(),
    packed=packed("block_sparse_moe.experts"),
    defaults={
        "num_experts_per_tok": 2, "num_local_experts": 8, "shared_intermediate_size": 0,
        "num_key_value_heads": "num_attention_heads", "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip

GRANITEMOEHYBRID = GRANITEMOE.extend(
    "granitemoehybrid",
    model_types=("granitemoehybrid",),
    variant="'linear_attention' not in layer_types and 'mamba' not in layer_types",
    **_shared(None, "num_local_experts"),
    layer_rules={"layer_types": "'linear_attention'"},
    defaults={"shared_intermediate_size": 1024, "mamba_expand": 2, "mamba_n_heads": 128},
    follows={"mamba_d_head": "mamba_expand * hidden_size // mamba_n_heads"},
)
