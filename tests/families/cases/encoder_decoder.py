"""Encoder-decoders: T5's and BART's layouts, with words or sounds at the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tests.families.case import Case
from tests.families.cases.gpt import COMPUTED, UNTIED, VOCAB, gpt
from torch import nn

IDS: dict[str, Any] = {
    "vocab_size": 53, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
#: The cache of these classes has as many layers as the encoder, so that the decoder must not be deeper.
T5: dict[str, Any] = {
    **IDS, "d_model": 24, "num_layers": 3, "num_decoder_layers": 2, "d_ff": 37, "num_heads": 3, "d_kv": 10,
    "relative_attention_num_buckets": 8,
}  # fmt: skip
DEEPER = {"growths": {"num_decoder_layers": {"num_decoder_layers": 3, "new_layers_at": {"decoder_layer": [1]}}}}
#: Their own activation, ReLU, is zero for some units on all of a small input.
GELU = {"feed_forward_proj": "gelu"}
SWITCH = {
    **T5, "num_layers": 6, "num_decoder_layers": 4, "num_sparse_encoder_layers": 3, "num_sparse_decoder_layers": 2,
    "num_experts": 2, "expert_capacity": 64, "dense_act_fn": "gelu",
}  # fmt: skip
BART: dict[str, Any] = {
    **IDS, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 37, "decoder_ffn_dim": 41,
    "encoder_attention_heads": 3, "decoder_attention_heads": 4, "max_position_embeddings": 128,
    "forced_eos_token_id": None,
}  # fmt: skip
WHISPER: dict[str, Any] = {
    **{n: v for n, v in BART.items() if n != "max_position_embeddings"}, "max_source_positions": 14,
    "max_target_positions": 64, "num_mel_bins": 7, "begin_suppress_tokens": None, "suppress_tokens": None,
}  # fmt: skip
#: Positions of these depend on where padding is.
OTHER_IDS = {**BART, "pad_token_id": 1, "eos_token_id": 2, "activation_function": "gelu"}
SPEECH = {
    **{n: v for n, v in OTHER_IDS.items() if n != "max_position_embeddings"}, "max_source_positions": 60,
    "max_target_positions": 64, "input_feat_per_channel": 7, "input_channels": 2, "conv_channels": 14,
}  # fmt: skip
WINDOWS = {"conv_kernel_sizes": {"conv_kernel_sizes": [3, 7]}}
#: A width that is no multiple of the source's, and wider heads.
WIDER = {"wider": {"d_model": 36, "encoder_attention_heads": 3, "decoder_attention_heads": 4}}
TROCR: dict[str, Any] = {
    **IDS, "d_model": 24, "decoder_layers": 2, "decoder_ffn_dim": 41, "decoder_attention_heads": 3,
    "max_position_embeddings": 128, "cross_attention_hidden_size": 17, "is_decoder": True,
}  # fmt: skip
FSMT = {
    **{n: v for n, v in BART.items() if n != "vocab_size"}, "src_vocab_size": 53, "tgt_vocab_size": 59,
    "langs": ["en", "de"], "pad_token_id": 1, "eos_token_id": 2, "activation_function": "gelu",
}  # fmt: skip
LED = {
    **{n: v for n, v in BART.items() if n != "max_position_embeddings"}, "max_encoder_position_embeddings": 128,
    "max_decoder_position_embeddings": 96, "attention_window": [4, 8],
}  # fmt: skip
#: Few enough for blocks that see only some others.
BLOCKS = {"block_size": 4, "num_random_blocks": 1, "generate": False}  # a short prompt turns blocks off for good
#: Of all experts the class asks two.
NLLB_MOE = {
    **OTHER_IDS, "encoder_layers": 4, "decoder_layers": 4, "num_experts": 2, "encoder_sparse_step": 2,
    "decoder_sparse_step": 2, "router_bias": True,
}  # fmt: skip
#: The oracles move all frequencies of a class at once, and each side has its own.
TWO_ROTATIONS = ("encoder_freq", "decoder_freq")
SIDE = {
    **IDS, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 64, "sliding_window": 7,
    "max_position_embeddings": 4096,
}  # fmt: skip
T5GEMMA = {
    "vocab_size": 53, "encoder": SIDE,
    "decoder": {
        **SIDE, "vocab_size": 59, "hidden_size": 36, "intermediate_size": 41, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10,
    },
}  # fmt: skip


def words(model_type: str, model: str, config: dict[str, Any], name: str = "", **options: Any) -> Case:
    """A case with tokens at both sides."""
    return gpt(model_type, model, config, name, **{"inputs": "encoder-decoder", "lookups": {}, **options})


def sinusoids(model: nn.Module) -> None:
    """Put back positions that the class computes and never saves."""
    for module in model.modules():
        if hasattr(module, "create_weight"):
            module.weight.copy_(module.create_weight())


def frames(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Spectrograms with time first."""
    generator = torch.Generator().manual_seed(5)
    return {
        "input_features": torch.randn(
            (2, 44, config["input_feat_per_channel"] * config["input_channels"]), generator=generator
        ),
        "decoder_input_ids": torch.randint(2, config["vocab_size"], (2, 17), generator=generator),
    }


def sentences(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """So many sentences, as there is one answer for each, with the token that ends one in the last place alone."""
    ids = torch.randint(3, config["vocab_size"], (24, 17), generator=torch.Generator().manual_seed(5))
    ids[:, -1] = config["eos_token_id"]
    return {"input_ids": ids}


def seeing_everything(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Tokens, two of which see all others and are seen by them."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(2, config["vocab_size"], (2, 32), generator=generator)
    everywhere = torch.zeros_like(ids)
    everywhere[:, [0, 5]] = 1
    return {
        "input_ids": ids,
        "global_attention_mask": everywhere,
        "decoder_input_ids": torch.randint(2, config["vocab_size"], (2, 17), generator=generator),
    }


def with_states(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Tokens, and the states of an encoder."""
    generator = torch.Generator().manual_seed(5)
    return {
        "input_ids": torch.randint(2, config["vocab_size"], (2, 31), generator=generator),
        "encoder_hidden_states": torch.randn((2, 9, config["cross_attention_hidden_size"]), generator=generator),
    }


CASES = (
    words("t5", "T5ForConditionalGeneration", T5, **GELU, **DEEPER),
    words(
        "t5", "T5ForConditionalGeneration", T5, "gated", feed_forward_proj="gated-gelu", scale_decoder_outputs=False,
        **DEEPER,
    ),
    words("t5", "T5Model", T5, **GELU, **DEEPER),
    gpt("t5", "T5EncoderModel", {**T5, **GELU, "architectures": ["T5EncoderModel"]}, lookups=VOCAB),
    words("mt5", "MT5ForConditionalGeneration", T5, **DEEPER),
    words("mt5", "MT5ForConditionalGeneration", T5, "plain", **GELU, **DEEPER),
    gpt("mt5", "MT5EncoderModel", {**T5, "architectures": ["MT5EncoderModel"]}, lookups=VOCAB),
    words("umt5", "UMT5ForConditionalGeneration", T5, **DEEPER),
    words("umt5", "UMT5ForConditionalGeneration", T5, "unscaled", scale_decoder_outputs=False, **DEEPER),
    gpt("umt5", "UMT5EncoderModel", {**T5, "architectures": ["UMT5EncoderModel"]}, lookups=VOCAB),
    words("longt5", "LongT5ForConditionalGeneration", T5, local_radius=5, **GELU, **DEEPER),
    words(
        "longt5", "LongT5ForConditionalGeneration", T5, "global", local_radius=5, global_block_size=4,
        encoder_attention_type="transient-global", **GELU, **DEEPER,
    ),
    words("switch_transformers", "SwitchTransformersForConditionalGeneration", SWITCH, router_bias=True),
    words("bart", "BartForConditionalGeneration", BART),
    words("bart", "BartModel", BART, scale_embedding=True),
    words("bart", "BartForSequenceClassification", BART, inputs=sentences, num_labels=7),
    words("mvp", "MvpForConditionalGeneration", BART),
    words("plbart", "PLBartForConditionalGeneration", BART),
    words("blenderbot-small", "BlenderbotSmallForConditionalGeneration", BART),
    words("blenderbot-small", "BlenderbotSmallModel", BART),
    words("mbart", "MBartForConditionalGeneration", BART, scale_embedding=True),
    words("blenderbot", "BlenderbotForConditionalGeneration", BART, scale_embedding=True, growths=WIDER),
    words("pegasus", "PegasusForConditionalGeneration", BART, scale_embedding=True, growths=WIDER),
    words("pegasus", "PegasusModel", BART),
    words("m2m_100", "M2M100ForConditionalGeneration", OTHER_IDS, ordered=COMPUTED),
    words("marian", "MarianMTModel", BART, tweak=sinusoids, scale_embedding=True),
    words(
        "marian", "MarianMTModel", BART, "apart", tweak=sinusoids, share_encoder_decoder_embeddings=False,
        decoder_vocab_size=59,
    ),
    words("fsmt", "FSMTForConditionalGeneration", FSMT),
    words("led", "LEDForConditionalGeneration", LED, inputs=seeing_everything),
    words("led", "LEDModel", LED, inputs=seeing_everything),
    words("bigbird_pegasus", "BigBirdPegasusForConditionalGeneration", BART, attention_type="original_full"),
    words("bigbird_pegasus", "BigBirdPegasusForConditionalGeneration", BART, "blocks", use_bias=True, **BLOCKS),
    words(
        "pegasus_x", "PegasusXForConditionalGeneration", BART, block_size=8, num_global_tokens=1, ordered=COMPUTED
    ),
    words("nllb-moe", "NllbMoeForConditionalGeneration", NLLB_MOE, ordered=COMPUTED),
    words("t5gemma", "T5GemmaForConditionalGeneration", T5GEMMA, ordered=TWO_ROTATIONS),
    words("t5gemma", "T5GemmaForConditionalGeneration", T5GEMMA, "untied", ordered=TWO_ROTATIONS, **UNTIED),
    gpt("whisper", "WhisperForConditionalGeneration", WHISPER, inputs="features", lookups={}),
    gpt("whisper", "WhisperModel", WHISPER, inputs="features", lookups={}),
    gpt(
        "speech_to_text", "Speech2TextForConditionalGeneration", SPEECH, inputs=frames, lookups={}, ordered=COMPUTED,
        variants=WINDOWS,
    ),
    gpt("trocr", "TrOCRForCausalLM", TROCR, inputs=with_states, lookups={}),
    gpt("trocr", "TrOCRForCausalLM", TROCR, "untied", inputs=with_states, lookups={}, scale_embedding=True, **UNTIED),
)  # fmt: skip
