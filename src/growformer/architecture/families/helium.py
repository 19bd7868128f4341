"""Llama's layout with rotation plane by plane instead of in halves: Helium, Ernie 4.5."""

from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import HEAD, INTERLEAVED, attention, gated_mlp, rotary_heads

HELIUM = LLAMA.extend(
    "helium",
    model_types=("helium",),
    multiples=(),
    arrows=attention(INTERLEAVED, bias="attention_bias"),
    **rotary_heads(
        HEAD,
        because="Helium's output projection is square, so that head_dim is hidden_size / num_attention_heads",
        theta=1e5,
    ),
    defaults={"num_key_value_heads": 20, "head_dim": 128, "rms_norm_eps": 1e-8},
)

ERNIE4_5 = LLAMA.extend(
    "ernie4_5",
    model_types=("ernie4_5",),
    multiples=(),
    arrows={**attention(INTERLEAVED, bias="use_bias", out="use_bias"), **gated_mlp(bias="use_bias")},
    rotary=rotary_heads(theta=5e5)["rotary"],
    defaults={
        "num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1e-5, "use_bias": False, "tie_word_embeddings": True,
    },
)  # fmt: skip
