"""BERT's and RoBERTa's names with a LayerNorm before each branch, and one after the last layer."""

from collections.abc import Mapping
from dataclasses import replace

from growformer.architecture.declaration import Arrow, layer_norm, linear
from growformer.architecture.families.bert import BERT
from growformer.architecture.families.roberta import ROBERTA
from growformer.architecture.language import parse_term

_EPS = "layer_norm_eps"
_LAYER = "encoder.layer.{layer}"


def pre_norm(attention: str, mlp: str, final: str) -> dict[str, object]:
    """Return the arrows of layers; the arguments say how the three norms are called."""
    return {
        "embeddings.LayerNorm": None,
        f"{_LAYER}.attention.output.LayerNorm": None,
        f"{_LAYER}.output.LayerNorm": None,
        f"{_LAYER}.{attention}": layer_norm("residual:stream -> normed", eps=_EPS),
        f"{_LAYER}.attention.self.query": linear("normed -> q:(heads key)", bias=True),
        f"{_LAYER}.attention.self.key": linear("normed -> k:(heads key)", bias=True),
        f"{_LAYER}.attention.self.value": linear("normed -> v:(heads value)", bias=True),
        f"{_LAYER}.attention.output.dense": linear("attended:(heads value) -> residual", bias=True),
        f"{_LAYER}.{mlp}": layer_norm("residual -> mlp_normed", eps=_EPS),
        f"{_LAYER}.intermediate.dense": linear("mlp_normed -> mlp", bias=True),
        f"{_LAYER}.output.dense": linear("mlp -> residual", bias=True),
        final: layer_norm("residual -> stream", eps=_EPS),
    }


def tables(arrows: Mapping[str, Arrow]) -> dict[str, Arrow]:
    """Return the tables of embeddings among arrows; they write to the residual stream, as no norm comes between."""
    found = {
        name: arrow for name, arrow in arrows.items() if name.startswith("embeddings.") and arrow.kind == "embedding"
    }
    return {name: replace(arrow, target=parse_term("residual:stream")) for name, arrow in found.items()}


MEGATRON_BERT = BERT.extend(
    "megatron_bert",
    model_types=("megatron-bert",),
    arrows={**tables(BERT.arrows), **pre_norm("attention.ln", "ln", "encoder.ln")},
    adds=(),
)

XLM_ROBERTA_XL = ROBERTA.extend(
    "xlm_roberta_xl",
    model_types=("xlm-roberta-xl",),
    arrows={
        **tables(ROBERTA.arrows),
        **pre_norm("attention.self_attn_layer_norm", "LayerNorm", "encoder.LayerNorm"),
    },
    adds=(),
    defaults={"layer_norm_eps": 1e-5, "type_vocab_size": 1, "max_position_embeddings": 514},
)

ROBERTA_PRE_LAYER_NORM = ROBERTA.extend(
    "roberta_prelayernorm",
    model_types=("roberta-prelayernorm",),
    arrows={
        **pre_norm("attention.LayerNorm", "intermediate.LayerNorm", "LayerNorm"),
        "embeddings.LayerNorm": layer_norm("summed -> residual", eps=_EPS),
    },
    adds=(),
    prefix="roberta_prelayernorm",
)
