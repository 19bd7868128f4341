"""Which class can be written as another one without a change of what it computes, and how.

A class that cannot say a size may be a special case of one that can: Qwen2 is Llama with biases on queries, keys and
values, a bias of zero on the output projection, and a ``head_dim`` that is written down. The tensors keep their names;
what the other class has besides, the grown checkpoint holds as zeros.

To add a pair, add a ``Conversion``. ``verification.conversion_conditions`` compares the two declarations arrow by
arrow, so that a pair that is not one fails there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from growformer.architecture.declaration import Architecture
from growformer.architecture.registry import for_config
from growformer.architecture.source import SourceInfo, specialised
from growformer.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """One class written as another.

    Attributes:
        source, target: their model types.
        source_class, target_class: how the names of their classes start: ``Qwen2`` of ``Qwen2ForCausalLM``.
        sets: config fields of the target's class that make it compute what the source's does.
        drops: config fields that only the source's class reads.
        defaults: what the source's class takes for fields that its config leaves out and the target's class would fill
            in differently.
        needs: config field of the source -> (the values with which the two are the same, None also for absent; why).
        zeros: templates of the tensors that only the target's class has.
    """

    source: str
    target: str
    source_class: str
    target_class: str
    sets: Mapping[str, Any] = field(default_factory=dict)
    drops: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict)
    zeros: frozenset[str] = frozenset()


CONVERSIONS = (
    Conversion(
        source="qwen2",
        target="llama",
        source_class="Qwen2",
        target_class="Llama",
        sets={"attention_bias": True, "mlp_bias": False},
        drops=("use_sliding_window", "sliding_window", "max_window_layers", "layer_types"),
        # transformers 5.24, configuration_qwen2.py against configuration_llama.py.
        defaults={
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
            "hidden_act": "silu",
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        needs={
            "use_sliding_window": ((False, None), "Llama has no sliding window"),
            "dual_chunk_attention_config": ((None,), "Llama has no dual chunk attention"),
            "qk_norm": ((False, None), "Llama has no norm on queries and keys"),
            "is_causal": ((True, None), "Llama is causal"),
        },
        zeros=frozenset({"layers.{layer}.self_attn.o_proj.bias"}),
    ),
)


def conversions_of(model_type: Any) -> tuple[Conversion, ...]:
    """Return how a class can be written as others."""
    return tuple(c for c in CONVERSIONS if c.source == model_type)


def unmet(conversion: Conversion, config: Mapping[str, Any]) -> str:
    """Return why a config does not let its class be written as the other, or an empty string."""
    for name, (values, why) in conversion.needs.items():
        if not any(config.get(name) is value or config.get(name) == value for value in values):
            return f"{name} = {config[name]!r}: {why}"
    if any(kind != "full_attention" for kind in config.get("layer_types") or ()):
        return "layer_types has other entries than full_attention"
    return ""


def convert(conversion: Conversion, architecture: Architecture, source: SourceInfo) -> tuple[Architecture, SourceInfo]:
    """Describe a source as an instance of another class, with the same tensors.

    Args:
        conversion: the pair of classes.
        architecture: the source's own declaration.
        source: the source, described by it.

    Returns:
        The other class's declaration, and the source with a config of that class; ``original`` keeps its own.

    Raises:
        RequestError: this source is not a special case of the other class.
    """
    config = source.config
    reason = unmet(conversion, config)
    names = config.get("architectures") or []
    stranger = next((n for n in names if not str(n).startswith(conversion.source_class)), None)
    if not reason and stranger is not None:
        reason = f"the class {stranger} has no counterpart"
    if reason:
        raise RequestError(f"{conversion.source} cannot be written as {conversion.target} here: {reason}")
    resolved = architecture.resolve_config(source.sizes)
    written = {name: value for name, value in copy.deepcopy(dict(config)).items() if name not in conversion.drops}
    written |= {name: value for name, value in conversion.defaults.items() if name not in written}
    target = for_config({"model_type": conversion.target})
    kept = (*target.size_fields(), *target.defaults, *(str(a.eps) for a in target.arrows.values() if a.kind == "norm"))
    for name in kept:
        if name in resolved and name not in source.inferred and name not in conversion.drops:
            written[name] = resolved[name]
    if not any(name in written for name in ("rope_theta", *(r.parameters for r in target.rotary))):
        written["rope_theta"] = 10000.0
    written |= conversion.sets
    written["model_type"] = conversion.target
    if names:
        written["architectures"] = [
            conversion.target_class + str(n).removeprefix(conversion.source_class) for n in names
        ]
    info = replace(
        source,
        config=written,
        templates=source.templates | conversion.zeros,
        zeros=conversion.zeros,
        original=dict(config),
    )
    shapes = {t.stored: (t.shape, t.dtype) for t in source.tensors.values()}
    return specialised(target, shapes), info
