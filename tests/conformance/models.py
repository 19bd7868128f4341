"""Small models of every family: a config in which sizes are pairwise different wherever the class allows it.

Every size of an axis is at least 2 and every epsilon large, so that no permutation and no scaling is tested in vain.
A new family adds its cases here, and nothing else in ``tests/conformance``.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from growformer.architecture.declaration import Architecture, Config
from growformer.architecture.registry import architectures


@dataclass(frozen=True, kw_only=True)
class Case:
    """One class of ``transformers`` with a config.

    Attributes:
        name: for the test's id.
        family: name of its architecture.
        model: name of the class.
        config: its config, as far as it is not default.
        lookups, ordered, unused: as in ``check_equivariance``.
    """

    name: str
    family: str
    model: str
    config: Mapping[str, Any]
    lookups: Mapping[str, str] = field(default_factory=lambda: {"vocab": "input_ids"})
    ordered: Collection[str] = ()
    unused: Collection[str] = ()

    def __str__(self) -> str:
        return f"{self.family}-{self.name}"

    @property
    def architecture(self) -> Architecture:
        return architectures()[self.family]

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``check_declaration``."""
        return {
            "lookups": self.lookups,
            "ordered": self.ordered,
            "unused": self.unused,
        }

    @functools.cached_property
    def arrows(self) -> frozenset[str]:
        """The arrows of which the model has a tensor, its tied ones included."""
        with torch.device("meta"):
            names = list(self.make_model(self.config).state_dict())
        found = set()
        for template, spec in self.architecture.tensors.items():
            pattern = re.sub(r"\\{\w+\\}", r"\\d+", re.escape(template))
            if any(re.fullmatch(rf"(\w+\.)?{pattern}", name) for name in names):
                found.add(spec.owner)
        return frozenset(found)

    def make_model(self, config: Config) -> torch.nn.Module:
        """Return the model in eval mode; the same object for the same config, so do not change its weights."""
        return _make(self.model, json.dumps(config, sort_keys=True), str(torch.get_default_device()))

    def make_inputs(self, config: Config) -> dict[str, torch.Tensor]:
        """Return ids for every embedding that the case looks up."""
        generator = torch.Generator().manual_seed(0)
        shape = (2, 11)
        inputs = {"input_ids": torch.randint(config["vocab_size"], shape, generator=generator)}
        if "types" in self.lookups:
            inputs["token_type_ids"] = torch.randint(config["type_vocab_size"], shape, generator=generator)
        if "positions" in self.lookups:
            # Permuted positions without a mask would be taken for packed sequences.
            inputs["position_ids"] = torch.arange(shape[1]).expand(shape)
            inputs["attention_mask"] = torch.ones(shape, dtype=torch.long)
        return inputs


@functools.cache
def _make(model: str, config: str, device: str) -> torch.nn.Module:
    import transformers

    found = transformers.AutoConfig.for_model(**json.loads(config))
    return getattr(transformers, model)(found).eval()


_LLAMA = {
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "num_key_value_heads": 3,
    "head_dim": 14,
    "rms_norm_eps": 0.1,
    "tie_word_embeddings": False,
}
#: Leaves to the class what it can.
_LLAMA_DEFAULTS = {
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 0.1,
}
_GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 53,
    "n_positions": 19,
    "n_embd": 30,
    "n_inner": 37,
    "n_layer": 2,
    "n_head": 3,
    "layer_norm_epsilon": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_BERT = {
    "model_type": "bert",
    "vocab_size": 53,
    "max_position_embeddings": 19,
    "type_vocab_size": 5,
    "hidden_size": 30,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "layer_norm_eps": 0.1,
}
_BIASES = {"attention_bias": True, "mlp_bias": True}
_POSITIONS = {"vocab": "input_ids", "positions": "position_ids"}
_TYPES = {**_POSITIONS, "types": "token_type_ids"}


def _like_llama(family: str, prefix: str, *, default_kv_heads: int | None, biases: Mapping[str, Any]) -> list[Case]:
    kv_heads = {"num_key_value_heads": 2} if default_kv_heads else {}
    config = {"model_type": family, **_LLAMA, **biases}
    small = {"model_type": family, **_LLAMA_DEFAULTS, **kv_heads}
    causal = f"{prefix}ForCausalLM"
    return [
        Case(name="causal", family=family, model=causal, config=config),
        Case(name="tied", family=family, model=causal, config={**config, "tie_word_embeddings": True}),
        Case(name="defaults", family=family, model=causal, config=small),
        Case(name="base", family=family, model=f"{prefix}Model", config=config),
    ]


def _bert(name: str, model: str, ordered: Collection[str] = (), **changes: Any) -> Case:
    # The prediction head applies its activation between ``transform.dense`` and ``transform.LayerNorm``. Untied, its
    # class holds two biases and adds one.
    untied = changes.get("tie_word_embeddings") is False
    return Case(
        name=name,
        family="bert",
        model=model,
        config={**_BERT, **changes},
        lookups=_TYPES,
        ordered=ordered,
        unused=("cls.predictions.bias",) if untied else (),
    )


def _gpt2(
    name: str,
    model: str,
    *,
    lookups: Mapping[str, str] = _POSITIONS,
    ordered: Collection[str] = (),
    **changes: Any,
) -> Case:
    config = {**_GPT2, **changes}
    return Case(name=name, family="gpt2", model=model, config=config, lookups=lookups, ordered=ordered)


CASES: tuple[Case, ...] = (
    *_like_llama("llama", "Llama", default_kv_heads=None, biases=_BIASES),
    *_like_llama("mistral", "Mistral", default_kv_heads=8, biases={}),
    *_like_llama("qwen2", "Qwen2", default_kv_heads=32, biases={}),
    *_like_llama("qwen3", "Qwen3", default_kv_heads=32, biases={"attention_bias": True}),
    _gpt2("causal", "GPT2LMHeadModel"),
    _gpt2("untied", "GPT2LMHeadModel", tie_word_embeddings=False),
    _gpt2("base", "GPT2Model"),
    _gpt2("default-inner", "GPT2Model", n_inner=None),
    # Which token is classified depends on the id of the padding token.
    _gpt2("sequence-classes", "GPT2ForSequenceClassification", lookups={}, num_labels=7, pad_token_id=0),
    _gpt2("token-classes", "GPT2ForTokenClassification", num_labels=7),
    _gpt2("question-answering", "GPT2ForQuestionAnswering", ordered=("labels",)),
    _bert("base", "BertModel"),
    _bert("masked", "BertForMaskedLM"),
    _bert("untied", "BertForMaskedLM", tie_word_embeddings=False),
    _bert("pretraining", "BertForPreTraining"),
    _bert("sequence-classes", "BertForSequenceClassification", num_labels=7),
    _bert("question-answering", "BertForQuestionAnswering", ordered=("labels",)),
)


def cases_of(family: str) -> list[Case]:
    """Return the cases of a family."""
    return [case for case in CASES if case.family == family]
