"""TrOCR's decoder: BART's, alone, reading the states of an encoder that is another model."""

from growformer.architecture.declaration import Add, embedding, linear
from growformer.architecture.families.bart import BART, SCALED
from growformer.architecture.families.gpt2 import no_head_dim

_CROSS = "decoder.layers.{decoder_layer}.encoder_attn"
_HEADS = ("lm_head", "final_logits_bias", "qa_outputs", "classification_head.dense", "classification_head.out_proj")

TROCR = BART.extend(
    "trocr",
    model_types=("trocr",),
    sizes={
        **{axis: None for axis in BART.sizes if axis.startswith("encoder_")},
        "labels": None,
        "memory": "cross_attention_hidden_size or d_model",
    },
    arrows={
        **{name: None for name in BART.arrows if name.startswith(("shared", "encoder.")) or name in _HEADS},
        "decoder.embed_tokens": embedding("vocab -> embedded:stream"),
        f"{_CROSS}.k_proj": linear("memory -> cross_k:(decoder_heads decoder_key)", bias=True),
        f"{_CROSS}.v_proj": linear("memory -> cross_v:(decoder_heads decoder_value)", bias=True),
        "output_projection": linear("decoder_stream -> vocab", optional=True),
    },
    attention=BART.attention[1:],
    adds=(Add(source="embedded", target="decoder_in", factor=SCALED), ("decoder_stream", "decoder_summed")),
    activated=(),
    ties={"lm_head.weight": None, "output_projection.weight": "decoder.embed_tokens.weight"},
    shared=dict.fromkeys(BART.shared),
    defaults={
        "cross_attention_hidden_size": None, "layernorm_embedding": True, "use_learned_position_embeddings": True,
        "is_decoder": False,
    },
    constants={
        "tie_word_embeddings": None,
        "use_prompt": None,
        "layernorm_embedding": (True, "TrOCR without a norm behind its embeddings is not described"),
        "use_learned_position_embeddings": (True, "TrOCR with computed positions is not described"),
        "is_decoder": (True, "TrOCR without cross-attention is not described"),
    },
    inferred=(),
    coupled=no_head_dim("TrOCR", "d_model", "decoder_attention_heads", keeps="decoder_key"),
    fixed={"labels": None, "memory": "it is the width of the states of the encoder, which is another model"},
    aliases={"num_attention_heads": "decoder_attention_heads", "num_hidden_layers": "decoder_layers"},
    roles={"mlp": "decoder_ffn_dim", "heads": "decoder_attention_heads", "layers": "decoder_layers"},
    heads=("output_projection",),
)  # fmt: skip
