"""Whisper: two convolutions with activations write the encoder's stream, which no norm reads before; no bias on keys.

So the stream can only be repeated a whole number of times. Speech2Text has a gated stem, and computes its positions.
"""

from growformer.architecture.declaration import Add, convolution, embedding, linear
from growformer.architecture.families.bart import BART, COMPUTED, SCALED, SIDES, seq2seq

_WITHOUT = dict.fromkeys(
    (
        "shared", "lm_head", "final_logits_bias", "qa_outputs", "classification_head.dense",
        "classification_head.out_proj", *(f"{side}.layernorm_embedding" for side in SIDES),
    )
)  # fmt: skip
_LAYOUT = seq2seq(pre=True, embed_norm=False, key_bias=False)

WHISPER = BART.extend(
    "whisper",
    model_types=("whisper",),
    sizes={
        "positions": "max_source_positions", "targets": "max_target_positions", "mels": "num_mel_bins", "window": "3",
        "labels": None,
    },
    arrows={
        **_LAYOUT["arrows"],
        **_WITHOUT,
        "encoder.conv1": convolution("mels -> stem:stream", kernel=("window",)),
        "encoder.conv2": convolution("stem -> heard:stream", kernel=("window",)),
        "decoder.embed_tokens": embedding("vocab -> decoder_stream:stream"),
        "decoder.embed_positions": embedding("targets -> decoder_stream"),
        "proj_out": linear("decoded -> vocab", optional=True),
    },
    adds=(("heard", "encoder_stream"),),
    activated=("stem", "heard"),
    ties={"lm_head.weight": None, "proj_out.weight": "decoder.embed_tokens.weight"},
    shared=dict.fromkeys(BART.shared),
    constants={"tie_word_embeddings": None, "use_prompt": None},
    inferred=(),
    fixed={
        "labels": None,
        "targets": "positions past the table have no source",
        "mels": "bands of a spectrogram are not a size of the model",
        "window": "a wider window sees other frames",
    },
    aliases={"num_key_value_heads": "encoder_attention_heads"},
    heads=("proj_out",),
)  # fmt: skip

_BIASED = seq2seq(pre=True, embed_norm=False, positions=False)
SPEECH_TO_TEXT = BART.extend(
    "speech_to_text",
    model_types=("speech_to_text",),
    sizes={
        "positions": None, "labels": None, "features": "input_feat_per_channel * input_channels",
        "stem": "conv_channels / 2", "window": "conv_kernel_sizes[0]", "second_window": "conv_kernel_sizes[1]",
    },
    arrows={
        **_BIASED["arrows"],
        **_WITHOUT,
        "encoder.conv.conv_layers.0": convolution("features -> [stem:stem stem:stem]", kernel=("window",)),
        "encoder.conv.conv_layers.1": convolution("stem -> [heard:stream heard:stream]", kernel=("second_window",)),
        "encoder.embed_positions": None,
        "decoder.embed_positions": None,
        "decoder.embed_tokens": embedding("vocab -> embedded:stream"),
        "lm_head": linear("decoded -> vocab", optional=True),
    },
    adds=(
        Add(source="heard", target="encoder_stream", factor=SCALED),
        Add(source="embedded", target="decoder_stream", factor=SCALED),
    ),
    activated=("heard",),
    ties={"lm_head.weight": "decoder.embed_tokens.weight"},
    shared=dict.fromkeys(BART.shared),
    defaults={
        "scale_embedding": True, "num_conv_layers": 2, "conv_kernel_sizes": [5, 5], "conv_channels": 1024,
        "input_feat_per_channel": 80, "input_channels": 1,
    },
    constants={
        "tie_word_embeddings": None, "use_prompt": None,
        "num_conv_layers": (2, "another stem than two convolutions is not described"),
    },
    inferred=(),
    coupled=(),
    fixed={
        "labels": None, "positions": None, **COMPUTED, "features": "bands of a spectrogram are not a size of the model",
        "window": "a wider window sees other frames", "second_window": "a wider window sees other frames",
    },
    heads=("lm_head",),
)  # fmt: skip
