"""``growformer grow`` on a checkpoint of Trainer: the options reach the files, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.cli.support import Ran
from tests.training.trainer_runs import random_model, trainer_of


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    trainer_of(random_model("llama"), output, steps=3, every=3).train()
    return output / "checkpoint-3"


def test_state_grows_and_notes_say_how_to_go_on(checkpoint: Path, tmp_path: Path, run: Callable[..., Ran]) -> None:
    ran = run("grow", checkpoint, tmp_path / "out", "--num-hidden-layers", 4, "--intermediate-size", 47)
    assert ran.code == 0, ran.err
    text = " ".join(ran.out.split())
    assert "Training goes on from step 3: load the model from OUT, and call Trainer.train(resume" in text
    assert "growformer.RegionUpdatesCallback(OUT) among Trainer's callbacks keeps to it" in text
    after = torch.load(tmp_path / "out" / "optimizer.pt", weights_only=True)
    assert [len(group["params"]) for group in after["param_groups"]] == [30, 9]
    assert len(after["state"]) == 39


def test_rules_are_options(checkpoint: Path, tmp_path: Path, run: Callable[..., Ran]) -> None:
    ran = run(
        "grow", checkpoint, tmp_path / "out", "--hidden-size", 36, "--optimizer-state", "zero-new", "--new-rate", 1.5,
        "--ramp", 7, "--new-decay", 0.25, "--freeze-old", "--update-policy", "function_space", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json()["files"]["optimizer.pt"] == "grown: zero-new"
    assert len(ran.json()["notes"]) == 2
    saved = json.loads((tmp_path / "out" / "region_updates.json").read_text())
    regions = [region for some in saved["regions"].values() for region in some]
    new = {(r["rate"], r["ramp"], r["decay"]) for r in regions if not r["frozen"]}
    assert new == {(1.5, 7, 0.25)}
    assert any(r["frozen"] and r["rate"] != 1 for r in regions)  # old ones, at the speed of the function


def test_the_state_can_stay_behind(checkpoint: Path, tmp_path: Path, run: Callable[..., Ran]) -> None:
    ran = run("grow", checkpoint, tmp_path / "out", "--num-hidden-layers", 4, "--optimizer-state", "omit")
    assert ran.code == 0, ran.err
    assert "optimizer.pt: the state of an optimizer, of the source's sizes" in " ".join(ran.out.split())


def test_padding_takes_the_state_along(checkpoint: Path, tmp_path: Path, run: Callable[..., Ran]) -> None:
    ran = run("pad", checkpoint, tmp_path / "out", "--multiple-of", 16)
    assert ran.code == 0, ran.err
    assert (tmp_path / "out" / "optimizer.pt").exists()
    assert "Training goes on from step 3" in " ".join(ran.out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--optimizer-state", "cary"),
            "expected one of carry, zero-new, drop, omit, found 'cary'; did you mean 'carry'?",
        ),
        (("--new-rate", "fast"), "expected a number, found 'fast'"),
        (("--new-rate", "-1"), "expected 0 or more"),
        (("--optimizer-state", "omit", "--ramp", "3"), "which state='omit' leaves behind"),
    ],
)
def test_wrong_options(
    checkpoint: Path, tmp_path: Path, run: Callable[..., Ran], options: tuple[str, ...], message: str
) -> None:
    ran = run("grow", checkpoint, tmp_path / "out", "--num-hidden-layers", 4, *options)
    assert ran.code == 2
    assert message in " ".join(ran.err.split())
    assert not list(tmp_path.iterdir())


def test_options_for_a_model_without_training_state(llama: Path, tmp_path: Path, run: Callable[..., Ran]) -> None:
    ran = run("grow", llama, tmp_path / "out", "--num-hidden-layers", 4, "--optimizer-state", "carry")
    assert ran.code == 2
    assert "no training state to grow: expected a checkpoint of Trainer" in " ".join(ran.err.split())
