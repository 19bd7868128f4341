"""A layer inserted in the middle, saved, killed, resumed through stock Trainer: the run is the one not killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.trainer_runs import differences, load, losses_of, optimizer_of, random_model, states_of, trainer_of

import growformer
from growformer import OutputError, SourceError, updates_of
from growformer.execute import saved_optimizer
from growformer.training import trainer_checkpoint

ROOT = Path(__file__).resolve().parents[2]
GROWTH = {"hidden_size": 36, "num_hidden_layers": 4, "new_layers_at": [1]}
KILLED = """
import os, signal, sys
from pathlib import Path
import transformers
import growformer
from tests.training.trainer_runs import load, trainer_of

class Kill(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 9:
            os.kill(os.getpid(), signal.SIGKILL)

folder, output = map(Path, sys.argv[1:])
callbacks = [growformer.RegionUpdatesCallback(folder), Kill()]
trainer_of(load(folder), output, steps=12, every=2, callbacks=callbacks).train(resume_from_checkpoint=str(folder))
"""


KILLED_WHILE_WRITING = """
import os, signal, sys
import growformer
from growformer.execute import saved_optimizer

def save(*_):
    os.kill(os.getpid(), signal.SIGKILL)

saved_optimizer.torch.save = save
growformer.grow_checkpoint(sys.argv[1], sys.argv[2], hidden_size=36, num_hidden_layers=4, new_layers_at=[1])
"""


def killed(script: str, *arguments: Path) -> bool:
    """Run a script in a process of its own, and tell whether SIGKILL ended it."""
    paths = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, env=environment)
    return ended.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("source")
    trainer_of(random_model("llama"), output, steps=12, every=2).train()
    return output / "checkpoint-6"


def resumed(folder: Path, output: Path, callback: Any) -> Any:
    made = trainer_of(load(folder), output, steps=12, every=2, callbacks=[callback] if callback else [])
    made.train(resume_from_checkpoint=str(folder))
    return made


def test_killed_and_resumed_is_the_run_that_was_not(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    growformer.grow_checkpoint(source, out, **GROWTH)
    model = load(source)
    model, optimizer = growformer.grow(model, optimizer=optimizer_of(source, model), **GROWTH)
    again = load(out)
    assert not differences(states_of(optimizer_of(out, again), again), states_of(optimizer, model))

    whole = resumed(out, tmp_path / "whole", growformer.RegionUpdatesCallback(out))
    assert killed(KILLED, out, tmp_path / "cut")
    last = tmp_path / "cut" / "checkpoint-8"
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["checkpoint-8"]
    # The same script again: of the folder that it names and the one that Trainer is at, the step decides.
    cut = resumed(last, tmp_path / "cut", growformer.RegionUpdatesCallback(out))

    assert losses_of(cut) == losses_of(whole)
    assert len(losses_of(cut)) == 12
    assert all(torch.equal(p, cut.model.get_parameter(name)) for name, p in whole.model.named_parameters())
    assert not differences(states_of(cut.optimizer, cut.model), states_of(whole.optimizer, whole.model))

    without = resumed(last, tmp_path / "without", None)
    assert losses_of(without)[:9] == losses_of(whole)[:9]
    assert losses_of(without) != losses_of(whole)


def test_the_callback_says_where_it_looked(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no region updates of step 6.*looked in .*checkpoint-6 \(no region_updates"):
        resumed(source, tmp_path / "out", growformer.RegionUpdatesCallback(source))
    with pytest.warns(UserWarning, match="all that is trained shares the optimizer's step count"):
        resumed(source, tmp_path / "out", growformer.RegionUpdatesCallback())


def test_the_callback_finds_what_arguments_name(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    growformer.grow_checkpoint(source, out, **GROWTH)
    one = resumed(out, tmp_path / "one", growformer.RegionUpdatesCallback(out))
    callback = growformer.RegionUpdatesCallback()
    other = trainer_of(load(out), tmp_path / "other", steps=12, callbacks=[callback], resume_from_checkpoint=str(out))
    other.train(resume_from_checkpoint=str(out))
    assert losses_of(one) == losses_of(other)


def test_regions_of_the_model_before_a_growth_are_not_taken(source: Path, tmp_path: Path) -> None:
    """Of the same step, and with names that a deeper model has as well, for other layers."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    growformer.grow_checkpoint(source, once, intermediate_size=47)
    resumed(once, tmp_path / "out", growformer.RegionUpdatesCallback(once))
    before = tmp_path / "out" / "checkpoint-8"
    growformer.grow_checkpoint(before, twice, num_hidden_layers=4, new_layers_at=[1])
    regions = json.loads((before / "region_updates.json").read_text())["regions"]
    assert regions
    assert regions.keys() < dict(load(twice).named_parameters()).keys()
    trainers = [trainer_of(load(folder), tmp_path / "out") for folder in (before, twice)]
    for trainer, folder in zip(trainers, (before, twice), strict=True):
        trainer.create_optimizer()
        trainer.state.global_step = 8
        given = {"model": trainer.model, "optimizer": trainer.optimizer}
        if folder == before:  # the output folder has those of this model, and none of the other
            growformer.RegionUpdatesCallback().on_train_begin(trainer.args, trainer.state, trainer.control, **given)
        else:
            message = r"no region updates of step 8, .*checkpoint-8 \(of a model with other parameters\)"
            with pytest.warns(UserWarning, match=message):
                growformer.RegionUpdatesCallback().on_train_begin(trainer.args, trainer.state, trainer.control, **given)
        assert bool(updates_of(trainer.optimizer).regions_of(trainer.model)) == (folder == before)
        other = growformer.RegionUpdatesCallback(twice if folder == before else before)
        trainer.args.output_dir = str(tmp_path / "elsewhere")
        with pytest.raises(SourceError, match="of a model with other parameters"):
            other.on_train_begin(trainer.args, trainer.state, trainer.control, **given)


def test_a_checkpoint_of_step_0_has_rules_too(tmp_path: Path) -> None:
    trainer = trainer_of(random_model("llama"), tmp_path / "source", every=1)
    trainer.create_optimizer_and_scheduler(8)
    trainer.state.train_batch_size, trainer.state.max_steps = 4, 8
    trainer._save_checkpoint(trainer.model, None)
    source, grown = tmp_path / "source" / "checkpoint-0", tmp_path / "grown"
    growformer.grow_checkpoint(source, grown, updates=growformer.UpdateRules(freeze_old=True), **GROWTH)
    moved = {}
    for used in (True, False):
        callbacks = [growformer.RegionUpdatesCallback(grown if used else None)]
        made = trainer_of(load(grown), tmp_path / f"out-{used}", steps=2, callbacks=callbacks)
        made.train(resume_from_checkpoint=str(grown))
        name = "model.layers.0.mlp.up_proj.weight"
        rows, columns = load(source).get_parameter(name).shape
        before, after = (model.get_parameter(name)[:rows, :columns] for model in (load(grown), made.model))
        moved[used] = not torch.equal(before, after)
    assert moved == {True: False, False: True}
    made = trainer_of(load(grown), tmp_path / "fresh", callbacks=[growformer.RegionUpdatesCallback(tmp_path)])
    with pytest.raises(SourceError, match="no region updates of step 0"):
        made.train()


def test_a_growth_that_is_killed_leaves_nothing_and_can_be_repeated(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    assert killed(KILLED_WHILE_WRITING, source, out)
    assert [path.name for path in tmp_path.iterdir()] == [".grown.partial"]
    assert not (tmp_path / ".grown.partial" / "config.json").exists()
    grown = growformer.grow_checkpoint(source, out, **GROWTH)
    assert "an earlier run had finished 1 of the shards" in grown.resumed
    other = growformer.grow_checkpoint(source, tmp_path / "other", **GROWTH)
    one, two = (torch.load(g.path / "optimizer.pt", weights_only=True)["state"] for g in (grown, other))
    assert not differences({str(n): s for n, s in one.items()}, {str(n): s for n, s in two.items()})
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_full_disk_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def failed(*_: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    out = tmp_path / "grown"
    with monkeypatch.context() as patched:
        patched.setattr(saved_optimizer.os, "posix_fallocate", full)
        with pytest.raises(OutputError, match="cannot be written: No space left on device"):
            growformer.grow_checkpoint(source, out, **GROWTH)
    assert not out.exists()
    with monkeypatch.context() as patched:
        patched.setattr(saved_optimizer.torch, "save", failed)
        with pytest.raises(OutputError, match=r"optimizer.pt: cannot be written: PytorchStreamWriter failed writing"):
            growformer.grow_checkpoint(source, out, **GROWTH)
    assert not out.exists()
    grown = growformer.grow_checkpoint(source, out, **GROWTH)  # goes on from what was kept of the weights
    assert "an earlier run had finished 1 of the shards" in grown.resumed
    assert [path.name for path in tmp_path.iterdir()] == ["grown"]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_state_that_changes_meanwhile(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = trainer_checkpoint.TrainerCheckpoint.prepare

    def slow(self: Any) -> int:
        found = prepare(self)
        os.utime(source / "optimizer.pt")
        return found

    monkeypatch.setattr(trainer_checkpoint.TrainerCheckpoint, "prepare", slow)
    with pytest.raises(SourceError, match=r"optimizer.pt: changed while it was read"):
        growformer.grow_checkpoint(source, tmp_path / "grown", **GROWTH)
    assert not (tmp_path / "grown").exists()
