"""Encoders of sound: wav2vec 2.0 and what came after it."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case

SIZES: dict[str, Any] = {
    "vocab_size": 53, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 3,
    "conv_dim": [12, 14], "conv_stride": [5, 4], "conv_kernel": [7, 4], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 4, "codevector_dim": 10, "proj_codevector_dim": 10,
    "num_codevectors_per_group": 6, "classifier_proj_size": 14, "tdnn_dim": [10, 10], "xvector_output_dim": 10,
    "num_buckets": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
#: The convolutions in front of the layers, which are carried, tell channels apart; WavLM's gates so tell apart heads,
#: each of which reads its share of the channels, and their coordinates.
ORDERED = {"wavlm": ("stream", "gates", "heads", "key")}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}


def audio(model_type: str, model: str, name: str = "", config: dict[str, Any] | None = None, **options: Any) -> Case:
    """A case of wav2vec 2.0's layout."""
    made = {**SIZES, **(config or {})}
    ordered = ORDERED.get(model_type, ("stream",))
    return Case(
        name=name, model_type=model_type, model=model, config=made, **{"inputs": "audio", "ordered": ordered, **options}
    )


CASES = (
    *(
        case
        for model_type, prefix in (
            ("wav2vec2", "Wav2Vec2"), ("hubert", "Hubert"), ("unispeech", "UniSpeech"), ("wavlm", "WavLM"),
            ("unispeech-sat", "UniSpeechSat"),
        )
        for case in (
            audio(model_type, f"{prefix}ForCTC"),
            audio(model_type, f"{prefix}ForCTC", "stable", STABLE),
            audio(model_type, f"{prefix}ForSequenceClassification", config=STABLE),
        )
    ),
    audio("wav2vec2", "Wav2Vec2ForCTC", "adapters", {**STABLE, "adapter_attn_dim": 4}, scale=3.0),
    audio("hubert", "HubertForCTC", "adapters", {**STABLE, "adapter_attn_dim": 4}, scale=3.0),
    audio("data2vec-audio", "Data2VecAudioForCTC"),
    audio("sew", "SEWForCTC", config={"squeeze_factor": 2}),
)  # fmt: skip
