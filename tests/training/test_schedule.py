"""Growth schedules: read strictly, refused with the stage that is wrong, and written back as they were."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import SCHEDULE

import growformer
from growformer import GrowthSchedule, GrowthStage, RequestError, UpdateRules, WhenFlat
from growformer.training.flat import FlatLoss

TEXT = """
stages:
  - at_step: 2000
    sizes: {hidden_size: 48, num_attention_heads: 6}
    updates: {new_rate: 1.3, ramp: 250}
    state: zero-new
  - when_flat: {window: 200, patience: 4, min_delta: 0.005, not_before: 4000, not_after: 9000}
    sizes: {num_hidden_layers: 6}
    new_layers_at: [4, 5]
    new_layers: random
    init: orthogonal
    seed: 1
  - at_tokens: 5000000
    sizes: {intermediate_size: [100, 200]}
"""


def test_yaml_is_read_and_written_back(tmp_path: Path) -> None:
    (tmp_path / "schedule.yaml").write_text(TEXT)
    schedule = GrowthSchedule.from_yaml(tmp_path / "schedule.yaml")
    assert schedule.stages[0] == GrowthStage(
        at_step=2000, sizes={"hidden_size": 48, "num_attention_heads": 6},
        updates=UpdateRules(new_rate=1.3, ramp=250), state="zero-new",
    )  # fmt: skip
    rule = WhenFlat(window=200, patience=4, min_delta=0.005, not_before=4000, not_after=9000)
    assert schedule.stages[1].when_flat == rule
    assert schedule.stages[1].request == {
        "num_hidden_layers": 6, "new_layers_at": [4, 5], "new_layers": "random", "init": "orthogonal", "seed": 1
    }  # fmt: skip
    (tmp_path / "again.yaml").write_text(schedule.to_yaml())
    assert GrowthSchedule.from_yaml(tmp_path / "again.yaml") == schedule
    assert GrowthSchedule.from_dict(SCHEDULE.to_dict()) == SCHEDULE
    assert GrowthSchedule.from_dict(SCHEDULE.to_dict()) != schedule
    at = GrowthStage(at_step=3, sizes={"num_hidden_layers": 6}, new_layers_at=(4, 5))
    assert GrowthStage.from_dict(at.to_dict()) == at


def stage(**fields: Any) -> dict[str, Any]:
    return {"at_step": 5, "sizes": {"hidden_size": 48}, **fields}


WRONG: dict[str, tuple[Any, str]] = {
    "no stages": ({"stages": []}, "a growth schedule without stages; expected at least one"),
    "not a list": ({"stages": {"at_step": 5}}, "stages: expected a list of stages, found dict"),
    "unknown key": ({"stage": [stage()]}, "a growth schedule has no field 'stage'; did you mean 'stages'"),
    "unknown field": ({"stages": [stage(at_stpe=3)]}, "stage 1: a stage has no field 'at_stpe'; did you mean 'at_s"),
    "unknown rule": ({"stages": [stage(updates={"new_rat": 1})]}, "stage 1: updates has no field 'new_rat'; did you"),
    "unknown flat": (
        {"stages": [{"when_flat": {"patiance": 1}, "sizes": {"hidden_size": 3}}]},
        "stage 1: when_flat has no field 'patiance'; did you mean 'patience'",
    ),
    "no trigger": ({"stages": [{"sizes": {"hidden_size": 48}}]}, "stage 1: .*exactly one .*found none"),
    "two triggers": ({"stages": [stage(at_tokens=9)]}, "stage 1: .*one of .*found at_step and at_tokens"),
    "no sizes": ({"stages": [{"at_step": 5}]}, "stage 1: sizes is missing"),
    "empty sizes": ({"stages": [stage(sizes={})]}, "stage 1: sizes = {}: expected sizes by name"),
    "size 0": ({"stages": [stage(sizes={"hidden_size": 0})]}, "hidden_size = 0: expected a whole number from 1 on"),
    "size true": ({"stages": [stage(sizes={"hidden_size": True})]}, "hidden_size = True: expected a whole number"),
    "size text": ({"stages": [stage(sizes={"hidden_size": "48"})]}, "hidden_size = '48': expected a whole number"),
    "step 0": ({"stages": [stage(at_step=0)]}, "stage 1: at_step = 0: expected a whole number from 1 on"),
    "step 1.5": ({"stages": [stage(at_step=1.5)]}, "stage 1: at_step = 1.5: expected a whole number"),
    "seed": ({"stages": [stage(seed="a")]}, "stage 1: seed = 'a': expected a whole number"),
    "init": ({"stages": [stage(init="nromal")]}, "stage 1: unknown initialisation 'nromal'.*did you mean 'normal'"),
    "state": ({"stages": [stage(state="cary")]}, "stage 1: unknown state policy 'cary'.*did you mean 'carry'"),
    "policy": ({"stages": [stage(updates={"policy": "rw"})]}, "stage 1: unknown update policy 'rw'.*'raw'"),
    "rule of text": ({"stages": [stage(updates={"new_rate": "a"})]}, "stage 1: new_rate = 'a': expected a number"),
    "positions": ({"stages": [stage(new_layers_at=5)]}, "stage 1: new_layers_at = 5: expected end, interleave, or pos"),
    "no name": ({"stages": [stage(sizes={1: 2})]}, "stage 1: sizes: 1 is no name of a size"),
    "seed as a size": (
        {"stages": [stage(sizes={"seed": 7, "hidden_size": 48})]},
        "stage 1: sizes: seed is a field of the stage, not a size: put it beside sizes",
    ),
    "parameters": ({"stages": [stage(sizes={"to_parameters": 10**6})]}, "stage 1: sizes: to_parameters is no size"),
    "falling steps": (
        {"stages": [stage(), stage(at_step=5, sizes={"hidden_size": 60})]},
        r"stage 2 \(at step 5\): at_step = 5 does not come after 5.*order stages by time",
    ),
    "falling tokens": (
        {"stages": [{"at_tokens": 9, "sizes": {"a": 2}}, {"at_tokens": 8, "sizes": {"a": 3}}]},
        r"stage 2 \(at 8 tokens\): at_tokens = 8 does not come after 9",
    ),
    "deadline": (
        {"stages": [{"when_flat": {"not_after": 50}, "sizes": {"a": 2}}, stage(at_step=40)]},
        r"stage 2 \(at step 40\): it may have to grow at step 40, and the stage before at step 50",
    ),
    "shrinks": (
        {"stages": [stage(), stage(at_step=9, sizes={"hidden_size": 40, "num_hidden_layers": 9})]},
        r"stage 2 \(at step 9\): hidden_size shrinks from 48 to 40; growth never makes anything smaller",
    ),
    "shrinks later": (
        {"stages": [stage(), stage(at_step=9, sizes={"b": 9}), stage(at_step=11, sizes={"hidden_size": 47})]},
        r"stage 3 \(at step 11\): hidden_size shrinks from 48 to 47",
    ),
    "repeats": (
        {"stages": [stage(), stage(at_step=9)]},
        r"stage 2 \(at step 9\): it repeats hidden_size = 48, which an earlier stage has grown to",
    ),
    "window": ({"stages": [{"when_flat": {"window": 0}, "sizes": {"a": 2}}]}, "window = 0: expected a whole"),
    "delta": ({"stages": [{"when_flat": {"min_delta": -1}, "sizes": {"a": 2}}]}, "min_delta = -1: expected 0 or more"),
    "ends": (
        {"stages": [{"when_flat": {"not_before": 5, "not_after": 4}, "sizes": {"a": 2}}]},
        "not_after = 4 is before not_before = 5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_schedules_are_refused(name: str) -> None:
    data, message = WRONG[name]
    with pytest.raises(RequestError, match=message):
        GrowthSchedule.from_dict(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [", "schedule.yaml: not YAML: line 1"),
        ("stages: []\nstages: []\n", "schedule.yaml: not YAML: line 2: the key 'stages' stands twice"),
        ("- 1", "schedule.yaml: expected lines such as stages:, found a list"),
        ("stages:\n- at_step: 3\n", "schedule.yaml: stage 1: sizes is missing"),
        ("stages: !!python/object/apply:os.system [ls]", "schedule.yaml: not YAML"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "schedule.yaml").write_text(text)
    with pytest.raises(RequestError, match=message):
        GrowthSchedule.from_yaml(tmp_path / "schedule.yaml")
    with pytest.raises(RequestError, match="no such growth schedule; expected a YAML file"):
        GrowthSchedule.from_yaml(tmp_path / "other.yaml")


def test_a_function_as_initialisation_cannot_be_logged() -> None:
    with pytest.raises(RequestError, match="a schedule names its initialisation"):
        GrowthStage(at_step=1, sizes={"a": 2}, init=lambda fill, normal: normal)  # type: ignore[arg-type]


def flat_after(losses: list[float], **rule: Any) -> int | None:
    watch = FlatLoss(WhenFlat(**rule))
    for step, loss in enumerate(losses, 1):
        watch.observe(loss)
        if watch.is_flat:
            return step
    return None


def test_when_a_loss_is_flat() -> None:
    falling = [10 - 0.1 * i for i in range(80)]
    assert flat_after(falling, window=10, patience=1) is None
    level = [*falling, *[2.0] * 60]  # windows end at 10, 20, …; the one that ends at 90 is still an improvement
    assert flat_after(level, window=10, patience=1) == 100
    assert flat_after(level, window=10, patience=3) == 120
    assert flat_after(falling, window=10, patience=1, min_delta=1.01) == 20  # a window falls by 1.0
    assert flat_after(falling, window=10, patience=1, min_delta=0.99) is None
    assert flat_after(falling, window=10, patience=2, min_delta=1.01) is None  # two windows fall by 2.0
    assert flat_after(falling, window=10, patience=2, min_delta=2.01) == 30
    noisy = [2.0 + (-1) ** i for i in range(40)]
    assert flat_after(noisy, window=2, patience=3) == 8
    skipped = [1.0, float("inf"), float("nan")] * 20
    assert flat_after(skipped, window=4, patience=2) == 34  # the twelfth loss that is one


def test_means_over_several_steps_are_taken_as_so_many() -> None:
    one, several = FlatLoss(WhenFlat(window=6, patience=1)), FlatLoss(WhenFlat(window=6, patience=1))
    for start in range(0, 36, 3):
        losses = [float(20 - max(start + i, 12)) for i in range(3)]
        for loss in losses:
            one.observe(loss)
        several.observe(sum(losses) / 3, 3)
        assert several.state_dict() == one.state_dict()
    once = FlatLoss(WhenFlat(window=6, patience=1))
    once.observe(1.0)
    assert once.state_dict() != one.state_dict()


def test_no_keyword_of_plan_passes_as_a_size() -> None:
    for name, parameter in inspect.signature(growformer.plan).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        with pytest.raises(RequestError, match=f"sizes: {name} is "):
            GrowthStage(at_step=1, sizes={name: 5})
    assert GrowthStage(at_step=1, sizes={"sizes": 5}).sizes == {"sizes": 5}
