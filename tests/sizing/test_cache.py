"""What a cache holds per token, against caches that models fill."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tests.report.support import CASES, CLASSES, config_of

import growformer
from growformer.sizing.cache import count_cache


def held(name: str, tokens: int) -> int:
    """Return how many numbers a model's own cache of self-attention holds after some tokens."""
    config = transformers.AutoConfig.for_model(CASES[name][0], **CASES[name][1])
    config._experts_implementation = "eager"  # the grouped one takes no odd sizes
    model = getattr(transformers, CLASSES[name])(config).eval()
    ids = torch.randint(0, 40, (1, tokens))
    inputs: dict[str, Any] = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        inputs = {"input_ids": torch.randint(0, 40, (1, 5)), "decoder_input_ids": ids}
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    layers = cache.self_attention_cache.layers if model.config.is_encoder_decoder else cache.layers
    return sum(layer.keys.numel() + layer.values.numel() for layer in layers)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "mixtral", "deepseek_v3", "t5"])
def test_it_is_what_a_model_keeps(name: str) -> None:
    found = growformer.inspect(config_of(name))
    count = count_cache(found.architecture, found.source)
    assert count is not None
    assert held(name, 7) == 7 * count
    assert held(name, 3) == 3 * count


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_encoders_have_none(name: str) -> None:
    found = growformer.inspect(config_of(name))
    assert count_cache(found.architecture, found.source) is None


def test_at_other_sizes() -> None:
    found = growformer.inspect(config_of("llama"))
    count = count_cache(found.architecture, found.source)
    assert count == 3 * 2 * 2 * 10  # layers, keys and values, kv heads, head size
    sizes = {"num_key_value_heads": 3, "num_attention_heads": 9, "num_hidden_layers": 5}
    assert count_cache(found.architecture, found.source, sizes) == 5 * 2 * 3 * 10
