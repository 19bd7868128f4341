"""Everything that is new learns: each new entry has a gradient at the first step or the second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.theorems.support import CONFIG, THEOREMS, State, execute, plan_for, random_model, select

from growformer.planning.blocks import Constant, Fill
from growformer.planning.plan import Plan
from growformer.planning.transformations import MLPExpansion
from growformer.reference import ReferenceConfig, ReferenceTransformer

#: GELU, so that no unit is silent for every token by chance.
SOURCE = replace(CONFIG, activation="gelu")

OPTIMIZERS: dict[str, Callable[[ReferenceTransformer], torch.optim.Optimizer]] = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3),
}


def gradients(model: ReferenceTransformer, optimizer: torch.optim.Optimizer) -> list[State]:
    """The gradients of two training steps."""
    generator = torch.Generator().manual_seed(3)
    config = model.config
    shape = (8, config.max_positions)
    inputs = torch.randn((*shape, config.input_size), generator=generator, dtype=torch.float64)
    wanted = torch.randn((*shape, config.output_size), generator=generator, dtype=torch.float64)
    found = []
    for _ in range(2):
        optimizer.zero_grad()
        (model(inputs) - wanted).square().mean().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        optimizer.step()
    return found


def new_entries(plan: Plan) -> tuple[State, State]:
    """Masks of what is new, and of that part of it that must be zero."""
    new, zero = {}, {}
    for tensor in plan.tensors():
        fresh = plan.is_new(dict(tensor.index))
        new[tensor.name] = torch.full(tensor.shape, fresh)
        zero[tensor.name] = torch.zeros(tensor.shape, dtype=torch.bool)
        for block in tensor.blocks:
            at = select(new[tensor.name], block.region)
            new[tensor.name][at] = fresh or isinstance(block.value, (Constant, Fill))
            zero[tensor.name][at] = isinstance(block.value, Constant)
    return new, zero


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("new", ["copy", "random"])
@pytest.mark.parametrize("theorem", THEOREMS)
def test_every_new_entry_has_a_gradient_within_two_steps(theorem: str, new: str, optimizer: str) -> None:
    source = random_model(SOURCE)
    plan = plan_for(source, *THEOREMS[theorem], init="normal", new_layers=new)
    grown = execute(plan, source)
    first, second = gradients(grown, OPTIMIZERS[optimizer](grown))
    masks, zeros = new_entries(plan)
    assert any(bool(mask.any()) for mask in masks.values())
    for name, mask in masks.items():
        learns = (first[name] != 0) | (second[name] != 0)
        assert bool(learns[mask].all()), name
        # What starts at zero moves at once.
        assert bool((first[name] != 0)[zeros[name]].all()), name


@pytest.mark.parametrize("config", [SOURCE, replace(SOURCE, post_branch_norm=True)])
def test_norms_after_the_branches_learn_too(config: ReferenceConfig) -> None:
    source = random_model(config)
    plan = plan_for(source, *THEOREMS["all"], init="normal")
    grown = execute(plan, source)
    steps = gradients(grown, OPTIMIZERS["SGD"](grown))
    for name, mask in new_entries(plan)[0].items():
        learns = torch.stack([step[name] != 0 for step in steps]).any(dim=0)
        assert bool(learns[mask].all()), name


def test_zeros_on_both_sides_never_learn() -> None:
    source = random_model(SOURCE)
    plan = plan_for(source, MLPExpansion(intermediate_size=13), init="zero")
    grown = execute(plan, source)
    steps = gradients(grown, OPTIMIZERS["SGD"](grown))
    for part in ("up.weight", "down.weight"):
        name = f"layers.0.mlp.{part}"
        mask = new_entries(plan)[0][name]
        assert not any(bool((step[name] != 0)[mask].any()) for step in steps)
