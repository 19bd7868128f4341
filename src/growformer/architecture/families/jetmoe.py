"""JetMoE: experts of attention, each with query and output matrices of its own, beside keys and values of all."""

from growformer.architecture.declaration import Packed, linear, parameter, rms_norm
from growformer.architecture.families.experts import ASKED, LAYER, NO_MORE_EXPERTS
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import rotary_heads

_ATTENTION, _MLP = f"{LAYER}.self_attention.experts", f"{LAYER}.mlp"
_HEADS = rotary_heads("kv_channels")
_EPS = 1e-6  # of the norms in layers, whatever the config says

JETMOE = LLAMA.extend(
    "jetmoe",
    model_types=("jetmoe",),
    multiples=(),
    sizes={
        **_HEADS["sizes"], "group": None, "mlp": None, "expert_mlp": "intermediate_size", "expert": "num_local_experts",
    },
    arrows={
        **{name: None for name in LLAMA.arrows if ".self_attn." in name or ".mlp." in name},
        f"{LAYER}.input_layernorm": rms_norm("stream -> normed", eps=_EPS),
        f"{LAYER}.self_attention.kv_proj": linear("normed -> [k:(kv_heads pair freq) v:(kv_heads value)]"),
        f"{_ATTENTION}.router.layer": linear("normed -> attention_router:expert"),
        f"{_ATTENTION}.{{expert}}.input_linear": linear("normed -> q:(kv_heads pair freq)"),
        f"{_ATTENTION}.{{expert}}.output_linear": linear("attended:(kv_heads value) -> stream"),
        f"{_ATTENTION}.bias": parameter("-> stream"),
        f"{LAYER}.post_attention_layernorm": rms_norm("stream -> mlp_normed", eps=_EPS),
        f"{_MLP}.router.layer": linear("mlp_normed -> router:expert"),
        f"{_MLP}.{{expert}}.input_linear": linear("mlp_normed -> [expert_mlp:expert_mlp expert_mlp:expert_mlp]"),
        f"{_MLP}.{{expert}}.output_linear": linear("expert_mlp -> stream"),
        f"{_MLP}.bias": parameter("-> stream"),
    },
    packed={
        f"{block}.{name}.weight": Packed(parts=(f"{block}.{{expert}}.{name}.weight",), stack="expert")
        for block in (_ATTENTION, _MLP)
        for name in ("input_linear", "output_linear")
    },
    attention=_HEADS["attention"],
    rotary=_HEADS["rotary"],
    defaults={
        "kv_channels": 128, "head_dim": None, "num_key_value_heads": 16, "num_local_experts": 8,
        "num_experts_per_tok": 2, "tie_word_embeddings": True, "initializer_range": 0.01,
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
    follows={"num_attention_heads": "num_key_value_heads * num_experts_per_tok"},
    aliases={"head_dim": "kv_channels"},
    roles={"heads": "num_key_value_heads", "key": "kv_channels", "value": "kv_channels"},
)  # fmt: skip
