"""Schedules on models of other kinds: a tied head, experts, encoder and decoder. The loss stays, the log replays."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.sizing.test_flops import MODELS
from tests.training.runs import same

import growformer
from growformer import GrowthSchedule, GrowthStage, ScheduledGrowth

FLOAT32 = 1e-6
"""Norms and losses are computed in float32 by these classes, whatever dtype the model has."""

STILL = growformer.UpdateRules(fade_in=0)
"""Steps that move nothing, so that a log replays them all from the weights at hand."""

SIZES: dict[str, list[dict[str, int]]] = {
    "gpt2": [{"n_layer": 3, "n_inner": 53}, {"n_embd": 35, "n_head": 5}],
    "llama, tied": [{"hidden_size": 30, "num_attention_heads": 6, "num_key_value_heads": 3}, {"num_hidden_layers": 4}],
    "mixtral": [{"hidden_size": 28, "intermediate_size": 31}, {"num_hidden_layers": 3}],
    "t5": [{"d_ff": 33, "num_layers": 3}, {"d_kv": 9, "num_decoder_layers": 4}],
}


def disturbed(model: Any) -> Any:
    """Return a copy with one row of every matrix turned around."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.ndim == 2:
                parameter[3 % len(parameter)] *= -1
    return other


@pytest.mark.parametrize("name", SIZES)
def test_a_schedule_on_another_family(name: str) -> None:
    make: Callable[[], Any] = MODELS[name]
    torch.manual_seed(5)
    model = make().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    ids = torch.randint(3, 29, (2, 9))
    schedule = GrowthSchedule(
        tuple(GrowthStage(at_step=2 * n + 2, sizes=s, seed=n, updates=STILL) for n, s in enumerate(SIZES[name]))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    run = ScheduledGrowth(schedule, model, optimizer, sequence_length=9)

    def measure(model: Any) -> float:
        with torch.no_grad():
            return float(model.eval()(input_ids=ids, labels=ids).loss)

    for _ in range(5):
        loss = run.model.train()(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if run.after_step(loss=loss, tokens=ids.numel()):
            run.grow(measure)
    assert len(run.log.events) == 2
    for event in run.log.events:
        assert event.loss_after == pytest.approx(event.loss_before, rel=FLOAT32)
        assert event.parameters_after > event.parameters_before
    assert abs(measure(disturbed(run.model)) - measure(run.model)) > 100 * FLOAT32
    again = growformer.replay(run.log, model)
    assert same(again, run.model)
    assert not same(disturbed(again), run.model)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.model.parameters()}
