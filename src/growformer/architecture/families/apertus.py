"""Apertus: norms on queries and keys, an MLP of two matrices with an activation that has parameters of its own."""

from growformer.architecture.declaration import carried, linear, rms_norm
from growformer.architecture.families.llama import LLAMA, QK_NORM
from growformer.architecture.families.parts import LLAMA3, plain_mlp, rotary_heads

_EPS = "rms_norm_eps"
_ACTIVATION = {
    f"layers.{{layer}}.mlp.act_fn.{name}": carried(shape, when="hidden_act == 'xielu'")
    for name, shape in {"alpha_p": "(-)", "alpha_n": "(-)", "beta": "-", "eps": "-"}.items()
}

APERTUS = LLAMA.extend(
    "apertus",
    model_types=("apertus",),
    multiples=(),
    arrows={
        "layers.{layer}.input_layernorm": None,
        "layers.{layer}.post_attention_layernorm": None,
        "layers.{layer}.attention_layernorm": rms_norm("stream -> normed", eps=_EPS),
        **QK_NORM,
        "layers.{layer}.feedforward_layernorm": rms_norm("stream -> mlp_normed", eps=_EPS),
        **plain_mlp(),
        **_ACTIVATION,
    },
    rotary=rotary_heads(implied={**LLAMA3, "rope_theta": 1.2e7, "factor": 8.0}, theta=1.2e7)["rotary"],
    defaults={"rms_norm_eps": 1e-5, "hidden_act": "'xielu'"},
)

# Its head may leave out the rows of images and sounds.
APERTUS1P5 = APERTUS.extend(
    "apertus1p5",
    model_types=("apertus1p5_text",),
    sizes={"words": "output_vocab_size or vocab_size"},
    arrows={"lm_head": linear("final -> words", optional=True)},
    ties={"lm_head.weight": "embed_tokens.weight"},
    defaults={"output_vocab_size": None},
    fixed={"words": LLAMA.fixed["vocab"]},
)
