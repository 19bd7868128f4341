"""FSMT: Marian with two tables, positions that follow the padding token's number, and its head in the decoder."""

from growformer.architecture.declaration import embedding, linear
from growformer.architecture.families.bart import SIDES
from growformer.architecture.families.gpt2 import VOCAB
from growformer.architecture.families.pegasus import MARIAN_APART

FSMT = MARIAN_APART.extend(
    "fsmt",
    model_types=("fsmt",),
    variant=None,
    sizes={
        "vocab": "src_vocab_size",
        "decoder_vocab": "tgt_vocab_size",
        "positions": "max_position_embeddings + pad_token_id + 1",
    },
    arrows={
        **{f"{side}.embed_positions": embedding(f"positions -> {side}_stream:stream", optional=True) for side in SIDES},
        "lm_head": None,
        "final_logits_bias": None,
        "decoder.output_projection": linear("decoder_stream -> decoder_vocab"),
    },
    ties={"lm_head.weight": None},
    tie_field=None,
    defaults={
        "pad_token_id": 1, "scale_embedding": True, "tie_word_embeddings": False, "decoder_vocab_size": None,
        "share_encoder_decoder_embeddings": None,
    },
    constants={"tie_word_embeddings": (False, "one table for both sides and the head is not described")},
    fixed={"vocab": VOCAB["vocab"]},
    aliases={"vocab_size": "tgt_vocab_size"},
    heads=(),
)  # fmt: skip
