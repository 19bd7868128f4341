"""Llama's layout with an MLP of two matrices: Nemotron, Jais 2 and StarCoder 2 with LayerNorm, Arcee with RMSNorm."""

from growformer.architecture.declaration import Arrow, layer_norm
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import HALVES, attention, plain_mlp, rotary_heads


def _layer_norms(eps: str, offset: int = 0) -> dict[str, Arrow]:
    return {
        "layers.{layer}.input_layernorm": layer_norm("stream -> normed", eps=eps, offset=offset),
        "layers.{layer}.post_attention_layernorm": layer_norm("stream -> mlp_normed", eps=eps, offset=offset),
        "norm": layer_norm("stream -> final", eps=eps, offset=offset),
    }


NEMOTRON = LLAMA.extend(
    "nemotron",
    model_types=("nemotron",),
    multiples=(),
    arrows={
        **_layer_norms("norm_eps", offset=1),
        **attention(HALVES, bias="attention_bias", out="attention_bias", rest=True),
        **plain_mlp(bias="mlp_bias"),
    },
    **rotary_heads(partial=True),
    defaults={"norm_eps": 1e-5, "partial_rotary_factor": 0.5, "initializer_range": 0.0134},
)

JAIS2 = LLAMA.extend(
    "jais2",
    model_types=("jais2",),
    arrows={**_layer_norms("layer_norm_eps"), **plain_mlp(bias="mlp_bias")},
    defaults={"layer_norm_eps": 1e-5, "attention_bias": True, "mlp_bias": True},
)

STARCODER2 = LLAMA.extend(
    "starcoder2",
    model_types=("starcoder2",),
    multiples=(),
    arrows={
        **_layer_norms("norm_epsilon"),
        **attention(bias="use_bias", out="use_bias"),
        **plain_mlp("c_fc", "c_proj", bias="use_bias"),
    },
    defaults={
        "norm_epsilon": 1e-5, "num_key_value_heads": 2, "use_bias": True, "tie_word_embeddings": True,
        "initializer_range": 0.018042,
    },
)  # fmt: skip

ARCEE = LLAMA.extend(
    "arcee",
    model_types=("arcee",),
    arrows=plain_mlp(bias="mlp_bias"),
    defaults={"rms_norm_eps": 1e-5},
)
