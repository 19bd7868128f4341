"""Llama and what shares its layout."""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.families.case import Case

#: No two sizes are equal, and no size is a multiple of another where the class does not want it.
SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 12,
    "num_key_value_heads": 3, "head_dim": 14, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
#: Leaves to the class what it can.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 4096, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
SLIDING = {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}
TIED = {"tie_word_embeddings": True}
#: Where head_dim is a field, and the class wants hidden_size / num_attention_heads in it.
SQUARE = {
    "hidden_size": {"hidden_size": 96, "head_dim": 8},
    "num_attention_heads": {"num_attention_heads": 18, "head_dim": 4},
    "head_dim": {"hidden_size": 96, "head_dim": 8},
}


def like_llama(model_type: str, prefix: str, defaults: dict[str, Any], **changes: Any) -> tuple[Case, ...]:
    """The four cases that every family of this layout has."""
    sizes = {**SIZES, **changes}
    head = f"{prefix}ForCausalLM"
    return (
        Case(model_type=model_type, model=head, config=sizes),
        Case(model_type=model_type, model=head, config={**sizes, **TIED}, name="tied"),
        Case(model_type=model_type, model=head, config={**DEFAULTS, **defaults}, name="defaults"),
        Case(model_type=model_type, model=f"{prefix}Model", config=sizes),
    )


def decoder(model_type: str, model: str, name: str = "", *, drop: tuple[str, ...] = (), **changes: Any) -> Case:
    """A case of a decoder with Llama's sizes.

    Args:
        model_type, model, name: of the case.
        drop: sizes that the class does not have, or that are left to it.
        changes: of the config, and options of the case.
    """
    options = {name: changes.pop(name) for name in _OPTIONS & changes.keys()}
    config = {field: value for field, value in {**SIZES, **changes}.items() if field not in drop}
    return Case(model_type=model_type, model=model, name=name, config=config, **options)


_OPTIONS = {field.name for field in dataclasses.fields(Case)}


CASES = (
    *like_llama("llama", "Llama", {}, attention_bias=True, mlp_bias=True),
    decoder("llama", "LlamaForSequenceClassification", num_labels=5, pad_token_id=0),
    decoder("llama", "LlamaForTokenClassification", num_labels=5),
    decoder("llama", "LlamaForQuestionAnswering"),
    *like_llama("mistral", "Mistral", {"num_key_value_heads": 2}, sliding_window=7),
    *like_llama("qwen2", "Qwen2", {"num_key_value_heads": 2}, **SLIDING),
    *like_llama("qwen3", "Qwen3", {"num_key_value_heads": 2}, attention_bias=True),
    decoder("ministral", "MinistralForCausalLM", sliding_window=7),
    decoder(
        "ministral",
        "MinistralForCausalLM",
        "mixed",
        layer_types=["full_attention", "sliding_attention"],
        sliding_window=7,
    ),
    decoder(
        "ministral3",
        "Ministral3ForCausalLM",
        sliding_window=None,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e4,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 16,
        },
    ),
    decoder("smollm3", "SmolLM3ForCausalLM", num_hidden_layers=4, no_rope_layer_interval=3),
    decoder(
        "smollm3",
        "SmolLM3ForCausalLM",
        "sliding",
        num_hidden_layers=3,
        no_rope_layers=[0, 1, 0],
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=7,
        attention_bias=True,
        mlp_bias=True,
        drop=("head_dim",),
    ),
    decoder(
        "cwm",
        "CwmForCausalLM",
        num_hidden_layers=5,
        sliding_window=7,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 4.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 32,
        },
    ),
    decoder("seed_oss", "SeedOssForCausalLM", attention_out_bias=True, mlp_bias=True),
    decoder("seed_oss", "SeedOssForCausalLM", "defaults", attention_bias=False, num_attention_heads=6),
    decoder(
        "helium",
        "HeliumForCausalLM",
        hidden_size=72,
        num_attention_heads=12,
        head_dim=6,
        attention_bias=True,
        mlp_bias=True,
        variants=SQUARE,
    ),
    decoder("ernie4_5", "Ernie4_5ForCausalLM", use_bias=True),
    decoder("ernie4_5", "Ernie4_5ForCausalLM", "tied", tie_word_embeddings=True),
    decoder("iquestcoder", "AutoModelForCausalLM", attention_bias=True, mlp_bias=True),
    decoder("internlm3", "AutoModelForCausalLM", attention_bias=True, mlp_bias=True),
    decoder("emu3_text_model", "Emu3ForCausalLM", pad_token_id=0),
)
