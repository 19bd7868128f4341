"""HunYuan with experts: norms on queries and keys after they are rotated, and a plain MLP beside the experts."""

from growformer.architecture.declaration import rms_norm
from growformer.architecture.families.experts import NO_MLP, NO_MORE_EXPERTS, experts, packed
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import attention

HUNYUAN_V1_MOE = LLAMA.extend(
    "hunyuan_v1_moe",
    model_types=("hunyuan_v1_moe",),
    multiples=(),
    sizes={
        "mlp": None, "expert_mlp": "intermediate_size", "shared_mlp": "intermediate_size", "expert": "num_experts",
    },
    arrows={
        **attention(bias="attention_bias", out="attention_bias", raw=True),
        "layers.{layer}.self_attn.query_layernorm": rms_norm("q_raw -> q", over="(pair freq)", eps="rms_norm_eps"),
        "layers.{layer}.self_attn.key_layernorm": rms_norm("k_raw -> k", over="(pair freq)", eps="rms_norm_eps"),
        **NO_MLP,
        **experts("gate.wg", shared="shared_mlp"),
    },
    packed=packed(),
    layer_lists=("moe_topk",),
    defaults={"rms_norm_eps": 1e-5},
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip
