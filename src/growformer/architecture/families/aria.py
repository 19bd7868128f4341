"""Text towers with experts of models that see: Aria's are stored transposed, those of others lie in listed layers."""

from growformer.architecture.families.deepseek import SIZES
from growformer.architecture.families.experts import (
    ASKED,
    LISTED,
    LISTS,
    NO_MLP,
    NO_MORE_EXPERTS,
    experts,
    packed,
    some_experts,
)
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import HEAD, rotary_heads

ARIA_TEXT = LLAMA.extend(
    "aria_text",
    model_types=("aria_text",),
    sizes={
        "mlp": None,
        "expert_mlp": "intermediate_size",
        "shared_mlp": "intermediate_size * moe_num_shared_experts",
        "expert": "moe_num_experts",
    },
    arrows={**NO_MLP, **experts("router", shared="shared_experts", shared_bias="mlp_bias")},
    packed=packed(transposed=True),
    renames=(
        (r"\.mlp\.experts\.fc1\.weight", ".mlp.experts.gate_up_proj"),
        (r"\.mlp\.experts\.fc2\.weight", ".mlp.experts.down_proj"),
    ),
    defaults={"moe_num_experts": 8, "moe_topk": 2, "moe_num_shared_experts": 2},
    active={"expert": "moe_topk"},
    fixed=NO_MORE_EXPERTS,
)

_HEADS = rotary_heads(HEAD, because="its config class computes head_dim as hidden_size / num_attention_heads")
UNLIMITED_OCR = LLAMA.extend(
    "unlimited_ocr",
    model_types=("unlimited_ocr_text",),
    **{**_HEADS, "sizes": {**SIZES, **_HEADS["sizes"]}},
    arrows=some_experts(LISTED, shared="shared_experts", bias="mlp_bias"),
    packed=packed(),
    layer_lists=LISTS,
    layer_rules={
        "layer_types": "'full_attention' if sliding_window is None else 'reference_sliding_attention'",
        "mlp_layer_types": "'sparse' if layer >= first_k_dense_replace else 'dense'",
    },
    defaults={
        "num_key_value_heads": 10, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
        "first_k_dense_replace": 1, "sliding_window": 128,
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip
DEEPSEEK_OCR2 = UNLIMITED_OCR.extend(
    "deepseek_ocr2",
    model_types=("deepseek_ocr2_text",),
    layer_lists=("mlp_layer_types",),
    layer_rules={"layer_types": None, "mlp_layer_types": None},
    defaults={"num_key_value_heads": "num_attention_heads", "sliding_window": None},
)
