"""The progressive-training examples run, grow as they say, and show what they measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from examples import debian, progressive_vit
from examples.progressive_lm import corpus as corpora
from examples.progressive_lm import curves, record, train
from examples.progressive_lm.arms import ARMS
from examples.progressive_lm.settings import SETTINGS

from growformer import updates_of
from growformer.training.regions import Fade

SETTING = replace(
    SETTINGS["small"],
    start={"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 3,
           "num_key_value_heads": 3},
    growths=((0.35, {"num_hidden_layers": 4}), (0.6, {"hidden_size": 48, "intermediate_size": 80,
             "num_attention_heads": 6, "num_key_value_heads": 6})),
    fixed={"head_dim": 8, "vocab_size": 256, "max_position_embeddings": 16, "tie_word_embeddings": False},
    steps=20, sequences=4, length=12, log_every=5, held_out=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus() -> corpora.Corpus:
    text = torch.randint(97, 110, (5000,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return corpora.Corpus(text[:4000], text[4000:], "random")


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_and_grows_as_it_says(arm: str, corpus: corpora.Corpus) -> None:
    steps = train.matched_steps(SETTING) if ARMS[arm].matched else SETTING.steps
    curve = train.train(ARMS[arm], 1, SETTING, corpus, steps)
    assert [g["step"] for g in curve.growths] == ([7, 12] if ARMS[arm].grow else [])
    jumps = [abs(g["after"] - g["before"]) for g in curve.growths]
    if arm == "stacked":
        assert jumps[0] > 1e-4
    assert all(jump < 1e-5 for jump in jumps[arm == "stacked" :])
    assert [point[0] for point in curve.points] == sorted({*range(5, steps + 1, 5), steps})
    again = train.train(ARMS[arm], 1, SETTING, corpus, steps)
    assert [point[4] for point in again.points] == [point[4] for point in curve.points]
    other = train.train(ARMS[arm], 2, SETTING, corpus, steps)
    assert other.points[-1][4] != curve.points[-1][4]


def test_only_the_arms_that_say_so_fade_in() -> None:
    """What a step changes on the quiet is not seen in any loss at growth: stacked layers that fade in on top of it."""
    for name, arm in ARMS.items():
        if arm.grow is None:
            continue
        model = train.build({**SETTING.fixed, **SETTING.start}, 0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        tokens = torch.randint(0, 256, (2, 8))
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        grown, optimizer = arm.grow(model, optimizer, {"num_hidden_layers": 4})
        fades = [r for p in grown.parameters() for r in updates_of(optimizer).regions(p) if isinstance(r, Fade)]
        assert bool(fades) == (name in ("grown", "split")), name


def test_scratch_is_stopped_where_the_grown_arms_flops_are_spent(corpus: corpora.Corpus) -> None:
    steps = train.matched_steps(SETTING)
    spent = {
        arm: train.train(ARMS[arm], 0, SETTING, corpus, count).points[-1][2]
        for arm, count in (("grown", SETTING.steps), ("matched", steps), ("scratch", SETTING.steps))
    }
    assert spent["matched"] == pytest.approx(spent["grown"], rel=0.5 / steps)
    assert spent["scratch"] > 1.3 * spent["grown"]


def test_split_refuses_what_is_no_doubling(corpus: corpora.Corpus) -> None:
    wrong = replace(SETTING, growths=((0.5, {"hidden_size": 40}),))
    with pytest.raises(SystemExit, match="hidden_size is to become another multiple"):
        train.train(ARMS["split"], 0, wrong, corpus, 4)


def test_results_are_kept_shown_and_drawn(
    corpus: corpora.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "SETTINGS", {"tiny": SETTING})
    monkeypatch.setattr(record, "load", lambda name: corpus)
    for arm in ("scratch", "grown"):
        for seed in (0, 1):
            record.run("tiny", {}, arm, seed, 1, tmp_path, "a command")
    kept = json.loads((tmp_path / "grown-1.json").read_text())
    assert kept["command"] == "a command"
    assert kept["corpus_sha256"] == "random"
    results = curves.read(tmp_path)
    assert list(results) == ["scratch", "grown"]
    rows = curves.table(results).splitlines()
    assert len(rows) == 4
    assert "± " in rows[3]
    assert curves.draw(results, tmp_path / "curves.svg")
    assert ARMS["grown"].says in (tmp_path / "curves.svg").read_text()


def test_corpora_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="unknown corpus 'engish': expected english or code"):
        corpora.load("engish")
    code = corpora.load("code")
    assert len(code.train) > 5 * len(code.validation) > 0
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="there is no apt-get here; take another"):
        debian.folder_of("no-such-package", str(tmp_path / "none"), "; take another")


def test_the_vit_grows_without_a_jump(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = torch.Generator().manual_seed(0)

    def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(count, 1, 28, 28, generator=numbers), torch.randint(10, (count,), generator=numbers)

    monkeypatch.setattr(progressive_vit, "BATCH", 8)
    data: dict[str, Any] = {"train": images(64), "test": images(32)}
    points = progressive_vit.train(data, grows=True, steps=10, seed=0)
    said = [line for line in capsys.readouterr().out.splitlines() if "->" in line]
    assert len(said) == 2
    for line in said:
        before, after = (float(text) for text in line.rsplit("loss ", 1)[1].split(" -> "))
        assert after == pytest.approx(before, abs=2e-6)
    assert points[-1]["flops"] < progressive_vit.train(data, grows=False, steps=10, seed=0)[-1]["flops"]
