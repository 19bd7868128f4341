"""BERT."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case

SIZES: dict[str, Any] = {
    "vocab_size": 53, "max_position_embeddings": 64, "type_vocab_size": 5, "hidden_size": 30, "intermediate_size": 37,
    "num_hidden_layers": 2, "num_attention_heads": 3,
}  # fmt: skip


def bert(model: str, name: str = "", config: dict[str, Any] | None = None, **options: Any) -> Case:
    """A case of BERT."""
    return Case(name=name, model_type="bert", model=model, config={**SIZES, **(config or {})}, **options)


CASES = (
    bert("BertModel"),
    bert("BertForMaskedLM"),
    # Untied, its class holds two biases and adds one.
    bert("BertForMaskedLM", "untied", {"tie_word_embeddings": False}, unused=("cls.predictions.bias",)),
    bert("BertForPreTraining"),
    bert("BertForSequenceClassification", config={"num_labels": 7}),
    bert("BertForQuestionAnswering", ordered=("labels",)),
)
