"""Growth in TensorBoard and in plots: what is written is read back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import DEEPER, LENGTH, WIDER, batch, llama, loss_of, train
from tests.training.test_stages import maker

import growformer
from growformer import GrowthLog, GrowthSchedule, GrowthStage, RequestError, ScheduledGrowth, SourceError

SCHEDULE = GrowthSchedule((GrowthStage(at_step=3, sizes=WIDER, seed=5), GrowthStage(at_step=6, sizes=DEEPER)))


def trained(**options: Any) -> ScheduledGrowth:
    model = llama()
    run = ScheduledGrowth(SCHEDULE, model, torch.optim.SGD(model.parameters(), lr=0.1), **options)
    for step in range(8):
        train_step(run, step)
    return run


def train_step(run: ScheduledGrowth, step: int) -> None:
    if step < 5:
        train(run, step, step + 1)
        return
    tokens = batch(step)
    loss = loss_of(run.model, tokens)
    run.optimizer.zero_grad()
    loss.backward()
    run.optimizer.step()
    if run.after_step(loss=loss, tokens=tokens.numel()):
        run.grow(lambda model: float(loss_of(model, tokens).detach()))


def read(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_has_every_growth(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        run = trained(writer=writer, sequence_length=LENGTH)
    found = read(tmp_path)
    first, second = run.log.events
    assert [(e.step, e.value) for e in found.Scalars("growth/parameters")] == [
        (3, first.parameters_before), (4, first.parameters_after),
        (6, second.parameters_before), (7, second.parameters_after),
    ]  # fmt: skip
    assert [e.value for e in found.Scalars("growth/stage")] == [1, 2]
    assert [e.value for e in found.Scalars("growth/flops")] == pytest.approx([first.flops, second.flops])
    assert [(e.step, e.value) for e in found.Scalars("growth/loss_after")] == [(6, pytest.approx(second.loss_after))]
    assert second.loss_after == pytest.approx(second.loss_before, rel=1e-5)
    text = found.Tensors("growth/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "Growth 1 at step 3, at step 3" in text
    assert "| hidden_size | 20 | 30 |" in text


def test_trainer_tells_its_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    make = maker(tmp_path / "out", max_steps=8, report_to="tensorboard", include_num_input_tokens_seen="no")
    _, log = growformer.train_in_stages(make, SCHEDULE, llama())
    values = {}
    for folder in {file.parent for file in (tmp_path / "board").rglob("events*")}:
        found = read(folder)
        if "growth/stage" in found.Tags()["scalars"]:
            values |= {e.step: e.value for e in found.Scalars("growth/stage")}
    assert values == {event.step: event.stage for event in log.events} == {3: 1, 6: 2}


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_plot_marks_every_growth(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = trained()
    run.save(tmp_path)
    file = growformer.plot_growth(tmp_path, tmp_path / f"one.{suffix}", title="A run")
    again = growformer.plot_growth(run.log, tmp_path / f"two.{suffix}", title="A run")
    assert file.read_bytes() == again.read_bytes()
    alone = GrowthLog.from_json({**run.log.to_json(), "events": []} | {"flat": None})
    assert growformer.plot_growth(alone, tmp_path / f"three.{suffix}").read_bytes() != again.read_bytes()
    both = growformer.plot_growth({"a": run.log, "b": tmp_path}, tmp_path / f"four.{suffix}")
    assert both.stat().st_size > file.stat().st_size


def test_the_marks_say_what_grew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text as text
    run = trained()
    text = growformer.plot_growth(run.log, tmp_path / "run.svg").read_text()
    assert "step 6: × 1.44 parameters, num_hidden_layers 2 → 3" in text
    assert "hidden_size 20 → 30" in text


def test_what_cannot_be_plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    run = trained()
    with pytest.raises(RequestError, match=r"one.txt: unknown format '.txt'; expected one of .*svg"):
        growformer.plot_growth(run.log, tmp_path / "one.txt")
    with pytest.raises(RequestError, match="the growth log a has no losses: pass loss= to after_step"):
        growformer.plot_growth({"a": GrowthLog(SCHEDULE)}, tmp_path / "one.svg")
    with pytest.raises(SourceError, match=r"growth_log.json: missing"):
        growformer.plot_growth(tmp_path, tmp_path / "one.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RequestError, match=r"a plot needs matplotlib; install it with pip install growformer\[plot\]"):
        growformer.plot_growth(run.log, tmp_path / "one.svg")
    assert not list(tmp_path.iterdir())
