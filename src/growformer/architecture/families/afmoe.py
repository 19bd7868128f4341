"""AFMoE and Beam: norms on either side of both branches, a gate on what is attended to, experts in later layers."""

from growformer.architecture.declaration import Add, LayerKind, embedding, linear, parameter, rms_norm
from growformer.architecture.families.experts import ASKED, LISTED, LISTS, NO_MORE_EXPERTS, packed, some_experts
from growformer.architecture.families.llama import QWEN3
from growformer.architecture.families.parts import attention, rotary_heads

_SPARSE = "layer >= num_dense_layers"

AFMOE = QWEN3.extend(
    "afmoe",
    model_types=("afmoe",),
    sizes={
        "expert_mlp": "moe_intermediate_size",
        "shared_mlp": "moe_intermediate_size * num_shared_experts",
        "expert": "num_experts",
    },
    arrows={
        "embed_tokens": embedding("vocab -> embedded:stream"),
        **attention(bias="attention_bias", out="attention_bias", raw=True, writes="attn_raw:stream"),
        "layers.{layer}.self_attn.gate_proj": linear("normed -> attended:(kv_heads group value)"),
        "layers.{layer}.post_attention_layernorm": rms_norm("attn_raw -> stream", eps="rms_norm_eps"),
        "layers.{layer}.pre_mlp_layernorm": rms_norm("stream -> mlp_normed", eps="rms_norm_eps"),
        **some_experts(
            _SPARSE, "router.gate", correction="expert_bias", shared="shared_experts", writes="mlp_raw:stream"
        ),
        "layers.{layer}.post_mlp_layernorm": rms_norm("mlp_raw -> stream", eps="rms_norm_eps"),
    },
    packed=packed(),
    adds=(Add(source="embedded", target="stream", factor="sqrt(hidden_size) if mup_enabled else 1"),),
    kinds=(
        LayerKind(
            when=_SPARSE, settle={"num_dense_layers": "num_others"},
            because="the first layers (num_dense_layers) have no experts and all others do",
        ),
    ),
    layer_rules={
        "layer_types": "'sliding_attention' if (layer + 1) % global_attn_every_n_layers else 'full_attention'"
    },
    defaults={
        "num_experts_per_tok": 6, "num_key_value_heads": "num_attention_heads", "head_dim": 128, "rms_norm_eps": 1e-5,
        "num_experts": 64, "num_shared_experts": 2, "num_dense_layers": 1, "global_attn_every_n_layers": 4,
        "mup_enabled": False, "sliding_window": 1024,
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip

BEAM = AFMOE.extend(
    "beam",
    model_types=("beam",),
    sizes={"shared_mlp": None},
    arrows={
        "embed_tokens": embedding("vocab -> stream"),
        "layers.{layer}.self_attn.gate_bias": parameter("-> gate:(kv_heads group)"),
        "layers.{layer}.pre_mlp_layernorm": None,
        "layers.{layer}.pre_feedforward_layernorm": rms_norm("stream -> mlp_normed", eps="rms_norm_eps"),
        **dict.fromkeys(name for name in AFMOE.arrows if ".mlp." in name or ".post_mlp_layernorm" in name),
        **some_experts(LISTED, correction="gate.e_score_correction_bias", writes="mlp_raw:stream"),
        "layers.{layer}.post_feedforward_layernorm": rms_norm("mlp_raw -> stream", eps="rms_norm_eps"),
    },
    attention=rotary_heads(per_head=("gate",))["attention"],
    rotary=rotary_heads(
        implied={"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": None}
    )["rotary"],
    adds=(),
    kinds=(),
    layer_lists=LISTS,
    layer_rules={
        "layer_types": "'sliding_attention' if (layer + 1) % 6 and layer + 1 < num_hidden_layers else 'full_attention'",
        "mlp_layer_types": "'sparse' if layer >= 3 else 'dense'",
    },
    defaults={
        "num_key_value_heads": 8, "num_experts_per_tok": 8, "num_experts": 256, "rms_norm_eps": 1e-6,
        "num_shared_experts": None, "num_dense_layers": None, "global_attn_every_n_layers": None, "sliding_window": 512,
        "mup_enabled": None,
    },
    fixed={"layer": "the residual stream is weighted by the number of the layer"},
)  # fmt: skip
