"""Cohere: one LayerNorm without bias for attention and MLP beside each other, rotation plane by plane, tied."""

from growformer.architecture.declaration import layer_norm
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import HEAD, INTERLEAVED, attention, gated_mlp, rotary_heads

_EPS = "layer_norm_eps"

COHERE = LLAMA.extend(
    "cohere",
    model_types=("cohere",),
    multiples=(),
    arrows={
        "layers.{layer}.input_layernorm": layer_norm("stream -> normed", eps=_EPS, bias=False),
        **attention(INTERLEAVED, bias="attention_bias", out="attention_bias"),
        "layers.{layer}.post_attention_layernorm": None,
        **gated_mlp(reads="normed"),
        "norm": layer_norm("stream -> final", eps=_EPS, bias=False),
    },
    rotary=rotary_heads(theta=5e5)["rotary"],
    defaults={"layer_norm_eps": 1e-5, "tie_word_embeddings": True, "use_qk_norm": False},
    constants={"use_qk_norm": (False, "norms with a gain for every head are not described yet")},
)

# Some of its layers do not rotate; which, follows from layer_types.
COHERE2 = COHERE.extend(
    "cohere2",
    model_types=("cohere2",),
    **rotary_heads(HEAD, because="Cohere2Config computes head_dim as hidden_size / num_attention_heads"),
    layer_rules={"layer_types": "'sliding_attention' if (layer + 1) % sliding_window_pattern else 'full_attention'"},
    defaults={"sliding_window_pattern": 4},
)
