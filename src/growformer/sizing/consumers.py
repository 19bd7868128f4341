"""What programs that load a checkpoint ask of its sizes, read in their source; one table, by consumer and model type.

All three split query heads evenly over the ranks of tensor parallelism, keep a head whole, and split an MLP's width
evenly. They differ in whether ranks may share a key-value head, and each class in where it takes a head's size from:
the config's ``head_dim``, or ``hidden_size // num_attention_heads`` whatever ``head_dim`` says.

A new consumer, or a class of one, is an entry here. A model type that is not listed has the consumer's ``default``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from growformer.errors import RequestError, did_you_mean

HeadDim = Literal["config", "quotient"]


@dataclass(frozen=True, slots=True)
class ClassRule:
    """How a consumer's class of one model type gets the size of a head.

    Attributes:
        head_dim: ``config``: it reads ``head_dim``; ``quotient``: it computes ``hidden_size // num_attention_heads``.
        where: file and line in the consumer's source.
    """

    head_dim: HeadDim
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """One program that loads checkpoints.

    Attributes:
        name, version: which one, and the version whose source was read.
        shares_kv_heads: whether several ranks may hold the same key-value head, where there are fewer heads than ranks.
        shares_where: file and line that say so.
        vocabulary_unit: it pads the vocabulary to a multiple of this, and the ranks must divide the result; 0 where
            any vocabulary does.
        classes: model type -> its rule.
        default: for all others.
    """

    name: str
    version: str
    shares_kv_heads: bool
    shares_where: str
    vocabulary_unit: int
    classes: Mapping[str, ClassRule]
    default: ClassRule

    def rule(self, model_type: str) -> ClassRule:
        """Return the rule of a model type."""
        return self.classes.get(model_type, self.default)

    def splits_kv_heads(self, kv_heads: int, ranks: int) -> bool:
        """Tell whether key-value heads can be handed out: whole ones per rank, or ranks that share one evenly."""
        if kv_heads % ranks == 0:
            return True
        return self.shares_kv_heads and kv_heads < ranks and ranks % kv_heads == 0


def _at(file: str, config: Mapping[str, str], quotient: Mapping[str, str]) -> dict[str, ClassRule]:
    """Return rules by model type from the places where heads get their size."""
    found = {name: ClassRule("config", file.format(where)) for name, where in config.items()}
    return {**found, **{name: ClassRule("quotient", file.format(where)) for name, where in quotient.items()}}


CONSUMERS = {
    consumer.name: consumer
    for consumer in (
        # transformers 5.24. Classes take what their declarations here say; before a plan is carried out, the class
        # itself is asked. `repeat_kv` repeats every local key-value head by the *config's* heads / kv heads
        # (modeling_llama.py:214), so that a rank needs whole key-value heads with their groups.
        Consumer(
            name="transformers",
            version="5.24.0",
            shares_kv_heads=False,
            shares_where="transformers/distributed/tensor_parallel.py:90",
            vocabulary_unit=0,
            classes=_at(
                "transformers/models/{}",
                config={
                    "llama": "llama/modeling_llama.py:213",
                    "mistral": "mistral/modeling_mistral.py:129",
                    "qwen2": "qwen2/modeling_qwen2.py:176",
                    "qwen3": "qwen3/modeling_qwen3.py:211",
                },
                quotient={},
            ),
            default=ClassRule("config", "the class itself, which is asked"),
        ),
        # vLLM 0.33.0. Heads: vllm/config/model.py:1559. Padded vocabulary: layers/vocab_parallel_embedding.py:304.
        Consumer(
            name="vllm",
            version="0.33.0",
            shares_kv_heads=True,
            shares_where="vllm/model_executor/layers/linear.py:1066",
            vocabulary_unit=64,
            classes=_at(
                "vllm/model_executor/models/{}",
                config={
                    "llama": "llama.py:158",
                    "mistral": "mistral.py:77, as llama.py:158",
                    "qwen3": "qwen3.py:100",
                    "gemma": "gemma.py:155",
                    "gemma2": "gemma2.py:126",
                    "gemma3_text": "gemma3.py:127",
                    "granite": "granite.py:181",
                    "mixtral": "mixtral.py:173",
                    "qwen3_moe": "qwen3_moe.py:277",
                },
                quotient={
                    "qwen2": "qwen2.py:150",
                    "qwen2_moe": "qwen2_moe.py:225",
                    "gpt2": "gpt2.py:77",
                    "bert": "bert.py:249",
                    "bloom": "bloom.py:96",
                    "falcon": "falcon.py:110",
                    "opt": "opt.py:88",
                    "stablelm": "stablelm.py:120",
                },
            ),
            default=ClassRule("quotient", "assumed, as the class is not in the table"),
        ),
        # SGLang 0.5.23. It writes the quotient into the config where head_dim is absent (configs/model_config.py:1342),
        # and pads the vocabulary until the ranks divide it (layers/vocab_parallel_embedding.py:273).
        Consumer(
            name="sglang",
            version="0.5.23",
            shares_kv_heads=True,
            shares_where="sglang/srt/layers/linear.py:1140",
            vocabulary_unit=0,
            classes=_at(
                "sglang/srt/models/{}",
                config={
                    "llama": "llama.py:196",
                    "mistral": "mistral.py:33, as llama.py:196",
                    "qwen2": "qwen2.py:278",
                    "qwen3": "qwen3.py:178",
                    "gemma": "gemma.py:107",
                    "gemma2": "gemma2.py:128",
                    "gemma3_text": "gemma3_causal.py:157",
                    "granite": "granite.py:156",
                    "qwen3_moe": "qwen3_moe.py:518",
                },
                quotient={
                    "qwen2_moe": "qwen2_moe.py:926",
                    "gpt2": "gpt2.py:57",
                    "mixtral": "mixtral.py:151",
                    "olmo2": "olmo2.py:100",
                    "starcoder2": "starcoder2.py:79",
                },
            ),
            default=ClassRule("quotient", "assumed, as the class is not in the table"),
        ),
    )
}


def consumer_of(name: str) -> Consumer:
    """Return a consumer by its name.

    Raises:
        RequestError: there is no such entry.
    """
    if name not in CONSUMERS:
        raise RequestError(
            f"unknown consumer {name!r}: expected one of {', '.join(CONSUMERS)}{did_you_mean(name, CONSUMERS)}"
        )
    return CONSUMERS[name]
