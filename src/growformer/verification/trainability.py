"""The trainability check: which new parameters learn, and when. Preserving is not enough; a dead unit never learns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from growformer.architecture.declaration import space_of
from growformer.planning.plan import Plan
from growformer.verification.outputs import OUTPUTS
from growformer.verification.rows import Row

Ranges = list[list[int]]
Regions = list[list[Ranges]]


@dataclass(frozen=True, slots=True)
class Reach:
    """One region of new values.

    Attributes:
        tensor: its parameter.
        region: ranges per dimension.
        first_step: the first optimizer step whose gradient reaches it; None if none did.
        dead_units: new coordinates (rows or columns that the source does not have) none of whose entries was reached.
    """

    tensor: str
    region: list[Ranges]
    first_step: int | None
    dead_units: int


@dataclass(frozen=True, slots=True)
class TrainabilityReport:
    """The trainability check.

    Attributes:
        regions: every new region.
        steps: how many steps were taken.
    """

    regions: tuple[Reach, ...]
    steps: int

    @property
    def dead(self) -> tuple[Reach, ...]:
        """Regions that no gradient reached, or not in every new coordinate."""
        return tuple(r for r in self.regions if r.first_step is None or r.dead_units)

    @property
    def ok(self) -> bool:
        """Whether every new region learns within the steps."""
        return not self.dead

    def rows(self) -> list[Row]:
        """Return one row per finding: check, what was looked at, result, whether it passed."""
        result = (
            f"{len(self.regions) - len(self.dead)} of {len(self.regions)} new regions learn within {self.steps} steps"
        )
        if self.dead:
            result += f"; dead: {', '.join(sorted({r.tensor for r in self.dead})[:4])}"
        return [("trainability", "new parameters", result, self.ok)]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "ok": self.ok,
            "steps": self.steps,
            "regions": len(self.regions),
            "by_first_step": {
                str(step): sum(r.first_step == step for r in self.regions) for step in range(1, self.steps + 1)
            },
            "dead": [{"tensor": r.tensor, "region": r.region, "units": r.dead_units} for r in self.dead],
        }


def steps_to_learn(plan: Plan) -> int:
    """Return within how many steps everything new learns: two, or three with a tied head behind norms on branches.

    There the first step moves the table's new columns, the second the rows of the writer in front of the norm, which
    has no gradient before, and the third the norm's gain.
    """
    spaces = plan.architecture.spaces
    on_branches = any(
        spaces[space_of(arrow.source)].index and not spaces[space_of(arrow.target)].index
        for arrow in plan.architecture.arrows.values()
        if arrow.kind == "norm" and arrow.gain
    )
    return 3 if plan.source.tied and on_branches else 2


def gradient_reach(
    model: nn.Module,
    regions: Mapping[str, Regions],
    inputs: dict[str, torch.Tensor],
    *,
    steps: int = 2,
    seed: int = 0,
    learning_rate: float = 1e-3,
) -> TrainabilityReport:
    """Take a few AdamW steps on a copy of a model and report when gradients reach new regions.

    The loss is a random projection of every output (logits, or hidden states and pooled output), so that nothing is
    missed because a task does not ask for it. Computed in float32.

    Args:
        model: the grown model; not changed.
        regions: parameter name -> its new regions, as ``load_provenance`` gives them.
        inputs: keyword arguments of the model.
        steps: how many steps.
        seed: of the projection.
        learning_rate: of AdamW; weight decay is 0.
    """
    trained = copy.deepcopy(model).float().eval()
    new = {n: p for n, p in trained.named_parameters() if regions.get(n)}
    # What the class keeps from learning is left out; a model that is frozen as a whole is judged as if it were not.
    parameters = {n: p for n, p in new.items() if p.requires_grad} or new
    for p in trained.parameters():
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=learning_rate, weight_decay=0.0)
    reached = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in parameters.items()}
    first: dict[tuple[str, int], int] = {}
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        _loss(trained, inputs, seed).backward()  # type: ignore[no-untyped-call]
        for name, p in parameters.items():
            if p.grad is None:
                continue
            reached[name] |= p.grad != 0
            for number, region in enumerate(regions[name]):
                if (name, number) not in first and bool((_select(p.grad, region) != 0).any()):
                    first[name, number] = step
        optimizer.step()
    found = [
        Reach(name, region, first.get((name, number)), _dead_units(reached[name], region))
        for name in parameters
        for number, region in enumerate(regions[name])
    ]
    return TrainabilityReport(tuple(found), steps)


def _loss(model: nn.Module, inputs: dict[str, torch.Tensor], seed: int) -> torch.Tensor:
    given = {name: t.float() if t.is_floating_point() else t for name, t in inputs.items()}
    output = model(**given)
    generator = torch.Generator().manual_seed(seed)
    total: torch.Tensor | None = None
    for name in OUTPUTS:
        value = getattr(output, name, None)
        if isinstance(value, torch.Tensor):
            weights = torch.randn(value.shape, generator=generator).to(value.device)
            term = (value * weights).mean()
            total = term if total is None else total + term
    if total is None:
        weights = torch.randn(output.shape, generator=generator).to(output.device)
        total = (output * weights).mean()
    return total


def _dead_units(reached: torch.Tensor, region: list[Ranges]) -> int:
    """Count the coordinates of a region without any gradient, along dimensions that it does not span.

    A dimension that it spans is not new there: rows of an embedding whose token did not occur are not dead. Vectors
    are judged as a whole: softmax cancels a bias of keys, in any model, so that its gradient is rounding.
    """
    if reached.ndim < 2:
        return 0
    inside = _select(reached, region)
    dead = 0
    for dim, ranges in enumerate(region):
        if sum(stop - start for start, stop in ranges) < reached.shape[dim]:
            others = [d for d in range(inside.ndim) if d != dim]
            dead += int((~inside.any(dim=others)).sum())
    return dead


def _select(tensor: torch.Tensor, region: list[Ranges]) -> torch.Tensor:
    for dim, ranges in enumerate(region):
        index = torch.cat([torch.arange(start, stop) for start, stop in ranges]).to(tensor.device)
        tensor = tensor.index_select(dim, index)
    return tensor
