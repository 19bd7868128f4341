"""What a model costs: parameters, bytes and floating-point operations, from a plan's shapes alone.

FLOPs of one token in a forward pass are counted as ``2 * (entries of every matrix that the token is multiplied with)
+ 2 * context * (query + attended coordinates of every layer)``: a multiplication and an addition for each entry of a
matrix, and for each query coordinate and each output coordinate of attention and each token attended to. Look-ups in
embedding tables, norms, biases and activations are left out; a tied output matrix is counted where the model has a
head that reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any

from growformer.architecture.exact import compute

if TYPE_CHECKING:
    from growformer import Plan
    from growformer.architecture.declaration import TensorSpec

_MATRICES = ("linear", "linear_transposed")
_OTHERS = ("embedding", "parameter", "norm", "scale")
_HEADS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining", "ForConditionalGeneration")

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


@dataclass(slots=True)
class _Instances:
    """All instances of one template together.

    Attributes:
        spec: the template.
        shape: of the last one.
        entries: of all of them.
    """

    spec: TensorSpec
    shape: tuple[int, ...] = ()
    entries: int = 0


def _cost(plan: Plan, tensors: Iterable[tuple[TensorSpec, tuple[int, ...], str]], sizes: Mapping[str, Any]) -> Cost:
    from growformer.storage.header import DTYPES

    width = dict(DTYPES.values())
    found: dict[str, _Instances] = {}
    weight_bytes = 0
    for spec, shape, dtype in tensors:
        instances = found.setdefault(spec.template, _Instances(spec))
        instances.shape, entries = shape, prod(shape)
        instances.entries += entries
        weight_bytes += entries * width[dtype]
    return Cost(
        parameters=sum(instances.entries for instances in found.values()),
        weight_bytes=weight_bytes,
        flops=_flops(plan, found, sizes),
        context_flops=_context_flops(plan, sizes),
    )


def _countable(plan: Plan, specs: Iterable[TensorSpec]) -> bool:
    """Tell whether it is known how many tokens meet every matrix: not so of experts without a count, nor of stems."""
    arrows, active = plan.architecture.arrows, plan.architecture.active
    return all(
        arrows[spec.owner].kind in (*_MATRICES, *_OTHERS)
        and all(axis in active for axis in spec.index if axis in plan.architecture.fixed)
        for spec in specs
    )


def _share(plan: Plan, spec: TensorSpec, sizes: Mapping[str, Any]) -> Fraction:
    """Return how many of a matrix' instances a token meets, out of all: experts are picked."""
    share = Fraction(1)
    for axis, expression in plan.architecture.active.items():
        if axis in spec.index:
            share *= Fraction(compute(expression, sizes), plan.architecture.size(axis, sizes))
    return share


def _flops(plan: Plan, found: Mapping[str, _Instances], sizes: Mapping[str, Any]) -> int | None:
    architecture = plan.architecture
    if not _countable(plan, (instances.spec for instances in found.values())):
        return None
    total = Fraction(0)
    for instances in found.values():
        spec = instances.spec
        if spec.part == "weight" and architecture.arrows[spec.owner].kind in _MATRICES:
            total += 2 * instances.entries * _share(plan, spec, sizes)
    head = str((plan.source.config.get("architectures") or [""])[0])
    if plan.source.tied and head.endswith(_HEADS):
        total += sum(
            2 * prod(found[other].shape)
            for tied, other in architecture.ties.items()
            if tied not in found and other in found and len(found[other].shape) == 2
        )
    return int(total)


def _context_flops(plan: Plan, sizes: Mapping[str, Any]) -> int | None:
    from growformer.architecture.declaration import spaces_in

    architecture = plan.architecture
    specs = [s for s in architecture.tensors.values() if s.template in plan.source.templates]
    if not _countable(plan, specs):
        return None
    present = {space for s in specs for space in spaces_in(architecture.arrows[s.owner].target)}
    total = 0
    for attention in architecture.attention:
        if not present.issuperset(attention.queries):
            continue
        for name in (*attention.queries, attention.output):
            space = architecture.spaces[name]
            for index in architecture.instances(space.index, sizes):
                total += 2 * prod(architecture.size(axis, sizes, index) for axis in space.axes)
    return total
