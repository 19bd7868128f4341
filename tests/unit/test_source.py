"""Why a tensor does not go on to the target, as text that says which one it is tied to."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from growformer import inspect
from growformer.architecture.source import tied_to


@pytest.mark.parametrize("tied", [False, True])
def test_a_tie_is_told_from_other_reasons(tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=11, hidden_size=12, intermediate_size=7, num_hidden_layers=1, num_attention_heads=3,
        num_key_value_heads=3, tie_word_embeddings=tied,
    )  # fmt: skip
    dropped = inspect(LlamaForCausalLM(config)).source.dropped
    owners = {name: tied_to(why) for name, why in dropped.items()}
    assert owners == ({"lm_head.weight": "model.embed_tokens.weight"} if tied else {})
    assert tied_to("computed by the class") is None
