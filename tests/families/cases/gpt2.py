"""GPT-2."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case

SIZES: dict[str, Any] = {
    "vocab_size": 53, "n_positions": 128, "n_embd": 30, "n_inner": 37, "n_layer": 2, "n_head": 3,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def gpt2(name: str, model: str, config: dict[str, Any] | None = None, **options: Any) -> Case:
    """A case of GPT-2."""
    return Case(name=name, model_type="gpt2", model=model, config={**SIZES, **(config or {})}, **options)


CASES = (
    gpt2("", "GPT2LMHeadModel"),
    gpt2("untied", "GPT2LMHeadModel", {"tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True}),
    gpt2("", "GPT2Model"),
    gpt2("default-inner", "GPT2Model", {"n_inner": None}),
    # Which token is classified depends on the id of the padding token.
    gpt2("", "GPT2ForSequenceClassification", {"num_labels": 7, "pad_token_id": 0}, lookups={}),
    gpt2("", "GPT2ForTokenClassification", {"num_labels": 7}),
    gpt2("", "GPT2ForQuestionAnswering", ordered=("labels",)),
)
