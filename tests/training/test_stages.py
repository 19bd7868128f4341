"""Staged runs of Trainer: killed at any time and started again, they end bit for bit where an undisturbed one ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.training.runs import LENGTH, VOCAB, batch, llama, loss_of, same

import growformer
from growformer import (
    GrowformerError,
    GrowthLog,
    GrowthSchedule,
    GrowthStage,
    RequestError,
    SourceError,
    UpdateRules,
    WhenFlat,
)

STEPS = 14
SCHEDULE = GrowthSchedule(
    (
        GrowthStage(
            at_step=4,
            sizes={"hidden_size": 30, "num_attention_heads": 6, "num_key_value_heads": 3},
            seed=5,
            updates=UpdateRules(new_rate=1.5, ramp=3),
        ),
        GrowthStage(when_flat=WhenFlat(window=2, patience=1, min_delta=9.0), sizes={"num_hidden_layers": 3}),
        GrowthStage(at_tokens=(11 * 2 - 1) * LENGTH, sizes={"intermediate_size": 31}),
    )
)
ROWS = [{"input_ids": row, "labels": row} for row in batch(0).repeat(7, 1)[:19]]
for number, row in enumerate(ROWS):
    row["input_ids"] = row["labels"] = (row["input_ids"] + number) % VOCAB


class Killed(Exception):
    pass


class Kill(transformers.TrainerCallback):
    """Ends a run as a signal would: in the middle of a step, or after a checkpoint's weights are written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def maker(folder: Path, kill: int | None = None, **options: Any) -> Callable[[Any], Any]:
    def make_trainer(model: Any) -> Any:
        args = transformers.TrainingArguments(
            **{
                "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": 2, "learning_rate": 1e-2,
                "lr_scheduler_type": "cosine", "warmup_steps": 2, "weight_decay": 0.1, "logging_steps": 1,
                "save_steps": 3, "report_to": "none", "disable_tqdm": True, "use_cpu": True, "seed": 11,
                "include_num_input_tokens_seen": "all", "dataloader_pin_memory": False, **options,
            }
        )  # fmt: skip
        callbacks = [Kill(kill)] if kill is not None else []
        return transformers.Trainer(model=model, args=args, train_dataset=ROWS, callbacks=callbacks)

    return make_trainer


def run(folder: Path, kill: int | None = None, schedule: GrowthSchedule = SCHEDULE, **options: Any) -> Any:
    return growformer.train_in_stages(
        maker(folder, kill, **options), schedule, llama(attention_dropout=0.2), sequence_length=LENGTH
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, GrowthLog]:
    folder = tmp_path_factory.mktemp("whole")
    return (folder, *run(folder))


def test_a_run_grows_where_it_should_and_goes_on(whole: tuple[Path, Any, GrowthLog]) -> None:
    folder, trainer, log = whole
    assert [(e.stage, e.step) for e in log.events] == [(1, 4), (2, 8), (3, 11)]
    assert trainer.state.global_step == STEPS
    config = trainer.model.config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (30, 3, 31)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in history] == list(range(1, STEPS + 1))
    rates = {entry["step"]: entry["learning_rate"] for entry in history}
    alone = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    schedule = transformers.get_scheduler("cosine", alone, num_warmup_steps=2, num_training_steps=STEPS)
    expected = {}
    for step in range(1, STEPS + 1):
        expected[step] = schedule.get_last_lr()[0]
        alone.step()
        schedule.step()
    assert rates == pytest.approx(expected)
    assert GrowthLog.load(folder / f"checkpoint-{STEPS}").to_json() == log.to_json()
    assert log.tokens == (STEPS * 2 - 1) * LENGTH  # 19 rows by two: the tenth batch has one
    assert log.flops == log.ledger.total
    assert {p.name for p in folder.iterdir()} >= {"grown-4", "grown-8", "grown-11", "checkpoint-14"}
    assert not list(folder.glob("*.part"))
    loaded = type(trainer.model).from_pretrained(folder / f"checkpoint-{STEPS}")
    assert same(loaded, trainer.model)


@pytest.mark.parametrize("kill", [2, 4, 5, 9, 12])
def test_a_killed_run_ends_where_an_undisturbed_one_does(
    kill: int, whole: tuple[Path, Any, GrowthLog], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, kill)
    trainer, log = run(tmp_path)
    assert same(trainer.model, whole[1].model)
    assert log.to_json()["curve"] == whole[2].to_json()["curve"]
    assert [e.step for e in log.events] == [4, 8, 11]
    assert log.to_json() == whole[2].to_json()


@pytest.mark.parametrize(("at", "left"), [("grow_checkpoint", []), ("begin_stage", ["grown-4.part"])])
def test_a_run_killed_within_a_growth_does_it_again(
    at: str, left: list[str], whole: tuple[Path, Any, GrowthLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"growformer.runs.grown_stage.{at}", stop)
        with pytest.raises(Killed):
            run(tmp_path)
    assert {p.name for p in tmp_path.iterdir() if p.name[0] != "."} == {"checkpoint-3", "checkpoint-4", *left}
    trainer, _ = run(tmp_path)
    assert same(trainer.model, whole[1].model)
    assert not list(tmp_path.glob("*.part"))


def test_a_checkpoint_that_was_not_finished_is_left_out(whole: tuple[Path, Any, GrowthLog], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, 7)
    newest = tmp_path / "checkpoint-6" / "trainer_state.json"
    newest.write_text(newest.read_text()[:200])
    trainer, _ = run(tmp_path)
    assert same(trainer.model, whole[1].model)


def test_the_same_call_on_a_finished_run_changes_nothing(whole: tuple[Path, Any, GrowthLog], tmp_path: Path) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "run")
    trainer, log = run(folder)
    assert same(trainer.model, whole[1].model)
    assert log.to_json() == whole[2].to_json()


def test_a_run_of_epochs_that_accumulates(tmp_path: Path) -> None:
    schedule = GrowthSchedule((GrowthStage(at_step=5, sizes={"num_hidden_layers": 3}),))
    options = {"max_steps": -1, "gradient_accumulation_steps": 3, "save_steps": 2}  # 4 steps an epoch
    with pytest.raises(RequestError, match=r"stage 1 \(at step 5\): the run ends at step 4"):
        run(tmp_path, schedule=schedule, num_train_epochs=1, **options)
    trainer, log = run(tmp_path / "whole", schedule=schedule, num_train_epochs=2, **options)
    assert (trainer.state.global_step, log.step, log.events[0].step) == (8, 8, 5)
    for kill in (3, 6):
        with pytest.raises(Killed):
            run(tmp_path / f"killed at {kill}", kill, schedule, num_train_epochs=2, **options)
        again, _ = run(tmp_path / f"killed at {kill}", schedule=schedule, num_train_epochs=2, **options)
        assert same(again.model, trainer.model)


def test_older_checkpoints_may_go(whole: tuple[Path, Any, GrowthLog], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, 9, save_total_limit=2)
    trainer, _ = run(tmp_path, save_total_limit=2)
    assert same(trainer.model, whole[1].model)
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2


def test_callbacks_that_trainer_restores_go_on_as_well(whole: tuple[Path, Any, GrowthLog], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, 7, restore_callback_states_from_checkpoint=True)
    trainer, log = run(tmp_path, restore_callback_states_from_checkpoint=True)
    assert same(trainer.model, whole[1].model)
    assert log.to_json() == whole[2].to_json()


def test_what_is_lost_would_be_seen(whole: tuple[Path, Any, GrowthLog], tmp_path: Path) -> None:
    """The comparisons above can fail: the region updates and the seed of a growth both matter."""
    with pytest.raises(Killed):
        run(tmp_path / "updates", 5)
    file = tmp_path / "updates" / "grown-4" / "region_updates.json"
    data = json.loads(file.read_text())
    assert data["regions"]
    file.write_text(json.dumps({**data, "regions": {}}))
    trainer, _ = run(tmp_path / "updates")
    assert not same(trainer.model, whole[1].model)


def test_the_loss_is_measured_on_either_side(tmp_path: Path) -> None:
    def measure(model: Any) -> float:
        assert not model.training
        return float(loss_of(model, batch(77)))

    schedule = GrowthSchedule(SCHEDULE.stages[:1])
    _, log = growformer.train_in_stages(maker(tmp_path, max_steps=6), schedule, llama().double(), measure=measure)
    (event,) = log.events
    assert event.loss_after == pytest.approx(event.loss_before, rel=1e-6)  # the class has norms and loss in float32
    assert log.flops is None


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "end": ({"max_steps": 4}, r"stage 1 \(at step 4\): the run ends at step 4; grow earlier"),
    "tokens": ({"include_num_input_tokens_seen": "no"}, r"stage 3 \(at 147 tokens\): Trainer counts no tokens; set"),
    "only model": ({"save_only_model": True}, "save_only_model leaves out the optimizer"),
    "one checkpoint": ({"save_total_limit": 1}, "save_total_limit = 1: a run that is killed"),
    "data": ({"ignore_data_skip": True}, "ignore_data_skip would begin the data anew"),
    "logs": ({"logging_steps": 2}, r"stage 2 \(when flat.*make save_steps = 3 a multiple of logging_steps = 2"),
    "no logs": ({"logging_strategy": "no"}, r"stage 2 .*set logging_strategy='steps'"),
    "best": (
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3},
        "load_best_model_at_end may load a checkpoint of another size",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_arguments_that_do_not_go_with_growth(name: str, tmp_path: Path) -> None:
    options, message = WRONG[name]
    if name == "best":
        make = maker(tmp_path, **options)

        def make_trainer(model: Any) -> Any:
            return transformers.Trainer(model=model, args=make_args(make), train_dataset=ROWS, eval_dataset=ROWS)

        def make_args(make: Any) -> Any:
            return transformers.TrainingArguments(
                output_dir=str(tmp_path), max_steps=STEPS, report_to="none", use_cpu=True, save_steps=3, **options
            )

        with pytest.raises(RequestError, match=message):
            growformer.train_in_stages(make_trainer, SCHEDULE, llama())
        return
    with pytest.raises(RequestError, match=message):
        run(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_wrong_stage_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    schedule = GrowthSchedule((*SCHEDULE.stages, GrowthStage(at_step=13, sizes={"num_attention_heads": 7})))
    with pytest.raises(RequestError, match=r"stage 4 \(at step 13\): .*num_attention_heads"):
        run(tmp_path, schedule=schedule)
    assert not list(tmp_path.iterdir())


def test_another_schedule_or_run_in_the_same_folder(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, 6)
    other = GrowthSchedule((GrowthStage(at_step=4, sizes={"num_hidden_layers": 4}),))
    with pytest.raises(RequestError, match=r"stage 1 \(at step 4\) has happened already, at step 4"):
        run(tmp_path, schedule=other)
    log = GrowthLog.load(tmp_path / "checkpoint-6")
    log.step = 5
    log.save(tmp_path / "checkpoint-6")
    with pytest.raises(SourceError, match=r"checkpoint-6: trainer_state.json is of step 6, growth_log.json of step 5"):
        run(tmp_path)
    for file in tmp_path.glob("checkpoint-*/growth_log.json"):
        file.unlink()
    with pytest.raises(RequestError, match=r"checkpoint-6 has no growth_log.json: it is of a run without a schedule"):
        run(tmp_path)


def test_a_grown_checkpoint_that_is_left_over_is_not_taken(whole: tuple[Path, Any, GrowthLog], tmp_path: Path) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "run")
    for old in folder.glob("checkpoint-*"):
        if int(old.name.removeprefix("checkpoint-")) > 6:
            shutil.rmtree(old)
    with pytest.raises(RequestError, match="grown-11 is left over from a run whose checkpoint-11 is gone; remove it"):
        run(folder)
    for old in (*folder.glob("grown-11"), *folder.glob("grown-8")):
        shutil.rmtree(old)
    trainer, _ = run(folder)
    assert same(trainer.model, whole[1].model)
    for old in folder.glob("checkpoint-*"):
        shutil.rmtree(old)
    with pytest.raises(RequestError, match="grown-11 is left over"):
        run(folder)


@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_a_broken_optimizer_is_named(content: bytes | None, tmp_path: Path) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("growformer.runs.stages.write_grown", stop)
        with pytest.raises(Killed):
            run(tmp_path)
    file = tmp_path / "checkpoint-4" / "optimizer.pt"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(GrowformerError, match=r"optimizer.pt"):
        run(tmp_path)
    assert not list(tmp_path.glob("grown-*"))
