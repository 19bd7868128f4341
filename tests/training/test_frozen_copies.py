"""Layers that copy frozen ones are frozen, which is said; the way to train them that the warning names does."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from tests.training.trainer_runs import random_model

import growformer

GROWTH: dict[str, Any] = {"num_hidden_layers": 4, "new_layers_at": [1]}


def trained(model: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    step(model, optimizer)
    return optimizer


def step(model: Any, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    tokens = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(4))
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()


def moved(model: Any, optimizer: torch.optim.Optimizer) -> set[str]:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model, optimizer)
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def test_new_layers_that_nothing_trains() -> None:
    model = random_model("llama")
    model.model.layers.requires_grad_(False)
    optimizer = trained(model)
    said = r"^9 parameters of new layers are frozen, as those that they copy are \(model.layers.1.* thaw the model"
    with pytest.warns(UserWarning, match=said) as caught:
        grown, optimizer = growformer.grow(model, optimizer=optimizer, **GROWTH)
    assert [warning.filename for warning in caught] == [__file__]
    assert not any(".layers." in name for name in moved(grown, optimizer))


def test_what_the_warning_advises_trains_them() -> None:
    model = random_model("llama")
    optimizer = trained(model)
    rules = growformer.UpdateRules(freeze_old=True, fade_in=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grown, optimizer = growformer.grow(model, optimizer=optimizer, updates=rules, **GROWTH)
    names = moved(grown, optimizer)
    assert names
    assert all(name.startswith("model.layers.1.") for name in names)


def test_nothing_is_said_without_an_optimizer_or_without_new_layers() -> None:
    model = random_model("llama")
    model.model.layers.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        growformer.grow(model, **GROWTH)
        growformer.grow(model, optimizer=trained(model), intermediate_size=47)
