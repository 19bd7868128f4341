"""Checkpoints of torch.distributed.checkpoint grow on disk into what growth in memory gives."""

from __future__ import annotations

import copy
import json
import os
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from tests.distributed.models import make, step
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

import growformer
from growformer.execute import dcp as executor
from growformer.training.continuation import scale_updates

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def trained(name: str = "llama") -> tuple[Any, Any, dict[str, Any]]:
    model, sizes = make(name)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for seed in range(3):
        step(model, optimizer, seed)
    return model, optimizer, sizes


def saved(folder: Path, model: Any, optimizer: Any, *, flat: bool = False, **others: Any) -> Path:
    state, own = get_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=flat))
    dcp.save({"model": state, "optim": own, **others}, checkpoint_id=folder, no_dist=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    return folder


def loaded(folder: Path, model: Any, optimizer: Any, *, flat: bool = False, **others: Any) -> dict[str, Any]:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    state, own = get_state_dict(model, optimizer, options=options)
    found = {"model": state, "optim": own, **others}
    dcp.load(found, checkpoint_id=folder, no_dist=True)
    set_state_dict(model, optimizer, model_state_dict=state, optim_state_dict=own, options=options)
    return found


def fresh_like(model: Any, groups: int = 2) -> tuple[Any, Any]:
    torch.manual_seed(1)
    other = type(model)(copy.deepcopy(model.config))
    parts = [[p for p in other.parameters() if p.ndim > 1], [p for p in other.parameters() if p.ndim == 1]]
    return other, torch.optim.AdamW([{"params": part} for part in parts], lr=1.0)


@pytest.mark.parametrize(("name", "flat"), [("llama", False), ("llama", True), ("gpt2", False), ("gpt_oss", True)])
def test_growth_on_disk_equals_growth_in_memory(tmp_path: Path, name: str, flat: bool) -> None:
    model, optimizer, sizes = trained(name)
    average = {n: t * 0.5 for n, t in model.state_dict().items()}
    saved(tmp_path / "small", model, optimizer, flat=flat, step=17, ema=average, noise={"state": torch.arange(5)})
    out = tmp_path / "large"
    written = growformer.grow_checkpoint(tmp_path / "small", out, **sizes)
    grown, optimizer = growformer.grow(model, optimizer=optimizer, **sizes)
    other, fresh = fresh_like(grown)
    assert not torch.equal(next(other.parameters()), next(grown.parameters()))
    others = {"step": 0, "noise": {"state": torch.zeros(5, dtype=torch.int64)},
              "ema": {n: torch.zeros_like(t) for n, t in grown.state_dict().items()}}  # fmt: skip
    found = loaded(out, other, fresh, flat=flat, **others)
    for key, value in grown.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    for mine, theirs in zip(other.parameters(), grown.parameters(), strict=True):
        for slot, value in optimizer.state[theirs].items():
            assert torch.equal(fresh.state[mine][slot], value), slot
    assert [g["weight_decay"] for g in fresh.param_groups] == [0.01, 0.0]
    assert found["step"] == 17
    assert torch.equal(found["noise"]["state"], torch.arange(5))
    half, _ = make(name)
    half.load_state_dict(average)
    expected = growformer.grow(half, **sizes).state_dict()
    assert all(torch.equal(found["ema"][n], value) for n, value in expected.items())
    scale_updates(fresh, other, growformer.load_provenance(out).plan)
    losses = [(step(grown, optimizer, seed), step(other, fresh, seed)) for seed in range(4)]
    assert all(one == two for one, two in losses)
    assert set(written.tensors.values()) >= {"grown"}
    assert growformer.load_provenance(out).new_regions


def test_without_the_rules_for_what_is_new_the_run_differs(tmp_path: Path) -> None:
    model, optimizer, sizes = trained()
    growformer.grow_checkpoint(saved(tmp_path / "small", model, optimizer), tmp_path / "large", **sizes)
    grown, optimizer = growformer.grow(model, optimizer=optimizer, **sizes)
    other, fresh = fresh_like(grown)
    loaded(tmp_path / "large", other, fresh)
    losses = [(step(grown, optimizer, seed), step(other, fresh, seed)) for seed in range(4)]
    assert losses[0][0] == losses[0][1]
    assert losses[3][0] != losses[3][1]
    with pytest.raises(growformer.RequestError, match="pass the grown model"):
        scale_updates(fresh, model, growformer.load_provenance(tmp_path / "large").plan)


def test_state_policies(tmp_path: Path) -> None:
    model, optimizer, sizes = trained()
    saved(tmp_path / "small", model, optimizer)
    sizes = {"num_hidden_layers": 3}
    for policy in ("zero-new", "drop"):
        out = tmp_path / policy
        growformer.grow_checkpoint(tmp_path / "small", out, state=policy, new_layers_at=[1], **sizes)
        found = dcp.FileSystemReader(out).read_metadata().state_dict_metadata
        assert any(key.startswith("optim.state.") for key in found)
        assert any(key.startswith("optim.param_groups.") for key in found)
    one = {"optim": {"state": {f"model.layers.{n}.mlp.up_proj.weight": {
        "exp_avg": torch.ones(36, 24), "step": torch.ones(())} for n in range(3)}}}  # fmt: skip
    dcp.load(one, checkpoint_id=tmp_path / "zero-new", no_dist=True)
    slots = list(one["optim"]["state"].values())
    assert [float(slot["step"]) for slot in slots] == [3, 0, 3]
    assert [bool(slot["exp_avg"].any()) for slot in slots] == [True, False, True]


def test_growth_in_memory_is_saved_after_a_step(tmp_path: Path) -> None:
    """Before it, parameters that start anew have no state, so that what ``get_state_dict`` asks for is not there."""
    model, optimizer, _ = trained()
    grown, optimizer = growformer.grow(model, optimizer=optimizer, state="zero-new", num_hidden_layers=3)
    saved(tmp_path / "at once", grown, optimizer)
    with pytest.raises(dcp.api.CheckpointException, match="Missing key"):
        loaded(tmp_path / "at once", *fresh_like(grown))
    step(grown, optimizer)
    saved(tmp_path / "later", grown, optimizer)
    other, fresh = fresh_like(grown)
    loaded(tmp_path / "later", other, fresh)
    assert step(other, fresh) == step(grown, optimizer)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.NAdam, torch.optim.SGD])
def test_dropped_state_is_that_of_an_optimizer_before_its_first_step(tmp_path: Path, kind: Any, flat: bool) -> None:
    model, _, sizes = trained()
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(model.parameters(), lr=1e-2, **options)
    for seed in range(3):
        step(model, optimizer, seed)
    saved(tmp_path / "small", model, optimizer, flat=flat)
    finals = []
    for state in ("drop", "carry"):
        out = tmp_path / state
        growformer.grow_checkpoint(tmp_path / "small", out, state=state, **sizes)
        grown = growformer.grow(model, plan=growformer.load_provenance(out).plan)
        again = kind(grown.parameters(), lr=1e-2, **options)
        loaded(out, grown, again, flat=flat)
        anew = copy.deepcopy(grown)
        fresh = kind(anew.parameters(), lr=1e-2, **options)
        finals.append([(step(grown, again, seed), step(anew, fresh, seed)) for seed in range(4)])
    dropped, carried = finals
    assert all(one == other for one, other in dropped)
    assert carried[3][0] != carried[3][1]


def test_one_tensor_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, sizes = trained()
    saved(tmp_path / "small", model, optimizer)
    alive: list[Any] = []
    most = made = 0

    def counted(make: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> torch.Tensor:
            nonlocal most, made
            values = make(*args, **options)
            alive.append(weakref.ref(values))
            made += 1
            most = max(most, sum(found() is not None for found in alive))
            return values

        return wrapped

    monkeypatch.setattr(executor, "materialise_stored", counted(executor.materialise_stored))
    monkeypatch.setattr(executor, "grow_slot", counted(executor.grow_slot))
    growformer.grow_checkpoint(tmp_path / "small", tmp_path / "large", **sizes)
    assert made > 80
    assert most <= 2  # the one that was written may go while the next one comes


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, sizes = trained()
    saved(tmp_path / "small", model, optimizer)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(executor, "grow_slot", fail)
    with pytest.raises(growformer.OutputError, match="cannot be written: No space left on device"):
        growformer.grow_checkpoint(tmp_path / "small", tmp_path / "large", **sizes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, sizes = trained()
    small = saved(tmp_path / "small", model, optimizer)
    make = executor.grow_slot

    def meanwhile(*arguments: Any, **options: Any) -> torch.Tensor:
        file = next(small.glob("*.distcp"))
        os.utime(file, ns=(1, 1))
        return make(*arguments, **options)

    monkeypatch.setattr(executor, "grow_slot", meanwhile)
    with pytest.raises(growformer.SourceError, match="changed while it was read"):
        growformer.grow_checkpoint(small, tmp_path / "large", **sizes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    model, optimizer, sizes = trained()
    small = saved(tmp_path / "small", model, optimizer)

    def grow(**options: Any) -> Any:
        return growformer.grow_checkpoint(small, tmp_path / "large", **{**sizes, **options})

    with pytest.raises(growformer.RequestError, match=r"unknown state policy 'cary'.*did you mean 'carry'"):
        grow(state="cary")
    with pytest.raises(growformer.RequestError, match="is grown without dtype, threads"):
        grow(dtype="bfloat16", threads=2)
    with pytest.raises(growformer.OutputError, match="lies inside the source"):
        growformer.grow_checkpoint(small, small / "large", **sizes)
    plan = growformer.plan(small, **sizes)
    changed = copy.deepcopy(model)
    changed.config.rms_norm_eps = 0.1
    other = saved(tmp_path / "other", changed, torch.optim.SGD(changed.parameters()))
    (other / "config.json").write_text(json.dumps(changed.config.to_dict()))
    narrow, _ = make("gpt2")
    saved(tmp_path / "gpt2", narrow, torch.optim.SGD(narrow.parameters()))
    with pytest.raises(growformer.SourceError):
        growformer.grow_checkpoint(tmp_path / "gpt2", tmp_path / "large", plan=plan)
    (tmp_path / "large").mkdir()
    with pytest.raises(growformer.OutputError, match="exists already"):
        grow()
    (tmp_path / "large").rmdir()
    (small / "config.json").unlink()
    with pytest.raises(growformer.SourceError, match=r"config\.json: missing; put the model's config\.json beside"):
        grow()
    grow(config=model.config.to_dict())
    optimizer.state[next(model.parameters())]["unheard_of"] = torch.ones_like(next(model.parameters()))
    strange = saved(tmp_path / "strange", model, optimizer)
    with pytest.raises(growformer.RequestError, match=r"as in slots=\{'unheard_of': 1\}"):
        growformer.grow_checkpoint(strange, tmp_path / "larger", **sizes)
    assert not (tmp_path / "larger").exists()
    growformer.grow_checkpoint(strange, tmp_path / "larger", slots={"unheard_of": 1}, **sizes)


def test_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from growformer.cli.main import main

    model, optimizer, _ = trained()
    small, out = saved(tmp_path / "small", model, optimizer), tmp_path / "large"
    assert main(["grow", str(small), str(out), "--hidden-size", "48", "--threads", "2"]) == 2
    assert "is grown without --threads" in capfd.readouterr().err
    assert main(["grow", str(small), str(out), "--hidden-size", "48", "--ramp", "2"]) == 2
    assert "--ramp is for checkpoints of Trainer" in capfd.readouterr().err
    assert main(["grow", str(small), str(out), "--hidden-size", "48", "--optimizer-state", "omit"]) == 2
    assert "unknown state policy 'omit'" in capfd.readouterr().err
    assert main(["grow", str(small), str(out), "--hidden-size", "24"]) == 2
    assert "nothing grows" in capfd.readouterr().err
    config = (small / "config.json").rename(tmp_path / "config.json")
    assert main(["grow", str(small), str(out), "--hidden-size", "48"]) == 2
    assert "--config FILE" in capfd.readouterr().err
    assert not out.exists()
    assert main(["grow", str(small), str(out), "--hidden-size", "48", "--config", str(config)]) == 0
    said = capfd.readouterr()
    assert "20 tensors grown" in said.out
    assert not said.err
    grown, optimizer = growformer.grow(model, optimizer=optimizer, hidden_size=48)
    other, fresh = fresh_like(grown)
    loaded(out, other, fresh)
    assert all(torch.equal(one, two) for one, two in zip(other.parameters(), grown.parameters(), strict=True))
    dropped = ["--config", str(config), "--optimizer-state", "drop"]
    assert main(["grow", str(small), str(tmp_path / "x"), "--hidden-size", "48", *dropped]) == 0
    loaded(tmp_path / "x", other, fresh)
    assert not any(slots["exp_avg"].any() or slots["step"] for slots in fresh.state.values())
    assert len(fresh.state) == len(list(other.parameters()))
    assert main(["grow", str(config), str(tmp_path / "x"), "--hidden-size", "48", "--config", str(config)]) == 2
    assert "goes with a distributed checkpoint" in capfd.readouterr().err
