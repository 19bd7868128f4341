"""What a grown model learns in two steps: nothing new is dead, locked in symmetry, or out of scale.

This is not the package's own gradients check, which ``checks.py`` asks as well: it goes through the declared tensors,
wherever they are stored, and takes the gradient of every output that a class gives.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from growformer.execute.provenance import new_regions
from growformer.execute.stored import stored_tensors, take
from growformer.planning.blocks import TensorPlan
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan
from growformer.verification.trainability import steps_to_learn

FACTOR = 30.0
"""How far the root mean square of a new region's gradient may lie above that of its neighbours: the source's values of
the same tensor, or of the same tensor in other layers where this one is new. Measured: below 5; a zeroed
writer in front of an RMSNorm gives 10,000 (MATHEMATICS 9)."""
LEARNING_RATE = 1e-3
EQUAL = 1e-6
"""Up to this, relative to the largest, two units' values and gradients count as identical."""


@dataclass(frozen=True)
class Learned:
    """A declared tensor of a grown model: where it is new, and its gradient at every step."""

    plan: TensorPlan
    parameter: str
    value: torch.Tensor
    gradients: tuple[torch.Tensor, ...]
    is_new: bool

    @property
    def new(self) -> torch.Tensor:
        """Which entries no source value fills."""
        mask = torch.zeros(self.value.shape, dtype=torch.bool)
        for region in new_regions(self.plan):
            inside = torch.ones(self.value.shape, dtype=torch.bool)
            for dim, ranges in enumerate(region):
                along = torch.zeros(self.value.shape[dim], dtype=torch.bool)
                for start, stop in ranges:
                    along[start:stop] = True
                shape = [1] * self.value.ndim
                shape[dim] = -1
                inside &= along.reshape(shape)
            mask |= inside
        return mask


def learn(model: nn.Module, plan: Plan, inputs: Mapping[str, torch.Tensor]) -> list[Learned]:
    """Take two or three AdamW steps on a copy; return declared tensors with their values before and their gradients."""
    trained = copy.deepcopy(model).float().eval()
    parameters = {n: p for n, p in trained.named_parameters(remove_duplicate=False) if p.requires_grad}
    for p in parameters.values():
        p.requires_grad_(True)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(trained.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    gradients: list[dict[str, torch.Tensor]] = []
    for _ in range(steps_to_learn(plan)):
        optimizer.zero_grad()
        loss(trained(**inputs)).backward()  # type: ignore[no-untyped-call]
        gradients.append({n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in parameters.items()})
        optimizer.step()
    found = []
    for stored in stored_tensors(plan):
        if stored.name not in before:  # a buffer
            continue
        for spec, index, piece in stored.parts:
            found.append(
                Learned(
                    tensor_plan(plan, spec, index),
                    stored.name,
                    take(before[stored.name], piece),
                    tuple(take(g[stored.name], piece) for g in gradients),
                    plan.is_new(index),
                )
            )
    return found


def loss(output: Any) -> torch.Tensor:
    """Return a random projection of every float output, so that nothing is missed for want of a task."""
    generator = torch.Generator().manual_seed(0)
    terms = [(t * torch.randn(t.shape, generator=generator)).mean() for t in _tensors(output) if t.requires_grad]
    return torch.stack(terms).sum()


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)


def dead(learned: list[Learned]) -> list[str]:
    """Name new regions that no gradient reaches, and new rows and columns none of whose entries is reached.

    Vectors are judged as a whole: softmax cancels a bias of keys, in any model.
    """
    found = []
    for tensor in learned:
        reached = torch.stack([g != 0 for g in tensor.gradients]).any(0)
        new = tensor.new
        if not bool(new.any()):
            continue
        if not bool((reached & new).any()):
            found.append(f"{tensor.plan.name}: no gradient reaches what is new")
        elif new.ndim > 1:
            for dim in range(new.ndim):
                others = [d for d in range(new.ndim) if d != dim]
                units = new.all(dim=others) & ~(reached & new).any(dim=others)
                if bool(units.any()) and not bool(new.all()):
                    found.append(f"{tensor.plan.name}: {int(units.sum())} dead units along dimension {dim}")
    return found


def out_of_scale(learned: list[Learned]) -> list[str]:
    """Name new regions whose gradient is far larger than that of their neighbours."""
    source: dict[str, list[list[float]]] = {}
    for tensor in learned:
        if not tensor.is_new:
            source.setdefault(tensor.plan.template, []).append([_rms(g, ~tensor.new) for g in tensor.gradients])
    found = []
    for tensor in learned:
        new = tensor.new
        if not bool(new.any()):
            continue
        for step, gradient in enumerate(tensor.gradients):
            largest = max((rms[step] for rms in source.get(tensor.plan.template, [])), default=0.0)
            ratio = _rms(gradient, new) / largest if largest else 0.0
            if ratio > FACTOR:
                found.append(f"{tensor.plan.name}: step {step + 1}: new gradient {ratio:.0f} times its neighbours'")
    return found


def largest_ratio(learned: list[Learned]) -> float:
    """Return the largest of the ratios that ``out_of_scale`` judges."""
    source: dict[str, list[list[float]]] = {}
    for tensor in learned:
        if not tensor.is_new:
            source.setdefault(tensor.plan.template, []).append([_rms(g, ~tensor.new) for g in tensor.gradients])
    ratios = [0.0]
    for tensor in learned:
        for step, gradient in enumerate(tensor.gradients):
            largest = max((rms[step] for rms in source.get(tensor.plan.template, [])), default=0.0)
            if largest and bool(tensor.new.any()):
                ratios.append(_rms(gradient, tensor.new) / largest)
    return max(ratios)


def _rms(values: torch.Tensor, where: torch.Tensor) -> float:
    chosen = values[where]
    return float(chosen.square().mean().sqrt()) if chosen.numel() else 0.0


def locked(learned: list[Learned], plan: Plan) -> list[str]:
    """Name pairs of new units that have identical values and identical gradients in every tensor that carries them.

    A unit is a coordinate of a dimension: two tensors carry the same units where their dimensions are the same term of
    spaces, in the same layer. Vectors are left out: where they differ, so do the gradients of the matrices beside them.
    """
    shared: dict[tuple[str, tuple[tuple[str, int], ...]], set[tuple[int, int]]] = {}
    for tensor in learned:
        if tensor.is_new or tensor.value.ndim < 2:
            continue
        spec = plan.architecture.tensors[tensor.plan.template]
        new, index = tensor.new, dict(tensor.plan.index)
        for dim, declared in enumerate(spec.dims):
            others = [d for d in range(new.ndim) if d != dim]
            units = torch.nonzero(new.any(dim=others) if others else new).flatten()
            if plan.term_size(declared.term, index) == _source_size(plan, declared.term, index) or len(units) < 2:
                continue
            local = _indices(plan, declared.term)
            term, where = str(declared.term), tuple((axis, at) for axis, at in index.items() if axis in local)
            pairs = {(int(units[i]), int(units[j])) for i, j in _equal(tensor, dim, units)}
            key = (term, where)
            shared[key] = shared[key] & pairs if key in shared else pairs
    return [
        f"{term}{dict(where) or ''}: units {a} and {b} have the same values and the same gradients"
        for (term, where), pairs in shared.items()
        for a, b in sorted(pairs)[:2]
    ]


def _source_size(plan: Plan, term: Any, index: dict[str, int]) -> int:
    from growformer.architecture.language import leaves

    return leaves(term, lambda axis: plan.axis_map(axis, index).source_size)[0]


def _indices(plan: Plan, term: Any) -> set[str]:
    """Return the index axes that the spaces of a term are local to."""
    from growformer.architecture.declaration import spaces_in

    spaces = [plan.architecture.spaces[space] for space in spaces_in(term)]
    return {axis for space in spaces for axis in space.index}


def _equal(tensor: Learned, dim: int, units: torch.Tensor) -> list[tuple[int, int]]:
    """Return pairs of positions in ``units`` that are equal in values and gradients, up to rounding."""
    rows = []
    for values in (tensor.value, *tensor.gradients):
        picked = values.index_select(dim, units).movedim(dim, 0).reshape(len(units), -1)
        rows.append(picked / (float(values.abs().max()) or 1.0))
    together = torch.cat(rows, dim=1)
    distance = (together[:, None] - together[None]).abs().amax(-1)
    return [(i, j) for i, j in torch.nonzero(distance <= EQUAL).tolist() if i < j]
