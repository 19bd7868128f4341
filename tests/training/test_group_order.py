"""A script that makes the groups of the grown model by its own rule gets every moment at its parameter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.trainer_runs import differences, load, random_model, states_of, trainer_of

import growformer
from growformer import RequestError
from growformer.execute.group_order import grown_order

Named = list[tuple[str, Any]]
Rule = Callable[[Named], Named]
RULES: dict[str, Rule] = {
    "named_parameters": lambda named: named,
    "backwards": lambda named: named[::-1],
    "sorted": sorted,
    "sorted backwards": lambda named: sorted(named)[::-1],
}
OWN: Rule = lambda named: sorted(named, key=lambda pair: pair[0][::-1])  # noqa: E731
"""By the last letters of names: no growth in depth can follow it, growth in width can."""
WIDTH = {"hidden_size": 36, "intermediate_size": 47}
DEPTH = {**WIDTH, "num_hidden_layers": 12, "new_layers_at": [0, 2, 4, 5, 6, 7, 8, 9, 10]}
"""To layers of two digits, which sorted names put before others."""


def optimizer_by(rule: Rule, model: Any) -> torch.optim.Optimizer:
    """Two groups, as minGPT makes them, each in the order of a rule."""
    ordered = rule(list(model.named_parameters()))
    groups = [{"params": [(n, p) for n, p in ordered if (p.ndim > 1) == decays]} for decays in (True, False)]
    return torch.optim.AdamW(groups, lr=1e-2)


def trained(rule: Rule) -> tuple[Any, torch.optim.Optimizer]:
    model = random_model("llama")
    optimizer = optimizer_by(rule, model)
    numbers = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=numbers)
    optimizer.step()
    return model, optimizer


def wrong_by(rule: Rule, model: Any, optimizer: torch.optim.Optimizer) -> list[str]:
    """Load the state dict of an optimizer into one that a script makes by a rule; return what is not where it was."""
    again = optimizer_by(rule, model)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return differences(states_of(again, model), states_of(optimizer, model))


@pytest.mark.parametrize(
    ("rule", "growth"),
    [*((rule, DEPTH) for rule in RULES.values()), (OWN, WIDTH)],
    ids=[*RULES, "an own one, in width"],
)
def test_moments_are_found_again_by_place(tmp_path: Path, rule: Rule, growth: dict[str, Any]) -> None:
    model, optimizer = trained(rule)
    other: Rule = RULES["backwards"] if rule is RULES["named_parameters"] else RULES["named_parameters"]
    grown, optimizer = growformer.grow(model, optimizer=optimizer, **growth)
    assert not wrong_by(rule, grown, optimizer)
    assert wrong_by(other, grown, optimizer)  # the control: place matters here

    model = random_model("llama")
    made = (optimizer_by(rule, model), None)
    trainer_of(model, tmp_path / "out", steps=2, every=2, optimizers=made).train()
    source = tmp_path / "out" / "checkpoint-2"
    out = growformer.grow_checkpoint(source, tmp_path / "grown", **growth)
    grown = load(out.path)
    found = optimizer_by(rule, grown)
    found.load_state_dict(torch.load(out.path / "optimizer.pt", weights_only=True))
    model = load(source)
    optimizer = optimizer_by(rule, model)
    optimizer.load_state_dict(torch.load(source / "optimizer.pt", weights_only=True))
    expected, optimizer = growformer.grow(model, optimizer=optimizer, **growth)
    assert not differences(states_of(found, grown), states_of(optimizer, expected))


def test_an_order_that_new_layers_have_no_place_in(tmp_path: Path) -> None:
    said = "group 0 of the optimizer has its parameters in an order of its own .* stands before"
    model, optimizer = trained(OWN)
    with pytest.warns(UserWarning, match=f"{said}.*load its state dict by name"):
        grown, optimizer = growformer.grow(model, optimizer=optimizer, **DEPTH)
    assert not wrong_by(RULES["named_parameters"], grown, optimizer)

    model = random_model("llama")
    trainer_of(model, tmp_path / "out", steps=2, every=2, optimizers=(optimizer_by(OWN, model), None)).train()
    source = tmp_path / "out" / "checkpoint-2"
    with pytest.raises(RequestError, match=f"optimizer.pt: {said}.*state='drop'.*state='omit'"):
        growformer.grow_checkpoint(source, tmp_path / "grown", **DEPTH)
    assert not (tmp_path / "grown").exists()
    growformer.grow_checkpoint(source, tmp_path / "dropped", state="drop", **DEPTH)
    assert torch.load(tmp_path / "dropped" / "optimizer.pt", weights_only=True)["state"] == {}


def test_one_rule_for_all_groups_where_one_fits_all() -> None:
    """A group of one layer's parameter fits every rule; the other group says which one is meant."""
    source, target = ["b", "a.0", "c"], ["b", "a.2", "a.10", "c"]
    groups, grown = [["a.0"], ["b", "c"]], [{"a.2": "a.0", "a.10": "a.0"}, {"b": "b", "c": "c"}]
    assert [o.names for o in grown_order(groups, grown, source, target)] == [("a.2", "a.10"), ("b", "c")]
    groups, grown = [["a.0"], ["a.1", "b"]], [{"a.2": "a.0", "a.10": "a.0"}, {"b": "b", "a.1": "a.1"}]
    source, target = ["b", "a.0", "a.1"], ["b", "a.2", "a.10", "a.1"]
    assert [o.names for o in grown_order(groups, grown, source, target)] == [("a.10", "a.2"), ("a.1", "b")]
