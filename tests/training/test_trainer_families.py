"""Of every model type, a saved optimizer grows to what growth in memory gives: names in memory and on disk may differ.

python3 scripts/test.py tests/training/test_trainer_families.py -m families    # all model types
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families.case import all_cases
from tests.families.growths import growths_of
from tests.training.trainer_runs import differences, states_of
from transformers.trainer import Trainer

import growformer
from growformer import RequestError
from growformer.execute.live_plan import live_plan
from growformer.execute.optimizer import grow_optimizer
from growformer.execute.saved_optimizer import plan_optimizer, read_optimizer
from growformer.training.region_file import shapes_of
from growformer.training.trainer_checkpoint import loaded_shapes

CASES = {case.model_type: case for case in reversed(all_cases())}
FEW = ("albert", "bart", "clip", "dbrx", "deepseek_v3", "gpt_neox", "gpt_oss", "pegasus", "vit", "whisper")
"""Shared layers, two stacks, a parameter that is a number, experts fused and not, packed heads, latent attention, a
table that is in no checkpoint."""
THAWED = ("ernie4_5_moe", "laguna")
"""Classes that freeze something, which ``from_pretrained`` thaws."""
REFUSED = {
    **dict.fromkeys(
        ("bridgetower_text_model", "idefics2_vision", "kosmos_2_vision_model"),
        "is not one of transformers; without it there is no order of parameters",
    )
}
"""Parts of models, which have no class that Trainer could train."""


def grouped(model: Any) -> torch.optim.Optimizer:
    """An AdamW with the groups of Trainer and a random state."""
    decaying = set(Trainer.get_decay_parameter_names(None, model))
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [[p for name, p in named if (name in decaying) == decays] for decays in (True, False)]
    return torch.optim.AdamW([{"params": some, "weight_decay": 0.1 * (not n)} for n, some in enumerate(groups)])


def check(model_type: str, folder: Path, *, thawed: bool = False) -> list[str]:
    """Return the slots that differ between disk and memory."""
    case = CASES[model_type]
    model = case.build()
    if thawed:
        frozen = [p for p in model.parameters() if not p.requires_grad]
        assert frozen
        model.requires_grad_(True)
    request = growths_of(case).accepted["all"].request
    model.save_pretrained(folder)  # type: ignore[operator]
    optimizer = grouped(model)
    numbers = torch.Generator().manual_seed(0)
    for group in optimizer.param_groups:
        for p in group["params"]:
            first, second = (torch.randn(p.shape, generator=numbers) for _ in range(2))
            optimizer.state[p] = {"step": torch.tensor(7.0), "exp_avg": first, "exp_avg_sq": second.square()}
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    live = live_plan(growformer.plan(folder, **request))
    saved = read_optimizer(folder, "optimizer.pt", live.source)
    assert saved.thawed == thawed
    plan_optimizer(live, saved, state="carry").write(folder, "grown.pt")
    plan = growformer.plan(model, **request)
    grown = growformer.grow(model, plan=plan)
    grow_optimizer(plan, optimizer, model, grown)
    # By these, region updates on disk tell whose they are.
    source_config = live.plan.source.config
    assert loaded_shapes(live.source, source_config) == shapes_of(model)
    assert loaded_shapes(live.target, live.plan.target_config) == shapes_of(grown)
    again = grouped(grown)
    again.load_state_dict(torch.load(folder / "grown.pt", weights_only=True))
    assert len(states_of(again, grown)) == sum(p.requires_grad for p in grown.parameters())
    return differences(states_of(again, grown), states_of(optimizer, grown))


@pytest.mark.parametrize("model_type", FEW)
def test_a_few_model_types(model_type: str, tmp_path: Path) -> None:
    assert check(model_type, tmp_path) == []


@pytest.mark.parametrize("model_type", THAWED)
@pytest.mark.parametrize("thawed", [False, True])
def test_what_a_class_freezes(model_type: str, tmp_path: Path, thawed: bool) -> None:
    assert check(model_type, tmp_path, thawed=thawed) == []


@pytest.mark.parametrize("model_type", REFUSED)
def test_parts_without_a_class_are_refused(model_type: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=REFUSED[model_type]):
        check(model_type, tmp_path)


@pytest.mark.families
@pytest.mark.parametrize("model_type", sorted(set(CASES) - {*FEW, *THAWED, *REFUSED}))
def test_all_other_model_types(model_type: str, tmp_path: Path) -> None:
    assert check(model_type, tmp_path) == []
