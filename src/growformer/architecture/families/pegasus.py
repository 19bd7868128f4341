"""Pegasus and MBART: as BART, with a LayerNorm in front of each branch and one behind each side.

MBART has one behind its embeddings as well. Pegasus' positions are sinusoids that not every checkpoint stores;
Blenderbot's are learned. M2M-100 (and NLLB) computes its own, and so does Marian, which has BART's norms in its layers
and tables of its own for both sides where it says so.
"""

from collections.abc import Mapping

from growformer.architecture.declaration import Add, Arrow, embedding, linear, parameter
from growformer.architecture.families.bart import BART, COMPUTED, SCALED, SIDES, seq2seq
from growformer.architecture.families.gpt2 import VOCAB

_TABLES = [f"{side}.embed_positions" for side in SIDES]
_NORMS = dict.fromkeys(f"{side}.layernorm_embedding" for side in SIDES)
_HEADS = dict.fromkeys(("qa_outputs", "classification_head.dense", "classification_head.out_proj"))
_ABSENT = {r"(model\.)?(encoder|decoder)\.embed_positions\.weight": "sinusoids that the class computes by itself"}


def _optional(layout: Mapping[str, Arrow]) -> dict[str, Arrow]:
    return {**layout, **{name: embedding(str(layout[name]), optional=True) for name in _TABLES}}


MBART = BART.extend("mbart", model_types=("mbart",), **seq2seq(pre=True, embed_norm=True))

_PLAIN = seq2seq(pre=True, embed_norm=False)
BLENDERBOT = BART.extend(
    "blenderbot",
    model_types=("blenderbot",),
    sizes={"positions": "max_position_embeddings"},
    arrows={**_PLAIN["arrows"], **_NORMS, **_HEADS},
    adds=_PLAIN["adds"],
    activated=(),
)
PEGASUS = BLENDERBOT.extend(
    "pegasus",
    model_types=("pegasus",),
    arrows=_optional(BLENDERBOT.arrows),
    computed=dict.fromkeys(_TABLES, COMPUTED["stream"]),
    ignored=_ABSENT,
)
M2M_100 = BLENDERBOT.extend(
    "m2m_100",
    model_types=("m2m_100",),
    sizes={"positions": None},
    arrows=dict.fromkeys(_TABLES),
    defaults={"scale_embedding": True},
    coupled=(),
    fixed={"positions": None, **COMPUTED},
)

_MARIAN = seq2seq(pre=False, embed_norm=False)
MARIAN = BART.extend(
    "marian",
    model_types=("marian",),
    variant="share_encoder_decoder_embeddings",
    sizes={"positions": "max_position_embeddings"},
    arrows={**_optional(_MARIAN["arrows"]), **_NORMS, **_HEADS},
    adds=_MARIAN["adds"],
    activated=(),
    defaults={"share_encoder_decoder_embeddings": True},
    coupled=(),
    fixed=COMPUTED,
    ignored=_ABSENT,
)
MARIAN_APART = MARIAN.extend(
    "marian_apart",
    variant="not share_encoder_decoder_embeddings",
    sizes={"decoder_vocab": "decoder_vocab_size"},
    arrows={
        "shared": None,
        "encoder.embed_tokens": embedding("vocab -> encoder_embedded:stream"),
        "decoder.embed_tokens": embedding("decoder_vocab -> decoder_embedded:stream"),
        "lm_head": linear("decoder_stream -> decoder_vocab", optional=True),
        "final_logits_bias": parameter("-> decoder_vocab", leading=1, optional=True),
    },
    adds=(
        *(Add(source=f"{side}_embedded", target=f"{side}_stream", factor=SCALED) for side in SIDES),
        *((f"{side}_stream", f"{side}_summed") for side in SIDES),
    ),
    ties={"lm_head.weight": "decoder.embed_tokens.weight"},
    shared=dict.fromkeys(BART.shared),
    defaults={"decoder_vocab_size": "vocab_size"},
    constants={"tie_word_embeddings": None},
    fixed={"decoder_vocab": VOCAB["vocab"]},
)
