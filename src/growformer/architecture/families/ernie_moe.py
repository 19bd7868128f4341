"""ERNIE 4.5 with experts: a range of layers has them, with a bias on their scores and one that is always asked."""

from growformer.architecture.declaration import LayerKind, linear, parameter
from growformer.architecture.families.experts import NO_MORE_EXPERTS, NO_NEXT_TOKENS, gated, packed, some_experts
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import INTERLEAVED, attention, rotary_heads

_SPARSE = (
    "(layer + 1) % moe_layer_interval == 0 and layer >= moe_layer_start_index "
    "and (layer <= moe_layer_end_index or moe_layer_end_index == -1)"
)
_SHARED = f"moe_num_shared_experts and {_SPARSE}"

ERNIE4_5_MOE = LLAMA.extend(
    "ernie4_5_moe",
    model_types=("ernie4_5_moe",),
    multiples=(),
    sizes={
        "expert_mlp": "moe_intermediate_size",
        "shared_mlp": "moe_intermediate_size * moe_num_shared_experts",
        "expert": "moe_num_experts",
    },
    arrows={
        **attention(INTERLEAVED, bias="use_bias", out="use_bias"),
        **some_experts(_SPARSE, bias="use_bias"),
        "layers.{layer}.mlp.gate.moe_statics.e_score_correction_bias": parameter(
            "-> router:expert", leading=1, when=_SPARSE
        ),
        **gated("mlp.shared_experts", "shared_mlp", when=_SHARED, bias="use_bias"),
        "lm_head": linear("final -> vocab", bias="use_bias", optional=True),
    },
    packed=packed(),
    rotary=rotary_heads(theta=5e5)["rotary"],
    kinds=(
        LayerKind(
            when=_SPARSE,
            settle={
                "moe_layer_interval": "1",
                "moe_layer_start_index": "holds[0] if holds else num_others",
                "moe_layer_end_index": "holds[-1] if holds else num_others",
            },
            because="layers from moe_layer_start_index to moe_layer_end_index have experts and no others do",
        ),
    ),
    renames=((r"\.mlp\.moe_statics\.", ".mlp.gate.moe_statics."),),
    defaults={
        "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "use_bias": False,
        "moe_num_experts": 64, "moe_k": 6, "moe_num_shared_experts": 2, "moe_layer_start_index": 1,
        "moe_layer_end_index": "num_hidden_layers - 1", "moe_layer_interval": 1,
    },
    active={"expert": "moe_k"},
    fixed=NO_MORE_EXPERTS,
    ignored={r"(model\.)?mtp.*": NO_NEXT_TOKENS},
)  # fmt: skip
