"""gpt-oss: biases everywhere, a sink per head, experts stored transposed with gate and up interleaved."""

from growformer.architecture.declaration import parameter
from growformer.architecture.families.experts import ASKED, NO_MLP, NO_MORE_EXPERTS, experts, packed
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import INTERLEAVED, attention, rotary_heads

_HEADS = rotary_heads(per_head=("sinks",), theta=1.5e5)

GPT_OSS = LLAMA.extend(
    "gpt_oss",
    model_types=("gpt_oss",),
    multiples=(),
    sizes={"mlp": None, "expert_mlp": "intermediate_size", "expert": "num_local_experts"},
    arrows={
        "layers.{layer}.self_attn.sinks": parameter("-> sinks:(kv_heads group)"),
        **NO_MLP,
        **experts("router", bias=True),
    },
    packed=packed(bias=True, transposed=True, interleaved=True),
    attention=_HEADS["attention"],
    rotary=_HEADS["rotary"],
    layer_rules={"layer_types": "'sliding_attention' if (layer + 1) % 2 else 'full_attention'"},
    defaults={
        "num_experts_per_tok": 4, "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5,
        "attention_bias": True, "num_local_experts": 128,
    },
    active=ASKED,
    fixed=NO_MORE_EXPERTS,
)  # fmt: skip

# It reads in both directions, and gives two numbers for a plane next to each other.
OPENAI_PRIVACY_FILTER = GPT_OSS.extend(
    "openai_privacy_filter",
    model_types=("openai_privacy_filter",),
    arrows=attention(INTERLEAVED, bias="attention_bias", out="attention_bias"),
    packed=packed(bias=True, transposed=True),
    layer_lists=(),
    layer_rules={"layer_types": None},
    defaults={"num_key_value_heads": 2},
)
