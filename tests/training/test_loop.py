"""Scheduled growth in a plain loop: when it is due, once; and a resumed run is the run that was not stopped."""

from __future__ import annotations

import copy
import json
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.theorems.support import CONFIGS, random_model
from tests.training.runs import BATCH, DEEPER, LENGTH, SCHEDULE, WIDER, adam, batch, llama, loss_of, same, train
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import growformer
from growformer import (
    GrowthLog,
    GrowthSchedule,
    GrowthStage,
    RequestError,
    ScheduledGrowth,
    SourceError,
    WhenFlat,
    updates_of,
)
from growformer.reference import ReferenceConfig, ReferenceTransformer, reference_architecture

STEPS = 18


def started(schedule: GrowthSchedule = SCHEDULE, **options: Any) -> tuple[ScheduledGrowth, Any]:
    model = llama()
    optimizer = adam(model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    return ScheduledGrowth(schedule, model, optimizer, sequence_length=LENGTH, **options), scheduler


def stripped(run: ScheduledGrowth) -> Any:
    """A run's state, without what a config says of the file that it was loaded from."""
    state = json.loads(json.dumps(run.state_dict()))
    for event in state["log"]["events"]:
        for config in (event["plan"]["source_config"], event["plan"]["target_config"]):
            for name in ("dtype", "transformers_version", "architectures"):
                config.pop(name, None)
    return state


def test_growths_come_when_they_are_due_and_leave_the_loss() -> None:
    run, scheduler = started()
    train(run, 0, STEPS, scheduler)
    assert [(e.stage, e.step, e.tokens) for e in run.log.events] == [
        (1, 4, 4 * BATCH * LENGTH), (2, 10, 10 * BATCH * LENGTH), (3, 14, 14 * BATCH * LENGTH)
    ]  # fmt: skip
    config = run.model.config
    assert {name: getattr(config, name) for name in WIDER} == {**WIDER, "intermediate_size": 37}
    assert config.num_hidden_layers == DEEPER["num_hidden_layers"]
    assert scheduler.optimizer is run.optimizer
    assert run.optimizer.param_groups[0]["lr"] < 1e-4
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.model.parameters()}
    assert run.log.next_stage is None


def test_the_loss_is_the_same_on_either_side_of_a_growth() -> None:
    run, _ = started()
    run.model.double()
    measured = batch(999)

    def measure(model: Any) -> float:
        with torch.no_grad():
            return float(loss_of(model, measured))

    for step in range(6):
        loss = loss_of(run.model, batch(step))
        loss.backward()
        run.optimizer.step()
        if run.after_step(loss=loss, tokens=BATCH * LENGTH):
            before = measure(run.model)
            grown = run.grow(measure)
            event = run.log.events[-1]
            assert event.loss_before == before
            assert event.loss_after == measure(grown)
            assert event.loss_after == pytest.approx(before, rel=1e-6)  # the class has norms and loss in float32
            with torch.no_grad():  # and the measure can tell: one source block changed
                grown.model.layers[0].mlp.down_proj.weight[0, 0] += 0.1
            assert abs(measure(grown) - before) > 1e-4
    assert len(run.log.events) == 1


@pytest.mark.parametrize("stop", [3, 4, 5, 9, 10, 13, 14, 17])
def test_a_resumed_run_is_the_one_that_was_not_stopped(stop: int, tmp_path: Path) -> None:
    whole, scheduler = started()
    losses = train(whole, 0, STEPS, scheduler)

    run, scheduler = started()
    train(run, 0, stop, scheduler)
    run.save(tmp_path)
    run.model.save_pretrained(tmp_path)
    torch.save({"optimizer": run.optimizer.state_dict(), "scheduler": scheduler.state_dict()}, tmp_path / "rest.pt")

    model = type(run.model).from_pretrained(tmp_path, attn_implementation="eager")
    optimizer = adam(model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    rest = torch.load(tmp_path / "rest.pt", weights_only=True)
    optimizer.load_state_dict(rest["optimizer"])
    scheduler.load_state_dict(rest["scheduler"])
    resumed = ScheduledGrowth(SCHEDULE, model, optimizer, sequence_length=LENGTH, state=tmp_path)
    assert train(resumed, stop, STEPS, scheduler) == losses[stop:]
    assert same(resumed.model, whole.model)
    assert stripped(resumed) == stripped(whole)


@pytest.mark.parametrize("lost", ["events", "flat", "updates"])
def test_a_run_resumed_without_part_of_its_state_is_another(lost: str, tmp_path: Path) -> None:
    """The test above can fail: each part of the state matters."""
    whole, _ = started()
    train(whole, 0, STEPS)
    run, _ = started()
    train(run, 0, 7)
    state = run.state_dict()
    if lost == "events":
        with pytest.raises(RequestError, match="repeats the sizes that the model has then"):
            ScheduledGrowth(SCHEDULE, run.model, run.optimizer)
        return
    if lost == "flat":
        state["log"]["flat"] = {"sum": 0.0, "steps": 0, "best": None, "waited": 0}
    else:
        state["updates"] = {**state["updates"], "regions": {}}
    model = copy.deepcopy(run.model)
    optimizer = adam(model)
    optimizer.load_state_dict(run.optimizer.state_dict())
    resumed = ScheduledGrowth(SCHEDULE, model, optimizer, sequence_length=LENGTH, state=state)
    train(resumed, 7, STEPS)
    assert not same(resumed.model, whole.model) or resumed.log.to_json() != whole.log.to_json()


def test_a_growth_is_neither_left_out_nor_repeated() -> None:
    run, _ = started()
    train(run, 0, 3)
    with pytest.raises(RequestError, match="no growth is due at step 3: grow when after_step returns a stage"):
        run.grow()
    assert run.after_step(loss=1.0, tokens=21) is SCHEDULE.stages[0]
    with pytest.raises(RequestError, match=r"stage 1 \(at step 4\) is due since step 4: grow before the next step"):
        run.after_step(loss=1.0, tokens=21)
    run.grow()
    with pytest.raises(RequestError, match="no growth is due at step 4"):
        run.grow()
    with pytest.raises(RequestError, match=r"stage 2 \(when flat: 2 windows of 2 steps .*\): the loss is needed"):
        run.after_step(tokens=21)


def test_a_stage_whose_time_went_by_comes_one_step_later() -> None:
    flat = WhenFlat(window=1, patience=1, min_delta=99.0, not_before=5)
    late = GrowthStage(at_step=2, sizes=DEEPER)
    run, _ = started(GrowthSchedule((GrowthStage(when_flat=flat, sizes={"intermediate_size": 31}), late)))
    train(run, 0, 8)
    assert [(e.stage, e.step) for e in run.log.events] == [(1, 5), (2, 6)]


def test_tokens_are_needed_where_a_stage_waits_for_them() -> None:
    run, _ = started(GrowthSchedule((GrowthStage(at_tokens=50, sizes=DEEPER),)))
    with pytest.raises(RequestError, match=r"stage 1 \(at 50 tokens\): tokens are needed with every step"):
        run.after_step(loss=1.0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 19}, r"stage 3 \(at step 9\): .*hidden_size.*20.*19"),
        ({"hiden_size": 40}, r"stage 3 \(at step 9\): .*hiden_size.*did you mean 'hidden_size'"),
        ({"num_attention_heads": 5}, r"stage 3 \(at step 9\): .*num_attention_heads"),
        ({"num_hidden_layers": 3}, r"stage 3 \(at step 9\): it repeats num_hidden_layers = 3"),
    ],
)
def test_a_wrong_third_stage_is_refused_before_the_first_step(sizes: dict, message: str) -> None:
    model = llama()
    optimizer, before = adam(model), copy.deepcopy(model)
    with pytest.raises(RequestError, match=message):
        ScheduledGrowth(
            GrowthSchedule(
                (
                    GrowthStage(at_step=2, sizes={"num_hidden_layers": 3}),
                    GrowthStage(at_step=5, sizes={"intermediate_size": 31}),
                    GrowthStage(at_step=9, sizes=sizes),
                )
            ),
            model,
            optimizer,
        )
    assert same(model, before)
    assert list(optimizer.param_groups[0]["params"]) == list(model.parameters())


def test_every_stage_starts_from_the_one_before() -> None:
    plans = growformer.plan_schedule(SCHEDULE, llama())
    config = growformer.plan_schedule(SCHEDULE, llama().config.to_dict() | {"architectures": ["LlamaForCausalLM"]})
    assert [p.num_parameters() for p in plans] == [p.num_parameters() for p in config]
    assert all(a.num_parameters()[1] == b.num_parameters()[0] for a, b in pairwise(plans))
    run, _ = started()
    train(run, 0, STEPS)
    configs = [{n: v for n, v in p.target_config.items() if n != "_name_or_path"} for p in plans]
    assert configs == [dict(e.plan["target_config"]) for e in run.log.events]


def test_a_schedule_may_change_in_what_has_not_happened() -> None:
    run, _ = started()
    train(run, 0, 6)
    later = GrowthSchedule((SCHEDULE.stages[0], GrowthStage(at_step=12, sizes=DEEPER)))
    resumed = ScheduledGrowth(later, run.model, run.optimizer, sequence_length=LENGTH, state=run.state_dict())
    assert resumed.log.next_stage == later.stages[1]
    with pytest.raises(RequestError, match=r"sequence_length = 9: the growth log counts FLOPs for sequences of 7, and"):
        ScheduledGrowth(SCHEDULE, run.model, run.optimizer, sequence_length=9, state=run.state_dict())
    other = GrowthSchedule((GrowthStage(at_step=3, sizes=WIDER), *SCHEDULE.stages[1:]))
    with pytest.raises(RequestError, match=r"stage 1 \(at step 4\) has happened already, at step 4, as .*Change later"):
        ScheduledGrowth(other, run.model, run.optimizer, state=run.state_dict())
    with pytest.raises(RequestError, match=r"the model has .*hidden_size = 20.*growth 1 made .*hidden_size = 30"):
        ScheduledGrowth(SCHEDULE, llama(), adam(llama()), state=run.state_dict())


def test_a_state_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing: missing; every checkpoint of a run with a growth schedule has one"):
        ScheduledGrowth(SCHEDULE, llama(), adam(llama()), state=tmp_path / "nothing")
    run, _ = started()
    train(run, 0, 2)
    run.save(tmp_path)
    run.after_step(loss=1.0, tokens=21)
    run.log.save(tmp_path)
    with pytest.raises(SourceError, match="the region updates are of step 2, the growth log of step 3; take both from"):
        ScheduledGrowth(SCHEDULE, run.model, run.optimizer, state=tmp_path)
    (tmp_path / "region_updates.json").unlink()
    with pytest.raises(SourceError, match=r"region_updates.json: missing"):
        ScheduledGrowth(SCHEDULE, run.model, run.optimizer, state=tmp_path)


def test_an_own_model_grows_by_its_declaration(tmp_path: Path) -> None:
    source = random_model(CONFIGS["final norm"])
    schedule = GrowthSchedule(
        (GrowthStage(at_step=1, sizes={"hidden_size": 8}), GrowthStage(at_step=2, sizes={"hidden_size": 11}))
    )
    how = reference_architecture(source.config.to_dict())
    run = ScheduledGrowth(schedule, source, torch.optim.AdamW(source.parameters()), architecture=how)
    assert run.after_step() is schedule.stages[0]
    run.grow()
    assert run.after_step() is schedule.stages[1]
    grown = run.grow()
    assert grown.config.hidden_size == 11
    run.save(tmp_path)
    assert GrowthLog.load(tmp_path).to_json() == run.log.to_json()
    assert same(growformer.replay(tmp_path, source), grown)


class Bare(ReferenceTransformer):
    """A model whose config cannot say what it is, as most people's own."""

    @property
    def config(self) -> Any:
        return SimpleNamespace(**{f.name: getattr(self.own, f.name) for f in fields(self.own)})

    @config.setter
    def config(self, config: ReferenceConfig) -> None:
        self.own = config


def test_a_model_without_a_config_resumes_from_the_log(tmp_path: Path) -> None:
    config = CONFIGS["final norm"].to_dict()
    how = {"architecture": reference_architecture(config), "build": lambda c: Bare(ReferenceConfig.from_dict(c))}
    model = Bare(CONFIGS["final norm"])
    first, second = {"hidden_size": 8}, {"hidden_size": 11}
    schedule = GrowthSchedule((GrowthStage(at_step=1, sizes=first), GrowthStage(at_step=3, sizes=second)))
    run = ScheduledGrowth(schedule, model, torch.optim.AdamW(model.parameters()), config=config, **how)
    assert run.after_step(loss=1.0)
    grown = run.grow(lambda model: float("nan"))
    assert (run.log.events[0].loss_before, run.log.events[0].loss_after) == (None, None)
    run.save(tmp_path)
    resumed = ScheduledGrowth(schedule, grown, torch.optim.AdamW(grown.parameters()), state=tmp_path, **how)
    assert resumed.after_step() is None
    assert resumed.after_step() is schedule.stages[1]
    assert resumed.grow().own.hidden_size == 11
    again = growformer.replay(resumed.log, model, config=config, build=how["build"])
    assert again.own.hidden_size == 11
    with pytest.raises(RequestError, match="the model has hidden_size = 5"):
        ScheduledGrowth(schedule, model, torch.optim.AdamW(model.parameters()), state=tmp_path, config=config, **how)


def muon_and_adamw(model: Any) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    rest = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    return [torch.optim.Muon(matrices, lr=1e-2), torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.97))]


def train_both(run: ScheduledGrowth, first: int, last: int) -> None:
    """Muon steps every time, AdamW every second: they have counted different steps."""
    for step in range(first, last):
        tokens = batch(step)
        run.model.zero_grad()
        loss = loss_of(run.model, tokens)
        loss.backward()
        for optimizer in run.optimizers[: 1 + step % 2]:
            optimizer.step()
        if run.after_step(loss=loss, tokens=tokens.numel()):
            run.grow()


@pytest.mark.parametrize("way", ["folder", "state"])
@pytest.mark.parametrize("stop", [6, 11])
def test_two_optimizers_grow_and_resume(way: str, stop: int, tmp_path: Path) -> None:
    model = llama()
    whole = ScheduledGrowth(SCHEDULE, model, muon_and_adamw(model))
    train_both(whole, 0, STEPS)
    assert [event.stage for event in whole.log.events] == [1, 2, 3]
    held = [p for optimizer in whole.optimizers for group in optimizer.param_groups for p in group["params"]]
    assert set(held) == set(whole.model.parameters())

    model = llama()
    run = ScheduledGrowth(SCHEDULE, model, iter(muon_and_adamw(model)))
    train_both(run, 0, stop)
    assert all(updates_of(o)._regions for o in run.optimizers)
    assert len({updates_of(o).steps for o in run.optimizers}) == 2
    run.save(tmp_path)
    finals = []
    for lost in (False, True):
        state: Any = tmp_path if way == "folder" else json.loads(json.dumps(run.state_dict()))
        if lost and way == "folder":
            saved = json.loads((tmp_path / "region_updates.json").read_text())
            (tmp_path / "region_updates.json").write_text(json.dumps({**saved, "regions": {}}))
        elif lost:
            state["updates"]["regions"] = {}
        model = copy.deepcopy(run.model)
        optimizers = muon_and_adamw(model)
        for optimizer, before in zip(optimizers, run.optimizers, strict=True):
            optimizer.load_state_dict(copy.deepcopy(before.state_dict()))
        resumed = ScheduledGrowth(SCHEDULE, model, optimizers, state=state)
        train_both(resumed, stop, STEPS)
        finals.append(same(resumed.model, whole.model))
    assert finals == [True, False]  # the regions count
    with pytest.raises(RequestError, match="this run has 2 optimizers: take them from its `optimizers`"):
        _ = resumed.optimizer


def test_optimizers_that_could_not_be_grown_are_refused_at_the_start() -> None:
    model = llama()
    with pytest.raises(RequestError, match="the optimizer does not belong to this model"):
        ScheduledGrowth(SCHEDULE, model, adam(llama()))
    with pytest.raises(RequestError, match="optimizers 0 and 1 both hold"):
        ScheduledGrowth(SCHEDULE, model, [adam(model), adam(model)])
    with pytest.raises(RequestError, match=r"expected a torch\.optim\.Optimizer or several"):
        ScheduledGrowth(SCHEDULE, model, "adam")  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="parameters that learn are in none of the optimizers") as caught:
        ScheduledGrowth(SCHEDULE, model, muon_and_adamw(model)[0])
    assert caught[0].filename == __file__


class Own(torch.optim.SGD):
    """An optimizer with a slot that torch does not have."""

    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            self.state[p].setdefault("own", torch.zeros_like(p)).add_(p.grad)


def test_a_slot_of_ones_own_grows_by_what_is_said_of_it() -> None:
    schedule = GrowthSchedule((GrowthStage(at_step=1, sizes=DEEPER),))
    for slots in ({"own": 1}, None):
        model = llama()
        run = ScheduledGrowth(schedule, model, Own(model.parameters(), lr=0.1), slots=slots)
        loss_of(model, batch(0)).backward()
        run.optimizer.step()
        assert run.after_step() is not None
        if slots is None:
            with pytest.raises(RequestError, match="own"):
                run.grow()
            assert run.model is model
            assert not run.log.events
        else:
            grown = run.grow()
            assert all("own" in run.optimizer.state[p] for p in grown.model.layers[0].parameters())


@pytest.fixture
def one_rank() -> Any:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_a_sharded_model_says_how_it_is_sharded(one_rank: Any, tmp_path: Path) -> None:
    def shard(model: Any) -> None:
        for layer in model.model.layers:
            torch.distributed.fsdp.fully_shard(layer, mesh=one_rank)
        torch.distributed.fsdp.fully_shard(model, mesh=one_rank)

    whole, _ = started()
    train(whole, 0, 6)
    model = llama()
    shard(model)
    with pytest.raises(RequestError, match=r"sharded; say how .*ScheduledGrowth\(..., parallelize=fn\)"):
        ScheduledGrowth(SCHEDULE, model, adam(model))
    run = ScheduledGrowth(SCHEDULE, model, adam(model), sequence_length=LENGTH, parallelize=shard)
    train(run, 0, 6)
    assert [e.step for e in run.log.events] == [4]
    for name, p in run.model.named_parameters():
        assert torch.allclose(p.full_tensor(), whole.model.get_parameter(name), atol=1e-5), name
    run.save(tmp_path)
    assert json.loads((tmp_path / "region_updates.json").read_text())["regions"].keys() == {
        name for name, p in whole.model.named_parameters() if updates_of(whole.optimizer).regions(p)
    }


def test_a_run_in_data_parallel_resumes_without_it(one_rank: Any, tmp_path: Path) -> None:
    """Names in the file are the model's own, and those of activation checkpointing are none of them."""
    whole, _ = started()
    train(whole, 0, 8)
    wrapped = torch.nn.parallel.DistributedDataParallel(llama())
    run = ScheduledGrowth(SCHEDULE, wrapped, adam(wrapped), sequence_length=LENGTH)
    train(run, 0, 6)
    run.save(tmp_path)
    regions = json.loads((tmp_path / "region_updates.json").read_text())["regions"]
    assert "model.layers.0.mlp.down_proj.weight" in regions
    assert regions.keys() <= dict(run.model.module.named_parameters()).keys()
    checkpointed = copy.deepcopy(run.model.module)
    layers = checkpointed.model.layers
    layers[0].mlp = checkpoint_wrapper(layers[0].mlp)
    models = (run.model.module, torch.nn.parallel.DistributedDataParallel(run.model.module), checkpointed)
    for model in map(copy.deepcopy, models):
        optimizer = adam(model)
        optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
        resumed = ScheduledGrowth(SCHEDULE, model, optimizer, sequence_length=LENGTH, state=tmp_path)
        train(resumed, 6, 8)
        for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_measure_that_fails_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """Of the model after: it has grown, and the log says so; of the one before: nothing has happened."""
    run, _ = started()
    train(run, 0, 3)
    loss_of(run.model, batch(3)).backward()
    run.optimizer.step()
    run.after_step(loss=1.0, tokens=21)
    before, calls = run.model, []

    def measure(model: Any) -> float:
        calls.append(model)
        if len(calls) != 2:
            raise RuntimeError("no memory")
        return 2.5

    with pytest.raises(RuntimeError, match="no memory"):
        run.grow(measure)
    assert run.model is before
    assert not run.log.events
    assert run.due is SCHEDULE.stages[0]
    with pytest.raises(RuntimeError, match="no memory"):
        run.grow(measure)
    assert run.model.config.hidden_size == WIDER["hidden_size"]
    assert [(e.stage, e.loss_before, e.loss_after) for e in run.log.events] == [(1, 2.5, None)]
    assert run.due is None
    with pytest.raises(RequestError, match="no growth is due"):
        run.grow()
    run.save(tmp_path)
    assert same(growformer.replay(tmp_path, before), growformer.replay(run.log, before))


def test_a_growth_that_makes_nothing_larger_is_refused_when_it_is_due() -> None:
    """The model was grown behind the run's back."""
    schedule = GrowthSchedule((GrowthStage(at_step=1, sizes=DEEPER),))
    run, _ = started(schedule)
    run.after_step(tokens=21)
    run.model, _ = growformer.grow(run.model, optimizer=run.optimizer, **DEEPER)
    with pytest.raises(RequestError, match="it repeats the sizes that the model has then"):
        run.grow()
    assert not run.log.events


def test_a_run_that_was_saved_before_its_growth_grows_when_it_is_resumed(tmp_path: Path) -> None:
    whole, _ = started()
    train(whole, 0, 6)
    run, _ = started()
    assert run.due is None
    train(run, 0, 3)
    run.optimizer.zero_grad()
    loss = loss_of(run.model, batch(3))
    loss.backward()
    run.optimizer.step()
    assert run.after_step(loss=loss, tokens=BATCH * LENGTH) is run.due is not None
    run.save(tmp_path)
    resumed = ScheduledGrowth(SCHEDULE, run.model, run.optimizer, sequence_length=LENGTH, state=tmp_path)
    assert resumed.due == SCHEDULE.stages[0]
    with pytest.raises(RequestError, match=r"is due since step 4: .*saved before a growth .* ask for `due` then"):
        resumed.after_step(loss=1.0, tokens=21)
    resumed.grow()
    train(resumed, 4, 6)
    assert same(resumed.model, whole.model)
