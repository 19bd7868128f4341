"""The growth log: read strictly, replayed bit for bit, and a ledger that agrees with what PyTorch counts."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import BATCH, DEEPER, LENGTH, WIDER, batch, llama, loss_of, same, train
from torch.utils.flop_counter import FlopCounterMode

import growformer
from growformer import GrowthLog, GrowthSchedule, GrowthStage, PlanError, RequestError, ScheduledGrowth, SourceError
from growformer.runs.replay import plan_of, with_changes
from growformer.training.curve import MOST, LossCurve

ZEROED = growformer.UpdateRules(fade_in=0)
TWICE = GrowthSchedule(
    (GrowthStage(at_step=1, sizes=WIDER, seed=5), GrowthStage(at_step=2, sizes=DEEPER, seed=6, updates=ZEROED))
)


def run_of(schedule: GrowthSchedule, steps: int, lr: float, **options: Any) -> ScheduledGrowth:
    model = llama()
    run = ScheduledGrowth(schedule, model, torch.optim.SGD(model.parameters(), lr=lr), **options)
    train(run, 0, steps)
    return run


def test_a_log_replays_bit_for_bit(tmp_path: Path) -> None:
    run = run_of(TWICE, 3, lr=0.0)  # steps that move nothing: all growths start from the weights at hand
    run.save(tmp_path)
    source = llama()
    before = copy.deepcopy(source)
    again = growformer.replay(tmp_path, source)
    assert same(again, run.model)
    assert again.config.to_dict() == run.model.config.to_dict()
    assert same(source, before)
    assert same(growformer.replay(run.log, source, growths=0), source)
    assert growformer.replay(run.log, source, growths=1).config.num_hidden_layers == 2
    trained = run_of(TWICE, 3, lr=0.1)
    assert not same(trained.model, again)  # and a difference would be seen


def test_a_growth_in_the_middle_is_replayed_from_the_weights_it_had() -> None:
    model = llama()
    run = ScheduledGrowth(TWICE, model, torch.optim.SGD(model.parameters(), lr=0.1))
    train(run, 0, 1)
    first = copy.deepcopy(run.model)
    loss_of(run.model, batch(1)).backward()
    run.optimizer.step()
    source = copy.deepcopy(run.model)
    assert run.after_step()
    grown = run.grow()
    made = plan_of(run.log.events[1], source)
    assert same(growformer.grow(source, plan=made), grown)
    assert not same(growformer.grow(first, plan=made), grown)


def test_a_config_gets_what_a_growth_changed() -> None:
    live = {"a": 1, "b": 2, "inner": {"c": 3, "d": 4, "e": 5}, "gone": 1}
    before = {"a": 1, "inner": {"c": 3, "d": 4}, "gone": 1, "dtype": "float32"}
    after = {"a": 7, "inner": {"c": 3, "d": 8}, "new": [1], "dtype": "float32"}
    assert with_changes(live, before, after) == {"a": 7, "b": 2, "inner": {"c": 3, "d": 8, "e": 5}, "new": [1]}
    assert with_changes(live, before, before) == live


def test_a_log_of_a_folder_is_replayed_on_a_live_model(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "source")
    run = run_of(GrowthSchedule(TWICE.stages[:1]), 2, lr=0.0)
    event = run.log.events[0]
    made = growformer.plan(tmp_path / "source", **TWICE.stages[0].request)
    planned = json.loads(made.to_json())
    planned["source_config"] = planned.pop("source")["config"]
    from_folder = plan_of(replace(event, plan=planned), llama())
    assert same(growformer.grow(llama(), plan=from_folder), run.model)
    with pytest.raises(PlanError, match="growth 1 of the log holds no plan: source_config is missing"):
        plan_of(replace(event, plan={n: v for n, v in planned.items() if n != "source_config"}), llama())


def test_replay_refuses_what_it_does_not_fit(tmp_path: Path) -> None:
    run = run_of(TWICE, 3, lr=0.0)
    with pytest.raises(RequestError, match=r"the model has hidden_size = 25.*growth 1 of the log had.* = 20"):
        growformer.replay(run.log, llama(hidden_size=25, num_attention_heads=5, num_key_value_heads=5))
    with pytest.raises(RequestError, match="growths = 3: the log has 2"):
        growformer.replay(run.log, llama(), growths=3)
    data = run.log.to_json()
    runs = data["events"][0]["plan"]["axis_maps"]["mlp"][0]["runs"]
    runs.reverse()  # an MLP whose new units come first is fine; half of the source's units lost is not
    runs[-1][1] -= 3
    runs.append([0, 3])
    with pytest.raises(PlanError, match="would change what the model computes"):
        growformer.replay(GrowthLog.from_json(json.loads(json.dumps(data))), llama())


WRONG: dict[str, tuple[Any, str]] = {
    "format": (lambda d: d.update(format=2), "a growth log of format 2; this version reads 1"),
    "no step": (lambda d: d.pop("step"), "not a growth log: it has no 'step'"),
    "negative": (lambda d: d.update(tokens=-1), "not a growth log: expected a count, found -1"),
    "schedule": (
        lambda d: d["schedule"]["stages"].pop(),
        r"not a growth log: growths \[1, 2\] of 1 stages",
    ),
    "order": (lambda d: d["events"].reverse(), r"not a growth log: growths \[2, 1\] of 2 stages"),
    "field": (lambda d: d["events"][0].update(why=1), "not a growth log: an entry is of another kind than expected"),
    "plan": (lambda d: d["events"][0].update(plan=[]), r"not a growth log: .*growth 1 has no plan"),
    "infinite": (lambda d: d["curve"].update(span=1e300 * 1e300), "Infinity is not a number here"),
    "stage": (lambda d: d["schedule"]["stages"][0].update(at_step=9), "not a growth log: stage 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_logs_are_refused(name: str, tmp_path: Path) -> None:
    change, message = WRONG[name]
    run = run_of(TWICE, 3, lr=0.0)
    run.save(tmp_path)
    file = tmp_path / "growth_log.json"
    assert GrowthLog.load(file).to_json() == run.log.to_json()
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(SourceError, match=f"growth_log.json: {message}"):
        GrowthLog.load(tmp_path)


def test_files_that_are_no_log(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"missing; every checkpoint of a run with a growth schedule has one"):
        GrowthLog.load(tmp_path)
    (tmp_path / "growth_log.json").write_text('{"format": NaN}')
    with pytest.raises(SourceError, match=r"growth_log.json: NaN is not a number here"):
        GrowthLog.load(tmp_path)
    (tmp_path / "growth_log.json").write_text("[]")
    with pytest.raises(SourceError, match="expected a JSON object"):
        GrowthLog.load(tmp_path)


def test_the_ledger_adds_up_what_pytorch_counts() -> None:
    model = llama()
    run = ScheduledGrowth(TWICE, model, torch.optim.SGD(model.parameters(), lr=0.0), sequence_length=LENGTH)
    with FlopCounterMode(display=False) as counter:
        train(run, 0, 4)
    assert run.log.flops == counter.get_total_flops()
    ledger = run.log.ledger
    assert ledger is not None
    assert [stage.tokens for stage in ledger.stages] == [BATCH * LENGTH, BATCH * LENGTH, 2 * BATCH * LENGTH]
    assert ledger.stages[0].parameters == llama().num_parameters()
    assert ledger.stages[-1].parameters == run.model.num_parameters()
    costs = [stage.training(LENGTH) for stage in ledger.stages]
    assert costs[0] < costs[1] < costs[2] / 2
    with FlopCounterMode(display=False) as counter:
        train(run, 4, 5)
    assert run.log.flops == sum(costs) + counter.get_total_flops()


def test_flops_are_not_said_where_they_are_not_known() -> None:
    model = llama()
    run = ScheduledGrowth(TWICE, model, torch.optim.SGD(model.parameters()), sequence_length=LENGTH)
    run.after_step()
    assert run.log.flops is None  # nobody counted tokens
    assert run_of(TWICE, 3, lr=0.0).log.flops is None  # no sequence length
    with pytest.raises(RequestError, match="sequence_length = 0: expected a whole number from 1 on"):
        GrowthLog(TWICE, 0)
    with pytest.raises(RequestError, match="tokens without a stage"):
        growformer.FlopsLedger(7).count(3)


def test_a_curve_stays_small_and_true() -> None:
    curve = LossCurve()
    for step in range(1, 10_001):
        curve.add(step, float(step))
    points = curve.points()
    assert MOST // 2 <= len(points) < MOST
    assert curve.span == 8
    assert points[0] == (8, 4.5)
    assert all(loss == step - 3.5 for step, loss in points)
    curve.add(10_001, 7.0)  # less than a span: it is in the next point
    assert curve.points() == points
    curve = LossCurve.from_json({**curve.to_json(), "sum": 0.0, "steps": 0})
    half = LossCurve()
    for step in range(1, 5001):
        half.add(step, float(step))
    half = LossCurve.from_json(json.loads(json.dumps(half.to_json())))
    for step in range(5001, 10_001):
        half.add(step, float(step))
    assert half.to_json() == curve.to_json()


def test_a_config_with_an_infinity_is_logged_and_read_back(tmp_path: Path) -> None:
    """Configs have such limits, as of Mamba's time step, and JSON has no word for them."""
    model = llama()
    model.config.time_step_limit = (0.0, math.inf)
    model.config.floor = {"at": [-math.inf]}
    source = copy.deepcopy(model)
    run = ScheduledGrowth(TWICE, model, torch.optim.SGD(model.parameters(), lr=0.0))
    train(run, 0, 3)
    run.save(tmp_path)
    text = (tmp_path / "growth_log.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    read = GrowthLog.load(tmp_path)
    assert read.to_json() == run.log.to_json()
    for event, again in zip(run.log.events, read.events, strict=True):
        assert again.plan == json.loads(json.dumps(event.plan))
        assert again.plan["target_config"]["time_step_limit"] == [0.0, math.inf]
        assert again.plan["target_config"]["floor"] == {"at": [-math.inf]}
    assert same(growformer.replay(tmp_path, source), run.model)
    resumed = ScheduledGrowth(TWICE, run.model, run.optimizer, state=json.loads(json.dumps(run.state_dict())))
    assert resumed.log.to_json() == run.log.to_json()
