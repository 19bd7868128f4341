"""Qwen's mixtures of experts: some layers have experts, and Qwen2-MoE a gated expert that is always asked as well."""

from growformer.architecture.declaration import linear
from growformer.architecture.families.experts import NO_MORE_EXPERTS, SPARSE, STEPS, experts, gated, packed
from growformer.architecture.families.llama import QWEN2, QWEN3

_SIZES = {"expert_mlp": "moe_intermediate_size", "expert": "num_experts"}

QWEN2_MOE = QWEN2.extend(
    "qwen2_moe",
    model_types=("qwen2_moe",),
    sizes={**_SIZES, "shared_mlp": "shared_expert_intermediate_size"},
    arrows={
        "layers.{layer}.self_attn.q_proj": linear("normed -> q:(kv_heads group pair freq)", bias="qkv_bias"),
        "layers.{layer}.self_attn.k_proj": linear("normed -> k:(kv_heads pair freq)", bias="qkv_bias"),
        "layers.{layer}.self_attn.v_proj": linear("normed -> v:(kv_heads value)", bias="qkv_bias"),
        **gated("mlp", "mlp", when=f"not ({SPARSE})"),
        **experts(when=SPARSE),
        **gated("mlp.shared_expert", "shared_mlp", when=SPARSE),
        "layers.{layer}.mlp.shared_expert_gate": linear("mlp_normed -> shared_gate:-", when=SPARSE),
    },
    packed=packed(),
    kinds=(STEPS,),
    layer_rules={
        "layer_types": "'sliding_attention' if use_sliding_window and (layer + 1) % 2 and layer < max_window_layers "
        "else 'full_attention'"
    },
    defaults={
        "num_experts": 60, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "qkv_bias": True,
        "mlp_only_layers": [], "decoder_sparse_step": 1, "num_key_value_heads": 16,
    },
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip

QWEN3_MOE = QWEN3.extend(
    "qwen3_moe",
    model_types=("qwen3_moe",),
    sizes=_SIZES,
    arrows={**gated("mlp", "mlp", when=f"not ({SPARSE})"), **experts(when=SPARSE)},
    packed=packed(),
    kinds=(STEPS,),
    layer_lists=(),
    layer_rules={"layer_types": None},
    defaults={
        "num_experts": "num_local_experts", "mlp_only_layers": [], "decoder_sparse_step": 1,
        "num_key_value_heads": 4, "head_dim": "hidden_size / num_attention_heads",
    },
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip
