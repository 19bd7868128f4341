"""Llama 4's text model: weightless norms after rotation, some layers without; a gate on the input of experts."""

from growformer.architecture.declaration import Add, LayerKind, rms_norm
from growformer.architecture.families.experts import ASKED, LAYER, NO_MORE_EXPERTS, experts, gated, packed
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import INTERLEAVED, attention, rotary_heads

_SPARSE = "(layer + 1) % interleave_moe_layer_step == 0 if moe_layers is None else layer in moe_layers"
_NORMED = "use_qk_norm and no_rope_layers[layer]"
_HEAD = "norms without a gain on queries and keys leave nothing to make up for a larger head"
_NO_MLP = dict.fromkeys(name for name in LLAMA.arrows if ".mlp." in name)

LLAMA4_TEXT = LLAMA.extend(
    "llama4_text",
    model_types=("llama4_text",),
    multiples=(),
    sizes={
        "mlp": "intermediate_size_mlp",
        "expert_mlp": "intermediate_size",
        "shared_mlp": "intermediate_size",
        "expert": "num_local_experts",
    },
    arrows={
        **attention(INTERLEAVED, bias="attention_bias", out="attention_bias", raw=True),
        **{
            f"{LAYER}.self_attn.{x}_norm": rms_norm(
                f"{x}_raw -> {x}", over="(freq pair)", eps="rms_norm_eps", gain=False, when=_NORMED
            )
            for x in "qk"
        },
        **_NO_MLP,
        **gated("feed_forward", "mlp", when=f"not ({_SPARSE})"),
        **experts("router", block="feed_forward", when=_SPARSE, shared="shared_expert"),
    },
    packed=packed("feed_forward.experts", transposed=True),
    adds=tuple(Add(source=f"{x}_raw", target=x, when=f"not ({_NORMED})") for x in "qk"),
    rotary=rotary_heads(theta=5e5)["rotary"],
    kinds=(
        LayerKind(
            when=_SPARSE, settle={"moe_layers": "holds"},
            because="which layers have experts follows from their number (moe_layers, interleave_moe_layer_step)",
        ),
    ),
    layer_lists=("no_rope_layers", "layer_types"),
    layer_rules={
        "no_rope_layers": "1 if (layer + 1) % no_rope_layer_interval else 0",
        "layer_types": "'full_attention' if not no_rope_layers[layer] or attention_chunk_size is None "
        "else 'chunked_attention'",
    },
    defaults={
        "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5, "intermediate_size_mlp": 16384,
        "num_local_experts": 16, "num_experts_per_tok": 1, "moe_layers": None, "interleave_moe_layer_step": 1,
        "use_qk_norm": True, "no_rope_layer_interval": 4, "attention_chunk_size": 8192,
    },
    active=ASKED,
    fixed={**NO_MORE_EXPERTS, "freq": _HEAD, "value": _HEAD},
)  # fmt: skip
