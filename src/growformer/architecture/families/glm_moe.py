"""GLM-4.5 and its like: DeepSeek's experts (a shared one, sigmoid scores, a bias on them) behind grouped attention."""

from growformer.architecture.declaration import Attention, Rotary, linear, rms_norm
from growformer.architecture.families.deepseek import LISTS, NEXT, NO_NEXT
from growformer.architecture.families.experts import (
    FIRST_DENSE,
    LATER,
    LISTED,
    NO_MLP,
    NO_MORE_EXPERTS,
    experts,
    gated,
    packed,
)
from growformer.architecture.families.llama import LLAMA, QWEN3

_SIZES = {
    "expert_mlp": "moe_intermediate_size",
    "shared_mlp": "moe_intermediate_size * n_shared_experts",
    "expert": "n_routed_experts",
}
_CORRECTION = {"correction": "gate.e_score_correction_bias"}
_PLAIN_OUTPUT = {"layers.{layer}.self_attn.o_proj": linear("attended:(kv_heads group value) -> stream")}
_ROTATED = "int(head_dim * partial_rotary_factor)"

GLM4_MOE = LLAMA.extend(
    "glm4_moe",
    model_types=("glm4_moe",),
    variant="not use_qk_norm",
    multiples=(),
    sizes={**_SIZES, "freq": f"{_ROTATED} / 2", "rest": f"head_dim - {_ROTATED}"},
    arrows={
        "layers.{layer}.self_attn.q_proj": linear(
            "normed -> (kv_heads group [q:(pair freq) q_rest:rest])", bias="attention_bias"
        ),
        "layers.{layer}.self_attn.k_proj": linear(
            "normed -> (kv_heads [k:(pair freq) k_rest:rest])", bias="attention_bias"
        ),
        **_PLAIN_OUTPUT,
        **gated("mlp", "mlp", when=f"not ({LATER})"),
        **experts(when=LATER, shared="shared_experts", **_CORRECTION),
    },
    packed=packed(),
    attention=(
        Attention(
            query=("q", "q_rest"), key=("k", "k_rest"), value="v", output="attended", over=("pair", "freq", "rest"),
            scale="1 / sqrt(head_dim)",
        ),
    ),
    rotary=(Rotary(frequency="freq", fraction="partial_rotary_factor"),),
    kinds=(FIRST_DENSE,),
    beyond=NEXT,
    defaults={
        "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "n_shared_experts": 1, "n_routed_experts": 128,
        "first_k_dense_replace": 1, "use_qk_norm": False, "partial_rotary_factor": 0.5, "num_nextn_predict_layers": 1,
    },
    fixed=NO_MORE_EXPERTS,
    follows=NO_NEXT,
)  # fmt: skip

# A norm reads rotated and other coordinates of a head together; what is new lies behind them all, and is not rotated.
GLM4_MOE_NORMED = GLM4_MOE.extend(
    "glm4_moe_normed",
    variant="use_qk_norm",
    sizes={"pair": None, "rest": None, "key": "head_dim"},
    arrows={
        "layers.{layer}.self_attn.q_proj": linear("normed -> q_raw:(kv_heads group key)", bias="attention_bias"),
        "layers.{layer}.self_attn.k_proj": linear("normed -> k_raw:(kv_heads key)", bias="attention_bias"),
        "layers.{layer}.self_attn.q_norm": rms_norm("q_raw -> q", over="key", eps="rms_norm_eps"),
        "layers.{layer}.self_attn.k_norm": rms_norm("k_raw -> k", over="key", eps="rms_norm_eps"),
    },
    attention=(
        Attention(query="q", key="k", value="v", output="attended", over=("key",), scale="1 / sqrt(head_dim)"),
    ),
    fixed={"pair": None},
)

DOTS1 = QWEN3.extend(
    "dots1",
    model_types=("dots1",),
    sizes=_SIZES,
    arrows={
        **gated("mlp", "mlp", when=f"not ({LATER})"),
        **experts(when=LATER, shared="shared_experts", **_CORRECTION),
    },
    packed=packed(),
    kinds=(FIRST_DENSE,),
    layer_rules={
        "layer_types": "'sliding_attention' if sliding_window is not None and layer >= max_window_layers "
        "else 'full_attention'"
    },
    defaults={
        "head_dim": "hidden_size / num_attention_heads", "first_k_dense_replace": 0, "sliding_window": None,
        "max_window_layers": 62,
    },
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip

SOLAR_OPEN = LLAMA.extend(
    "solar_open",
    model_types=("solar_open",),
    multiples=(),
    sizes={**_SIZES, "mlp": None},
    arrows={**_PLAIN_OUTPUT, **NO_MLP, **experts(shared="shared_experts", **_CORRECTION)},
    packed=packed(),
    defaults={
        "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5, "n_shared_experts": 1, "n_routed_experts": 128,
    },
    fixed=NO_MORE_EXPERTS,
    roles={"mlp": "moe_intermediate_size"},
    aliases={"intermediate_size": "moe_intermediate_size"},
)  # fmt: skip

_NUMBERED = {
    "expert_mlp": "moe_intermediate_size",
    "shared_mlp": "moe_intermediate_size * num_shared_experts",
    "expert": "num_experts",
}
_LISTS = {"layer_lists": LISTS, "packed": packed(), "fixed": NO_MORE_EXPERTS}

EXAONE_MOE = QWEN3.extend(
    "exaone_moe",
    model_types=("exaone_moe",),
    sizes=_NUMBERED,
    arrows={
        "layers.{layer}.self_attn.q_proj": linear("normed -> q_raw:(kv_heads group pair freq)"),
        "layers.{layer}.self_attn.k_proj": linear("normed -> k_raw:(kv_heads pair freq)"),
        "layers.{layer}.self_attn.v_proj": linear("normed -> v:(kv_heads value)"),
        **_PLAIN_OUTPUT,
        **gated("mlp", "mlp", when=f"not ({LISTED})"),
        **experts(when=LISTED, shared="shared_experts", **_CORRECTION),
    },
    renames=((r"\.mlp\.e_score_correction_bias", ".mlp.gate.e_score_correction_bias"),),
    layer_rules={
        "layer_types": "'sliding_attention' if sliding_window_pattern and (layer + 1) % sliding_window_pattern "
        "else 'full_attention'",
        "mlp_layer_types": "'dense' if layer < first_k_dense_replace else 'sparse'",
    },
    defaults={
        "head_dim": "hidden_size / num_attention_heads", "rms_norm_eps": 1e-5, "num_experts": 64,
        "num_shared_experts": 1, "first_k_dense_replace": 1, "sliding_window_pattern": 4,
    },
    ignored={r"mtp\..*": "it predicts further tokens, for layers that are changed now"},
    **_LISTS,
)  # fmt: skip

HY_V3 = QWEN3.extend(
    "hy_v3",
    model_types=("hy_v3",),
    sizes=_NUMBERED,
    arrows={
        **gated("mlp", "mlp", when=f"not ({LISTED})", bias="mlp_bias"),
        **experts(when=LISTED, shared="shared_experts", shared_bias="mlp_bias", correction="e_score_correction_bias"),
    },
    renames=(
        (r"\.mlp\.router\.gate\.", ".mlp.gate."),
        (r"\.mlp\.expert_bias", ".mlp.e_score_correction_bias"),
        (r"\.mlp\.shared_mlp\.", ".mlp.shared_experts."),
    ),
    beyond=NEXT,
    layer_rules={"layer_types": None, "mlp_layer_types": "'sparse' if layer else 'dense'"},
    defaults={
        "head_dim": 128, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "num_experts": 192, "num_shared_experts": 1,
        "num_nextn_predict_layers": 1,
    },
    follows=NO_NEXT,
    **_LISTS,
)  # fmt: skip
