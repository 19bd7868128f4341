"""CTRL: sinusoids that the class computes as positions, norms with constant epsilons, and a head with a bias."""

from growformer.architecture.declaration import Add, embedding, layer_norm, linear
from growformer.architecture.families.bart import COMPUTED
from growformer.architecture.families.gpt2 import GPT2

_AT = "h.{layer}.multi_head_attention"

CTRL = GPT2.extend(
    "ctrl",
    model_types=("ctrl",),
    sizes={"positions": None, "mlp": "dff"},
    arrows={
        **dict.fromkeys(GPT2.arrows),
        "w": embedding("vocab -> embedded:stream"),
        "h.{layer}.layernorm1": layer_norm("stream -> normed", eps=1e-6),
        f"{_AT}.Wq": linear("normed -> q:(heads key)", bias=True),
        f"{_AT}.Wk": linear("normed -> k:(heads key)", bias=True),
        f"{_AT}.Wv": linear("normed -> v:(heads value)", bias=True),
        f"{_AT}.dense": linear("attended:(heads value) -> stream", bias=True),
        "h.{layer}.layernorm2": layer_norm("stream -> mlp_normed", eps=1e-6),
        "h.{layer}.ffn.0": linear("mlp_normed -> mlp", bias=True),
        "h.{layer}.ffn.2": linear("mlp -> stream", bias=True),
        "layernorm": layer_norm("stream -> final", eps="layer_norm_epsilon"),
        "lm_head": linear("final -> vocab", bias=True, optional=True),
        "classifier": linear("final -> labels", optional=True),
    },
    adds=(Add(source="embedded", target="stream", factor="sqrt(n_embd)"),),
    ties={"lm_head.weight": "w.weight"},
    defaults={"n_inner": None, "layer_norm_epsilon": 1e-6},
    coupled=(),
    fixed={"positions": None, **COMPUTED},
    aliases={"intermediate_size": "dff"},
    roles={"mlp": "dff"},
    heads=("lm_head", "classifier"),
)
