"""A Trainer checkpoint grown on disk holds what growth in memory gives, and stock Trainer goes on from it."""

from __future__ import annotations

import copy
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.trainer_runs import (
    GROWTHS,
    differences,
    load,
    losses_of,
    optimizer_of,
    random_model,
    rates_of,
    states_of,
    trainer_of,
)

import growformer
from growformer import RequestError, SourceError, UpdateRules
from growformer.training.region_file import read_regions
from growformer.training.regions import Fade, UpdateRegion, correction, rekeyed
from growformer.training.update_rules import FADE_IN
from growformer.training.updates import updates_of

STEP = 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Checkpoints of step 6 by model and Trainer options, each trained once."""
    home, made = tmp_path_factory.mktemp("runs"), dict[str, Path]()

    def checkpoint(kind: str, **options: Any) -> Path:
        key = f"{kind}-{'-'.join(map(str, options.values()))}" if options else kind
        if key not in made:
            trainer_of(random_model(kind), home / key, steps=2 * STEP, every=STEP, **options).train()
            made[key] = home / key / f"checkpoint-{STEP}"
        return made[key]

    return checkpoint


@pytest.fixture
def checkpoint(runs: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of the Llama checkpoint, to be spoilt."""
    return Path(shutil.copytree(runs("llama"), tmp_path / f"checkpoint-{STEP}"))


def grown_in_memory(source: Path, growth: dict[str, Any], options: dict[str, Any], **how: Any) -> tuple[Any, Any]:
    model = load(source)
    return growformer.grow(model, optimizer=optimizer_of(source, model, **options), **growth, **how)


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "fused": {"optim": "adamw_torch_fused"},
    "foreach": {"optim": "adamw_torch"},
    "SGD": {"optim": "sgd", "optim_args": "momentum=0.9"},
    "RMSprop": {"optim": "rmsprop", "optim_args": "momentum=0.5"},
    "Adagrad": {"optim": "adagrad"},
}


@pytest.mark.parametrize(
    ("kind", "optimizer"), [*((kind, "fused") for kind in GROWTHS), *(("llama", name) for name in OPTIMIZERS)]
)
@pytest.mark.parametrize("state", ["carry", "zero-new", "drop"])
def test_moments_are_by_name_those_of_growth_in_memory(
    runs: Callable[..., Path], tmp_path: Path, kind: str, optimizer: str, state: str
) -> None:
    options = OPTIMIZERS[optimizer]
    source, growth = runs(kind, **options), GROWTHS[kind]
    grown = growformer.grow_checkpoint(source, tmp_path / "grown", state=state, **growth)
    model, expected = grown_in_memory(source, growth, options, state=state)
    again = load(grown.path)
    found = optimizer_of(grown.path, again, **options)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
    assert not differences(states_of(found, again), states_of(expected, model))
    assert bool(states_of(found, again)) == (state != "drop")
    names = {p: name for name, p in again.named_parameters()}
    own = {p: name for name, p in model.named_parameters()}
    for mine, theirs in zip(found.param_groups, expected.param_groups, strict=True):
        assert [names[p] for p in mine["params"]] == [own[p] for p in theirs["params"]]
        assert {k: v for k, v in mine.items() if k != "params"} == {k: v for k, v in theirs.items() if k != "params"}
    assert grown.files["optimizer.pt"] == f"grown: {state}"


@pytest.mark.parametrize("kind", GROWTHS)
def test_moments_by_number_would_be_others(runs: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    """The negative control: the same growth, with what is at equal numbers taken for the same."""
    source, growth = runs(kind), GROWTHS[kind]
    model, _ = grown_in_memory(source, growth, {})
    before = torch.load(source / "optimizer.pt", weights_only=True)["state"]
    growformer.grow_checkpoint(source, tmp_path / "grown", **growth)
    after = torch.load(tmp_path / "grown" / "optimizer.pt", weights_only=True)["state"]
    numbers = range(len(before))
    assert len(after) == len(list(model.parameters())) > len(before)
    moved = [n for n in numbers if not _starts_with(after[n]["exp_avg"], before[n]["exp_avg"])]
    assert len(moved) > len(before) // 2


def _starts_with(grown: torch.Tensor, part: torch.Tensor) -> bool:
    if grown.ndim != part.ndim or any(g < p for g, p in zip(grown.shape, part.shape, strict=True)):
        return False
    corner = grown[tuple(slice(0, size) for size in part.shape)]
    return torch.allclose(corner / corner.norm(), part / part.norm())


def test_a_wrong_scale_would_be_seen(runs: Callable[..., Path], tmp_path: Path) -> None:
    source, growth = runs("llama"), GROWTHS["llama"]
    model, expected = grown_in_memory(source, growth, {})
    growformer.grow_checkpoint(source, tmp_path / "grown", slots={"exp_avg_sq": 1}, **growth)
    again = load(tmp_path / "grown")
    found = differences(states_of(optimizer_of(tmp_path / "grown", again), again), states_of(expected, model))
    assert found
    assert {entry.split(": ")[1] for entry in found} == {"exp_avg_sq"}


def test_step_schedule_and_data_go_on_and_losses_do_not_jump(runs: Callable[..., Path], tmp_path: Path) -> None:
    """Losses after growth are those of a loop by hand over the same batches with the model grown in memory."""
    source, growth = runs("llama"), {"num_hidden_layers": 4, "new_layers_at": [1]}
    grown = growformer.grow_checkpoint(source, tmp_path / "grown", **growth)
    seen: list[dict[str, torch.Tensor]] = []

    def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        seen.append({name: torch.stack([row[name] for row in rows]) for name in rows[0]})
        return seen[-1]

    callback = growformer.RegionUpdatesCallback(grown.path)
    resumed = trainer_of(load(grown.path), tmp_path / "out", steps=12, callbacks=[callback])
    resumed.data_collator = collate
    resumed.train(resume_from_checkpoint=str(grown.path))
    alone = trainer_of(load(source), tmp_path / "alone", steps=12)
    alone.train(resume_from_checkpoint=str(source))
    assert len(losses_of(resumed)) == len(losses_of(alone)) == 12
    assert losses_of(resumed)[: STEP + 1] == pytest.approx(losses_of(alone)[: STEP + 1], rel=1e-6)
    assert losses_of(resumed)[STEP + 1 :] != pytest.approx(losses_of(alone)[STEP + 1 :], rel=1e-6)
    assert rates_of(resumed) == rates_of(alone)
    model, optimizer = grown_in_memory(source, growth, {})
    rates = rates_of(alone)[STEP:]
    losses = []
    for batch, rate in zip(seen[:6], rates, strict=True):  # one more has been fetched ahead
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = model(**batch, num_items_in_batch=torch.tensor(4 * 10)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == pytest.approx(losses_of(resumed)[STEP:], rel=1e-6)


def test_without_the_callback_what_is_new_shares_the_step_count(runs: Callable[..., Path], tmp_path: Path) -> None:
    grown = growformer.grow_checkpoint(runs("llama"), tmp_path / "grown", **GROWTHS["llama"])
    finals = {}
    for used in (True, False):
        callbacks = [growformer.RegionUpdatesCallback(grown.path)] if used else []
        resumed = trainer_of(load(grown.path), tmp_path / f"out-{used}", steps=STEP + 1, callbacks=callbacks)
        resumed.train(resume_from_checkpoint=str(grown.path))
        finals[used] = resumed.model.state_dict()
    start, name = load(grown.path).state_dict(), "model.layers.0.mlp.down_proj.weight"
    new = (slice(0, 24), slice(44, 47))  # zero before: no decay moves it
    moved = {used: (finals[used][name] - start[name])[new] for used in finals}
    factor = correction(1, STEP + 1, (0.9, 0.999))
    assert abs(factor - 1) > 0.5
    torch.testing.assert_close(moved[True], factor * moved[False], rtol=1e-3, atol=0)
    old = (slice(0, 24), slice(0, 44))
    assert torch.equal(finals[True][name][old], finals[False][name][old])


def test_growing_twice_moves_regions_as_in_memory(runs: Callable[..., Path], tmp_path: Path) -> None:
    rules = UpdateRules(new_rate=1.5, ramp=30)
    source, first, second = runs("llama"), GROWTHS["llama"], {"hidden_size": 48, "num_hidden_layers": 5}
    one = growformer.grow_checkpoint(source, tmp_path / "one", updates=rules, **first)
    callback = growformer.RegionUpdatesCallback(one.path)
    trainer_of(load(one.path), tmp_path / "out", steps=9, every=3, callbacks=[callback]).train(
        resume_from_checkpoint=str(one.path)
    )
    last = tmp_path / "out" / "checkpoint-9"
    two = growformer.grow_checkpoint(last, tmp_path / "two", updates=rules, **second)

    model = load(last)
    optimizer = optimizer_of(last, model)
    parameters = dict(model.named_parameters())
    saved = read_regions(last, {name: tuple(p.shape) for name, p in parameters.items()})
    updates_of(optimizer).set_regions(saved.steps, rekeyed(saved.regions, parameters))
    assert saved.steps == 3
    assert saved.global_step == 9
    grown, optimizer = growformer.grow(model, optimizer=optimizer, updates=rules, **second)

    again = load(two.path)
    attached = trainer_of(again, tmp_path / "unused", callbacks=[])
    attached.create_optimizer()
    attached.state.global_step = 9
    growformer.RegionUpdatesCallback(two.path).on_train_begin(
        attached.args, attached.state, attached.control, model=again, optimizer=attached.optimizer
    )
    found, expected = updates_of(attached.optimizer), updates_of(optimizer)
    assert found.steps == expected.steps == 3
    born = {r.born for p in grown.parameters() for r in expected.regions(p) if isinstance(r, UpdateRegion)}
    assert born == {0, 3}
    both = [{n: str(some) for n, some in u.regions_of(m).items()} for u, m in ((found, again), (expected, grown))]
    assert both[0] == both[1]
    fades = [r for regions in found.regions_of(again).values() for r in regions if isinstance(r, Fade)]
    assert {fade.steps for fade in fades} == {FADE_IN}
    assert {fade.done for fade in fades} == {0, 3}


def test_names_in_the_file_count(runs: Callable[..., Path], tmp_path: Path) -> None:
    """An optimizer of named parameters may group them as it likes, and leave some frozen."""

    def optimizer_for(model: Any) -> torch.optim.Optimizer:
        model.model.embed_tokens.requires_grad_(False)
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        groups = [
            {"params": [(n, p) for n, p in reversed(named) if "mlp" in n], "weight_decay": 0.3},
            {"params": [(n, p) for n, p in named if "mlp" not in n and p.ndim > 1]},
            {"params": [(n, p) for n, p in named if p.ndim == 1]},
        ]
        return torch.optim.AdamW(groups, lr=1e-3)

    model = random_model("llama")
    trainer_of(model, tmp_path / "out", steps=3, every=3, optimizers=(optimizer_for(model), None)).train()
    source = tmp_path / "out" / "checkpoint-3"
    grown = growformer.grow_checkpoint(source, tmp_path / "grown", **GROWTHS["llama"])
    model = load(source)
    optimizer = optimizer_for(model)
    optimizer.load_state_dict(torch.load(source / "optimizer.pt", weights_only=True))
    expected, optimizer = growformer.grow(model, optimizer=optimizer, **GROWTHS["llama"])
    data = torch.load(grown.path / "optimizer.pt", weights_only=True)
    names = [name for group in data["param_groups"] for name in group["param_names"]]
    found = {names[number]: slots for number, slots in data["state"].items()}
    assert not differences(found, states_of(optimizer, expected))
    assert [g["param_names"] for g in data["param_groups"]] == [g["param_names"] for g in optimizer.param_groups]
    assert "model.embed_tokens.weight" not in names


def test_frozen_layers_stay_frozen_where_others_are_put_between(runs: Callable[..., Path]) -> None:
    model = load(runs("llama"))
    model.model.layers[1].requires_grad_(False)
    grown = growformer.grow(model, num_hidden_layers=5, new_layers_at=[0, 3])
    frozen = {name.split(".")[2] for name, p in grown.named_parameters() if not p.requires_grad}
    assert frozen == {"2", "3"}  # where it stands now, and its copy


def test_one_group_of_all_parameters(tmp_path: Path) -> None:
    model = random_model("gpt2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    trainer_of(model, tmp_path / "out", steps=3, every=3, optimizers=(optimizer, None)).train()
    source = tmp_path / "out" / "checkpoint-3"
    grown = growformer.grow_checkpoint(source, tmp_path / "grown", **GROWTHS["gpt2"])
    model = load(source)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer.load_state_dict(torch.load(source / "optimizer.pt", weights_only=True))
    expected, optimizer = growformer.grow(model, optimizer=optimizer, **GROWTHS["gpt2"])
    data = torch.load(grown.path / "optimizer.pt", weights_only=True)
    names = [name for name, _ in load(grown.path).named_parameters()]
    assert not differences({names[n]: slots for n, slots in data["state"].items()}, states_of(optimizer, expected))


def test_a_class_written_as_another(runs: Callable[..., Path], tmp_path: Path) -> None:
    """Padded to eight heads, Qwen2 becomes Llama, which has a bias more in every layer."""
    source = runs("qwen2")
    plan = growformer.plan_padding(source, tensor_parallel=8, multiple_of=8, consumer="vllm")
    grown = growformer.grow_checkpoint(source, tmp_path / "grown", plan=plan)
    model = load(grown.path)
    assert type(model).__name__ == "LlamaForCausalLM"
    found = states_of(optimizer_of(grown.path, model), model)
    before = load(source)
    optimizer = optimizer_of(source, before)
    expected, optimizer = growformer.grow(before, optimizer=optimizer, plan=plan)
    assert not differences(found, states_of(optimizer, expected))
    bias = found["model.layers.0.self_attn.o_proj.bias"]
    assert not bias["exp_avg"].any()
    assert found["model.layers.0.self_attn.o_proj.weight"]["exp_avg"].any()


@pytest.mark.parametrize("head", ["tied", "of its own"])
def test_heads_that_could_be_tied(tmp_path: Path, head: str) -> None:
    """A head that differs from the table is a parameter of its own, although config and class call it tied."""
    model = random_model("llama", tie_word_embeddings=True)
    if head != "tied":
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().flip(0))
    model.save_pretrained(tmp_path / "start")
    model = load(tmp_path / "start")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (head == "tied")
    trainer_of(model, tmp_path / "run", steps=3, every=3).train()
    source = tmp_path / "run" / "checkpoint-3"
    grown = growformer.grow_checkpoint(source, tmp_path / "grown", **GROWTHS["llama"])
    expected, optimizer = grown_in_memory(source, GROWTHS["llama"], {})
    again = load(grown.path)
    found = states_of(optimizer_of(grown.path, again), again)
    assert not differences(found, states_of(optimizer, expected))
    assert ("lm_head.weight" in found) == (head != "tied")


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_trainer_goes_on_from_one_file_or_several(runs: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    losses = []
    for name, size in (("one", 10**9), ("several", 60_000)):
        grown = growformer.grow_checkpoint(runs(kind), tmp_path / name, max_shard_bytes=size, **GROWTHS[kind])
        assert (len(list(grown.path.glob("*.safetensors"))) > 1) == (name == "several")
        resumed = trainer_of(load(grown.path), tmp_path / f"out-{name}", steps=9)
        resumed.train(resume_from_checkpoint=str(grown.path))
        losses.append(losses_of(resumed))
    assert losses[0] == losses[1]
    assert len(losses[0]) == 9


def test_state_that_started_anew_grows_again(runs: Callable[..., Path], tmp_path: Path) -> None:
    """After ``drop`` the optimizer has seen fewer steps than the schedule; region updates beside it vouch for it."""
    one = growformer.grow_checkpoint(runs("llama"), tmp_path / "other", state="drop", num_hidden_layers=4)
    callback = growformer.RegionUpdatesCallback(one.path)
    trainer_of(load(one.path), one.path, steps=9, every=3, callbacks=[callback]).train(
        resume_from_checkpoint=str(one.path)
    )
    last = Path(shutil.copytree(one.path / "checkpoint-9", tmp_path / "checkpoint-9"))
    steps = {int(slots["step"]) for slots in torch.load(last / "optimizer.pt", weights_only=True)["state"].values()}
    assert steps == {3}
    two = growformer.grow_checkpoint(last, tmp_path / "two", num_hidden_layers=5)
    assert len(torch.load(two.path / "optimizer.pt", weights_only=True)["state"]) == 48
    shutil.rmtree(two.path)
    (last / "region_updates.json").unlink()
    refused(last, tmp_path / "two", SourceError, "optimizer.pt: of step 3, and scheduler.pt of step 9")


def test_what_lies_beside_the_optimizer(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({"scale": 2.0}, checkpoint / "scaler.pt")
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    best = {"best_model_checkpoint": "out/checkpoint-3", "best_global_step": 3, "best_metric": 1.25}
    (checkpoint / "trainer_state.json").write_text(json.dumps({**state, **best}))
    grown = growformer.grow_checkpoint(checkpoint, tmp_path / "grown", num_hidden_layers=4)
    for name in ("scaler.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        assert (grown.path / name).read_bytes() == (checkpoint / name).read_bytes()
    found = json.loads((grown.path / "trainer_state.json").read_text())
    assert found == {**state, **best, "best_model_checkpoint": None, "best_global_step": None}
    assert any("out/checkpoint-3, has the source's sizes" in note for note in grown.notes)
    assert {path.name for path in grown.path.iterdir()} == {
        "config.json", "generation_config.json", "growformer.json", "model.safetensors", "optimizer.pt",
        "region_updates.json", "rng_state.pth", "scaler.pt", "scheduler.pt", "trainer_state.json", "training_args.bin",
    }  # fmt: skip


def test_the_state_can_stay_behind(checkpoint: Path, tmp_path: Path) -> None:
    grown = growformer.grow_checkpoint(checkpoint, tmp_path / "grown", state="omit", num_hidden_layers=4)
    assert not (grown.path / "optimizer.pt").exists()
    assert grown.dropped["optimizer.pt"] == "the state of an optimizer, of the source's sizes"


def test_a_renamed_folder_and_a_missing_schedule_are_worth_a_note(checkpoint: Path, tmp_path: Path) -> None:
    renamed = checkpoint.rename(checkpoint.with_name("checkpoint-7"))
    (renamed / "scheduler.pt").unlink()
    notes = growformer.grow_checkpoint(renamed, tmp_path / "grown", num_hidden_layers=4).notes
    assert notes[0] == "The folder is called checkpoint-7, and its trainer_state.json is of step 6, which counts."
    assert notes[1].startswith("There is no scheduler.pt. Trainer loads optimizer and schedule together or not at all")


# Wrong input.


def refused(source: Path, out: Path, error: type[Exception], message: str, **options: Any) -> None:
    """One error, and nothing written."""
    before = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    with pytest.raises(error, match=message):
        growformer.grow_checkpoint(source, out, **{"num_hidden_layers": 4, **options})
    assert {path.name for path in out.parent.iterdir()} <= {source.name, "other"}
    assert {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()} == before


def test_the_optimizer_of_another_model(runs: Callable[..., Path], checkpoint: Path, tmp_path: Path) -> None:
    other = random_model("llama", hidden_size=36)
    trainer_of(other, tmp_path / "other", steps=STEP, every=STEP).train()
    shutil.copy(tmp_path / "other" / f"checkpoint-{STEP}" / "optimizer.pt", checkpoint)
    message = (
        r"optimizer.pt: does not belong to this model: the state of model.embed_tokens.weight has shape \[53, 36\]"
    )
    refused(checkpoint, tmp_path / "grown", RequestError, message)
    shutil.copy(runs("gpt2") / "optimizer.pt", checkpoint)
    message = r"groups of 14 and 26 parameters; expected those of Trainer, 23 with weight decay and 7 without"
    refused(checkpoint, tmp_path / "grown", RequestError, message)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt"])
@pytest.mark.parametrize("steps", [STEP - 2, STEP + 2])
def test_another_step(checkpoint: Path, tmp_path: Path, file: str, steps: int) -> None:
    trainer_of(random_model("llama"), tmp_path / "other", steps=steps, every=steps).train()
    shutil.copy(tmp_path / "other" / f"checkpoint-{steps}" / file, checkpoint)
    message = rf"{file}: of step {steps}, and \S+ of step {STEP}: they are of different checkpoints"
    refused(checkpoint, tmp_path / "grown", SourceError, message)


def test_steps_that_a_scaler_skipped_are_no_other_steps(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({"scale": 2.0}, checkpoint / "scaler.pt")
    data = json.loads((checkpoint / "trainer_state.json").read_text())
    (checkpoint / "trainer_state.json").write_text(json.dumps({**data, "global_step": STEP + 2}))
    growformer.grow_checkpoint(checkpoint, tmp_path / "grown", num_hidden_layers=4)
    (checkpoint / "scaler.pt").unlink()
    shutil.rmtree(tmp_path / "grown")
    refused(checkpoint, tmp_path / "grown", SourceError, "scheduler.pt: of step 6, and trainer_state.json of step 8")


def test_groups_that_are_not_trainers(checkpoint: Path, tmp_path: Path) -> None:
    whole = torch.load(checkpoint / "optimizer.pt", weights_only=True)

    def save(*sizes: int, decay: float = 0.0) -> None:
        groups, start = [], 0
        for size in sizes:
            options = {**whole["param_groups"][0], "weight_decay": decay if start else 0.1}
            groups.append({**options, "params": list(range(start, start + size))})
            start += size
        state = {n: slots for n, slots in whole["state"].items() if n < start}
        torch.save({"state": state, "param_groups": groups}, checkpoint / "optimizer.pt")

    schedule = torch.load(checkpoint / "scheduler.pt", weights_only=True)
    save(22, 8)
    message = "groups of 22 and 8 parameters; expected those of Trainer, 23 .*made of model.named_parameters"
    refused(checkpoint, tmp_path / "grown", RequestError, message)
    save(22, 7)  # one is frozen, and which one cannot be told
    refused(checkpoint, tmp_path / "grown", RequestError, "So parameters are frozen, or grouped in a way of their own")
    save(10, 10, 10)
    refused(checkpoint, tmp_path / "grown", RequestError, "groups of 10 and 10 and 10 parameters; expected")
    save(23, 7, decay=0.1)
    refused(checkpoint, tmp_path / "grown", RequestError, "the second group decays by 0.1")
    save(30)
    refused(
        checkpoint, tmp_path / "grown", SourceError, "scheduler.pt: of 2 groups of parameters, and optimizer.pt has 1"
    )
    torch.save({**schedule, "base_lrs": [1e-3]}, checkpoint / "scheduler.pt")
    refused(checkpoint, tmp_path / "grown", RequestError, "does not belong to this model: the state of")


def test_state_that_cannot_be_cut(tmp_path: Path) -> None:
    model = random_model("llama")
    trainer_of(model, tmp_path / "other", steps=3, every=3, optim="adafactor").train()
    source = tmp_path / "other" / "checkpoint-3"
    message = "Adafactor's slot 'exp_avg_sq_row' of model.embed_tokens.weight is factored, of shape"
    refused(source, tmp_path / "grown", RequestError, message)
    refused(source, tmp_path / "grown", RequestError, message, state="zero-new")
    grown = growformer.grow_checkpoint(source, tmp_path / "grown", state="drop", num_hidden_layers=4)
    again = load(grown.path)
    resumed = trainer_of(again, tmp_path / "out", steps=5, optim="adafactor")
    resumed.train(resume_from_checkpoint=str(grown.path))
    assert len(losses_of(resumed)) == 5


def test_slots_of_other_kinds(checkpoint: Path, tmp_path: Path) -> None:
    kept = copy.deepcopy(torch.load(checkpoint / "optimizer.pt", weights_only=True))

    def with_slot(make: Callable[[torch.Tensor], Any]) -> None:
        state = {n: {**slots, "extra": make(slots["exp_avg"])} for n, slots in kept["state"].items()}
        torch.save({**kept, "state": state}, checkpoint / "optimizer.pt")

    with_slot(lambda value: value.clone())
    refused(checkpoint, tmp_path / "grown", RequestError, r"AdamW's slot 'extra' of .* is unknown, so that its scaling")
    with_slot(lambda value: value.to(torch.uint8))
    refused(
        checkpoint, tmp_path / "grown", RequestError, r"'extra' of model.embed_tokens.weight holds uint8: quantised"
    )
    with_slot(lambda value: [value.clone(), value.clone()])
    refused(checkpoint, tmp_path / "grown", RequestError, "'extra' of model.embed_tokens.weight holds a list: what is")
    with_slot(lambda value: value.to_sparse())
    refused(checkpoint, tmp_path / "grown", SourceError, r"'extra' of .* is a Tensor of layout torch.sparse_coo on cpu")
    with_slot(lambda value: value.to("meta"))
    refused(checkpoint, tmp_path / "grown", SourceError, r"'extra' of .* of layout torch.strided on meta; expected a")
    with_slot(lambda value: value[:1])
    refused(checkpoint, tmp_path / "grown", RequestError, r"'extra' of .* has shape \[1, 24\], expected that of the")
    with_slot(lambda value: value.clone())
    grown = growformer.grow_checkpoint(checkpoint, tmp_path / "grown", slots={"extra": 1}, num_hidden_layers=4)
    after = torch.load(grown.path / "optimizer.pt", weights_only=True)["state"]
    assert all(torch.equal(slots["extra"], slots["exp_avg"]) for slots in after.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no zip", "cannot be read without running code that it may hold, which is never done"),
        ([1, 2], r"expected what optimizer.state_dict\(\) gives \(state, param_groups\), found list"),
        ({"state": {}, "param_groups": []}, "its param_groups are none of torch"),
        ({"state": {}, "param_groups": [{"params": [0, 2]}]}, "number parameters from 0 on"),
        ({"state": {}, "param_groups": [{"params": [0]}], "loss_scaler": 1}, "holds loss_scaler beside state and"),
        (
            {"state": {}, "param_groups": [{"params": [0], "param_names": ["a.b"]}]},
            "a parameter 'a.b' in group 0, which",
        ),
    ],
)
def test_files_that_are_no_state_dicts(checkpoint: Path, tmp_path: Path, content: Any, message: str) -> None:
    if isinstance(content, bytes):
        (checkpoint / "optimizer.pt").write_bytes(content)
    else:
        torch.save(content, checkpoint / "optimizer.pt")
    refused(checkpoint, tmp_path / "grown", growformer.GrowformerError, message)


class Evil:
    """Says that it was unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("evil"),))


def test_nothing_in_a_checkpoint_is_run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / f"checkpoint-{STEP}")
    for file in ("optimizer.pt", "scheduler.pt"):
        kept = (checkpoint / file).read_bytes()
        torch.save({"state": Evil(), "param_groups": []}, checkpoint / file)
        refused(checkpoint, tmp_path / "grown", SourceError, "cannot be read without running code that it may hold")
        assert not (checkpoint / "evil").exists()
        (checkpoint / file).unlink()
        (checkpoint / file).symlink_to("/etc/hostname")
        refused(checkpoint, tmp_path / "grown", SourceError, "outside of the model's folder")
        (checkpoint / file).unlink()
        (checkpoint / file).write_bytes(kept)


@pytest.mark.parametrize("how", ["link", "file", "nothing"])
def test_a_file_that_is_replaced_after_it_was_checked(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    own, file = torch.load, checkpoint / "optimizer.pt"
    other = Path(shutil.copy(file, tmp_path / "other.pt"))

    def load_another(opened: Any, **options: Any) -> Any:
        if opened == file and how == "nothing":
            found = own(opened, **options)
            file.unlink()
            return found
        if opened == file:
            file.unlink()
            file.symlink_to(other) if how == "link" else shutil.copy(other, file)
        return own(opened, **options)

    monkeypatch.setattr(torch, "load", load_another)
    with pytest.raises(SourceError, match=r"optimizer\.pt: was replaced while it was read"):
        growformer.grow_checkpoint(checkpoint, tmp_path / "grown", num_hidden_layers=4)
    assert not (tmp_path / "grown").exists()


def test_compressed_parts_are_not_read(checkpoint: Path, tmp_path: Path) -> None:
    """A few bytes may stand for any number of them."""
    with zipfile.ZipFile(checkpoint / "optimizer.pt") as taken:
        parts = {name: taken.read(name) for name in taken.namelist()}
    with zipfile.ZipFile(checkpoint / "optimizer.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    refused(checkpoint, tmp_path / "grown", SourceError, "in it is compressed, as torch never does it")


@pytest.mark.parametrize("name", ["global_step6", "pytorch_model_fsdp_0", "optimizer_0", "optimizer.bin"])
def test_sharded_runs_are_refused_by_name(checkpoint: Path, tmp_path: Path, name: str) -> None:
    (checkpoint / "optimizer.pt").unlink()
    if "." in name:
        (checkpoint / name).write_bytes(b"state")
    else:
        (checkpoint / name).mkdir()
        (checkpoint / name / "state_0.pt").write_bytes(b"state")
    refused(checkpoint, tmp_path / "grown", RequestError, rf"{name}: the state of a sharded run \(DeepSpeed, FSDP")
    grown = growformer.grow_checkpoint(checkpoint, tmp_path / "grown", hidden_size=36, state="omit")
    assert not (grown.path / name).exists()


def test_requests_that_say_nothing(checkpoint: Path, tmp_path: Path) -> None:
    refused(checkpoint, tmp_path / "grown", RequestError, r"unknown state policy 'cary': .*mean 'carry'", state="cary")
    message = r"slots and updates say how a training state grows, which state='omit' leaves behind"
    refused(checkpoint, tmp_path / "grown", RequestError, message, state="omit", updates=UpdateRules())
    (checkpoint / "optimizer.pt").unlink()
    message = r"no training state to grow: .*found trainer_state.json"
    refused(checkpoint, tmp_path / "grown", RequestError, message, state="carry")
    refused(checkpoint, tmp_path / "grown", RequestError, message, updates=UpdateRules(ramp=3))
    grown = growformer.grow_checkpoint(checkpoint, tmp_path / "grown", num_hidden_layers=4)
    assert not grown.notes


def test_region_updates_that_do_not_belong(runs: Callable[..., Path], tmp_path: Path) -> None:
    source = growformer.grow_checkpoint(runs("llama"), tmp_path / "other", **GROWTHS["llama"]).path
    saved = json.loads((source / "region_updates.json").read_text())
    name = next(iter(saved["regions"]))
    first = saved["regions"][name][0]
    for change, error, message in (
        ({"global_step": 5}, SourceError, "of step 5, and trainer_state.json of step 6"),
        ({"format": 1}, SourceError, "region updates of format 1"),
        ({"model": None}, SourceError, "model = None; expected the SHA-256"),
        ({"model": "0" * 64}, RequestError, "region updates of another model, whose parameters have other names"),
        ({"steps": -1}, SourceError, "steps = -1; expected a whole number"),
        ({"regions": {"a.b": []}}, RequestError, "region updates of parameter a.b, which is none of the 39"),
        ({"regions": {name: [{**first, "region": [[0, 999], [0, 1]]}]}}, RequestError, "lies outside of its shape"),
        ({"regions": {name: [{**first, "rate": "x"}]}}, SourceError, "a region that no rule gives"),
        ({"regions": {name: [{"region": first["region"]}]}}, SourceError, "not region updates of growformer: an entr"),
    ):
        (source / "region_updates.json").write_text(json.dumps({**saved, **change}))
        refused(source, tmp_path / "grown", error, message, num_hidden_layers=5)
