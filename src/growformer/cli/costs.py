"""What a model costs: parameters, bytes and floating-point operations, from a plan's shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from growformer import Plan
    from growformer.architecture.declaration import TensorSpec

TRAINING_BYTES = 16
"""Per parameter with AdamW in mixed precision: weight and gradient in 2 bytes, master weight and two moments in 4."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Costs of one model.

    Attributes:
        parameters: tied ones count once.
        weight_bytes: of all tensors on disk.
        flops: per token in a forward pass, without attention scores; None where the model has kinds of weights whose
            use per token the declaration does not say.
        context_flops: per token and token of context; None likewise.
    """

    parameters: int
    weight_bytes: int
    flops: int | None
    context_flops: int | None

    @property
    def training_bytes(self) -> int:
        """Memory for training without activations."""
        return TRAINING_BYTES * self.parameters


def costs(plan: Plan, dtype: str | None = None) -> tuple[Cost, Cost]:
    """Return the costs of a plan's source and of its target.

    Args:
        plan: the plan.
        dtype: of the target, where it changes.
    """
    architecture, source = plan.architecture, plan.source
    before = (
        (spec, source.tensors[name].shape, source.tensors[name].dtype)
        for spec in architecture.tensors.values()
        if spec.template in source.templates
        for index in architecture.instances_of(spec, plan.source_sizes)
        if (name := spec.name(index)) in source.tensors
    )
    after = (
        (spec, tuple(plan.term_size(dim.term, index) for dim in spec.dims), dtype or plan.source_dtype(spec, index))
        for spec, index in plan.specs()
    )
    return _cost(plan, before, plan.source_sizes), _cost(plan, after, plan.target_sizes)


def _cost(plan: Plan, tensors: Iterable[tuple[TensorSpec, tuple[int, ...], str]], sizes: Mapping[str, Any]) -> Cost:
    from growformer.sizing.flops import count_flops
    from growformer.storage.header import DTYPES

    width = dict(DTYPES.values())
    parameters = weight_bytes = 0
    for _, shape, dtype in tensors:
        parameters += prod(shape)
        weight_bytes += prod(shape) * width[dtype]
    flops = count_flops(plan.architecture, plan.source, sizes)
    return Cost(
        parameters=parameters,
        weight_bytes=weight_bytes,
        flops=flops.per_token if flops is not None else None,
        context_flops=flops.per_token_of_context if flops is not None else None,
    )
