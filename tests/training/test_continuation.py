"""Training goes on through growth: gradients, optimizer state and updates of the reference model follow the plan."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from tests.theorems.support import CONFIGS, THEOREMS, execute, inputs_for, plan_for, random_model, select

from growformer import RequestError, UpdateRules
from growformer.execute.optimizer import grow_optimizer
from growformer.execute.slots import slot_plan
from growformer.planning.blocks import Affine
from growformer.planning.plan import Plan
from growformer.planning.transformations import LayerAddition
from growformer.reference import ReferenceTransformer
from growformer.training.continuation import continue_training, scale_updates
from growformer.training.regions import UpdateRegion
from growformer.training.updates import updates_of

torch.set_num_threads(1)
RULES = UpdateRules(new_rate=0.0, policy="function_space", bias_correction=False)


def loss_of(model: ReferenceTransformer) -> torch.Tensor:
    tokens, _ = inputs_for(model.config)
    target = torch.randn(*tokens.shape, model.config.output_size, generator=torch.Generator().manual_seed(5)).double()
    return (model(tokens) - target).square().mean()


def step(model: ReferenceTransformer, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def source_blocks(plan: Plan) -> list[tuple[str, Any, Affine]]:
    """Blocks that come from the source, with the name of what they lie in."""
    return [
        (tensor.name, block.region, block.value)
        for tensor in plan.tensors()
        for block in tensor.blocks
        if isinstance(block.value, Affine) and not plan.is_new(dict(tensor.index))
    ]


def worst_gradient(plan: Plan, source: ReferenceTransformer, grown: ReferenceTransformer, *, sloped: bool) -> float:
    for model in (source, grown):
        model.zero_grad()
        loss_of(model).backward()
    worst = 0.0
    for name, region, value in source_blocks(plan):
        before, after = source.get_parameter(value.tensor).grad, grown.get_parameter(name).grad
        assert before is not None
        assert after is not None
        expected = before[select(before, value.region)] * (float(value.slope) if sloped else 1.0)
        found = after[select(after, region)]
        if found.numel():
            worst = max(worst, float((found - expected).abs().max() / before.abs().max().clamp_min(1e-12)))
    return worst


@pytest.mark.parametrize("theorem", THEOREMS)
@pytest.mark.parametrize("variant", CONFIGS)
def test_gradients_of_the_source_are_kept_up_to_their_slope(variant: str, theorem: str) -> None:
    source = random_model(CONFIGS[variant])
    plan = plan_for(source, *THEOREMS[theorem])
    assert worst_gradient(plan, source, execute(plan, source), sloped=True) < 1e-9


@pytest.mark.parametrize("theorem", ["3.4", "3.5"])
def test_without_slopes_gradients_differ(theorem: str) -> None:
    source = random_model(CONFIGS["paper"])
    plan = plan_for(source, *THEOREMS[theorem])
    assert worst_gradient(plan, source, execute(plan, source), sloped=False) > 1e-2


OPTIMIZERS: dict[str, Any] = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.0, eps=1e-30),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.0, eps=1e-30, amsgrad=True),
    "Adam, one by one": lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-30, foreach=False),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-4, eps=1e-30, momentum=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("theorem", ["3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "all"])
def test_with_what_is_new_frozen_the_run_goes_on_as_if_it_had_not_grown(theorem: str, name: str) -> None:
    source = random_model(CONFIGS["final norm"])
    optimizer = OPTIMIZERS[name](source.parameters())
    for _ in range(5):
        step(source, optimizer)
    twin = copy.deepcopy(source)
    alone = OPTIMIZERS[name](twin.parameters())
    alone.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    plan = plan_for(source, *THEOREMS[theorem])
    grown = execute(plan, source)
    assert continue_training(plan, optimizer, source, grown, updates=RULES) is optimizer
    losses = [(step(grown, optimizer), step(twin, alone)) for _ in range(100)]
    assert max(abs(a - b) / abs(b) for a, b in losses) < 1e-10


def test_the_raw_policy_moves_the_function_at_another_speed() -> None:
    source = random_model(CONFIGS["final norm"])
    optimizer = OPTIMIZERS["AdamW"](source.parameters())
    for _ in range(5):
        step(source, optimizer)
    twin = copy.deepcopy(source)
    alone = OPTIMIZERS["AdamW"](twin.parameters())
    alone.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    plan = plan_for(source, *THEOREMS["3.5"])
    grown = execute(plan, source)
    raw = UpdateRules(new_rate=0.0, bias_correction=False)
    continue_training(plan, optimizer, source, grown, updates=raw)
    losses = [(step(grown, optimizer), step(twin, alone)) for _ in range(20)]
    assert max(abs(a - b) / abs(b) for a, b in losses) > 1e-6


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("how", ["foreach", "fused", "one by one"])
def test_what_is_born_late_is_updated_as_by_a_fresh_adam(how: str, decay: float) -> None:
    """A new row, born at step 10,000, follows a fresh AdamW on the same gradients for 100 steps."""
    options = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-12, "weight_decay": decay}
    options[{"foreach": "foreach", "fused": "fused", "one by one": "capturable"}[how]] = how != "one by one"
    source = random_model(CONFIGS["paper"])
    optimizer = torch.optim.AdamW(source.parameters(), **options)
    step(source, optimizer)
    for state in optimizer.state.values():
        state["step"].fill_(10_000)
    plan = plan_for(source, *THEOREMS["3.1"])
    grown = execute(plan, source)
    continue_training(plan, optimizer, source, grown)
    name = "layers.0.mlp.up.weight"
    parameter, born = grown.get_parameter(name), grown.config.mlp[0] - source.config.mlp[0]
    fresh = torch.nn.Parameter(parameter.detach()[:, -born:].clone())
    alone = torch.optim.AdamW([fresh], **options)
    numbers = torch.Generator().manual_seed(3)
    for _ in range(100):
        for p in grown.parameters():
            p.grad = torch.randn(p.shape, generator=numbers, dtype=p.dtype)
        assert parameter.grad is not None
        fresh.grad = parameter.grad[:, -born:].clone()
        optimizer.step()
        alone.step()
        torch.testing.assert_close(parameter.detach()[:, -born:], fresh.detach(), rtol=1e-9, atol=1e-12)
    assert len(updates_of(optimizer).regions(parameter)) == 1
    without = torch.optim.AdamW([torch.nn.Parameter(fresh.detach().clone())], **options)
    assert without.state_dict()["state"] == {}


def test_bias_correction_ends_by_itself() -> None:
    source = random_model(CONFIGS["paper"])
    optimizer = torch.optim.AdamW(source.parameters(), lr=1e-3, betas=(0.5, 0.6))
    for _ in range(50):
        step(source, optimizer)
    plan = plan_for(source, *THEOREMS["3.1"])
    grown = execute(plan, source)
    continue_training(plan, optimizer, source, grown)
    parameters = list(grown.parameters())
    assert any(updates_of(optimizer).regions(p) for p in parameters)
    for _ in range(60):
        step(grown, optimizer)
    assert not any(updates_of(optimizer).regions(p) for p in parameters)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_what_is_old_can_be_frozen_bit_for_bit(decay: float) -> None:
    source = random_model(CONFIGS["paper"])
    optimizer = torch.optim.AdamW(source.parameters(), lr=1e-2, weight_decay=decay)
    step(source, optimizer)
    plan = plan_for(source, *THEOREMS["all"])
    grown = execute(plan, source)
    before = copy.deepcopy(grown.state_dict())
    continue_training(plan, optimizer, source, grown, updates=UpdateRules(freeze_old=True))
    first = step(grown, optimizer)
    for _ in range(10):
        last = step(grown, optimizer)
    assert last < first
    for name, region, _ in source_blocks(plan):
        at = select(before[name], region)
        assert torch.equal(grown.get_parameter(name).detach()[at], before[name][at]), name
    assert any(not torch.equal(p.detach(), before[name]) for name, p in grown.named_parameters())


def test_rates_and_ramps_of_what_is_new() -> None:
    source = random_model(CONFIGS["paper"])
    optimizer = torch.optim.SGD(source.parameters(), lr=1.0)
    plan = plan_for(source, *THEOREMS["3.1"])
    grown = execute(plan, source)
    continue_training(plan, optimizer, source, grown, updates=UpdateRules(new_rate=2.0, ramp=4))
    parameter = grown.get_parameter("layers.0.mlp.up.weight")
    old = source.config.mlp[0]
    moved = []
    for _ in range(6):
        before = parameter.detach().clone()
        for p in grown.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        moved.append([float((before - parameter.detach())[0, at]) for at in (0, old)])
    assert [old for old, _ in moved] == pytest.approx([1.0] * 6)
    assert [new for _, new in moved] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


def test_where_regions_overlap_rates_multiply_and_decay_stays_apart() -> None:
    """What was born with a rate and a decay of its own, and is rescaled by a later growth."""
    start = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = {}
    for decay in (0.0, 0.3):
        plain = torch.nn.Parameter(start.clone())
        plain.grad = gradient.clone()
        torch.optim.AdamW([plain], lr=0.1, weight_decay=decay).step()
        moved[decay] = plain.detach() - start
    parameter = torch.nn.Parameter(start.clone())
    parameter.grad = gradient.clone()
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.3)
    part = (slice(2, 6), slice(0, 5))
    born, rescaled = UpdateRegion(part, 0, rate=3.0, decay=0.5), UpdateRegion((slice(0, 6), slice(1, 5)), 0, rate=0.5)
    updates_of(optimizer).set_regions(0, {parameter: [born, rescaled]})
    optimizer.step()
    rate, decay = torch.ones_like(start), torch.ones_like(start)
    rate[2:] *= 3
    rate[:, 1:] *= 0.5
    decay[2:] = 0.5
    expected = start + rate * moved[0.0] + decay * (moved[0.3] - moved[0.0])
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)


def test_state_policies() -> None:
    source = random_model(CONFIGS["paper"])
    for policy, expected in {"carry": (True, True), "zero-new": (True, False), "drop": (False, False)}.items():
        model = copy.deepcopy(source)
        optimizer = torch.optim.AdamW(model.parameters())
        step(model, optimizer)
        plan = plan_for(model, *THEOREMS["3.6"])
        new = next(dict(t.index)["layer"] for t in plan.tensors() if plan.is_new(dict(t.index)))
        old = next(dict(t.index)["layer"] for t in plan.tensors() if t.index and not plan.is_new(dict(t.index)))
        grown = execute(plan, model)
        continue_training(plan, optimizer, model, grown, state=policy)
        found = tuple(
            bool(optimizer.state.get(grown.get_parameter(f"layers.{layer}.mlp.up.weight"), {})) for layer in (old, new)
        )
        assert found == expected, policy
        step(grown, optimizer)


def test_groups_names_and_schedulers_stay() -> None:
    source = random_model(CONFIGS["paper"])
    named = list(source.named_parameters())
    groups = [
        {"params": [(n, p) for n, p in named if p.ndim == 1], "weight_decay": 0.0},
        {"params": [(n, p) for n, p in named if p.ndim != 1 and "embedding" not in n], "lr": 3e-4},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=10)
    step(source, optimizer)
    schedule.step()
    plan = plan_for(source, *THEOREMS["all"])
    grown = execute(plan, source)
    continue_training(plan, optimizer, source, grown)
    names = [group["param_names"] for group in optimizer.param_groups]
    assert all(grown.get_parameter(n).ndim == 1 for n in names[0])
    expected = {n for n, _ in grown.named_parameters() if "embedding" not in n}
    assert {n for some in names for n in some} == expected
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(parameters) == len(set(parameters)) == len(expected)
    rate = optimizer.param_groups[1]["lr"]
    schedule.step()
    assert optimizer.param_groups[1]["lr"] > rate
    step(grown, optimizer)


def test_region_updates_survive_saving_and_a_second_growth() -> None:
    rules = UpdateRules(new_rate=1.5, ramp=30)
    finals = []
    for saved in (False, True):
        model = random_model(CONFIGS["paper"])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for theorem in ("3.1", "3.5"):
            for _ in range(3):
                step(model, optimizer)
            plan = plan_for(model, *THEOREMS[theorem])
            grown = execute(plan, model)
            continue_training(plan, optimizer, model, grown, updates=rules)
            model = grown
        if saved:
            kept = copy.deepcopy((model.state_dict(), optimizer.state_dict(), updates_of(optimizer).state_dict()))
            other = ReferenceTransformer(model.config).double()
            other.load_state_dict(kept[0])
            model, optimizer = other, torch.optim.AdamW(other.parameters(), lr=1e-3)
            optimizer.load_state_dict(kept[1])
            updates_of(optimizer).load_state_dict(kept[2])
        regions = [r for p in model.parameters() for r in updates_of(optimizer).regions(p)]
        assert {region.born for region in regions if isinstance(region, UpdateRegion)} == {0, 3}
        for _ in range(5):
            last = step(model, optimizer)
        finals.append((last, model.state_dict()))
    assert finals[0][0] == finals[1][0]
    assert all(torch.equal(finals[0][1][name], value) for name, value in finals[1][1].items())


class Factored(torch.optim.SGD):
    """An optimizer with a slot of its own."""

    slot, shape = "unheard_of", "same"

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                size = p.shape if self.shape == "same" else p.shape[:1]
                self.state[p][self.slot] = torch.zeros(size, dtype=p.dtype)
        return super().step(closure)


@pytest.mark.parametrize(
    ("slot", "shape", "message"),
    [
        ("row_var", "row", "is factored, of shape"),
        ("unheard_of", "row", "expected that of the parameter"),
        ("unheard_of", "same", r"say which power of the gradient it averages, as in slots={'unheard_of': 1}"),
    ],
)
def test_foreign_state_is_refused_before_anything_changes(slot: str, shape: str, message: str) -> None:
    source = random_model(CONFIGS["paper"])
    optimizer = Factored(source.parameters(), lr=0.1)
    optimizer.slot, optimizer.shape = slot, shape
    step(source, optimizer)
    plan = plan_for(source, *THEOREMS["3.1"])
    grown = execute(plan, source)
    before = [p for group in optimizer.param_groups for p in group["params"]]
    with pytest.raises(RequestError, match=message):
        continue_training(plan, optimizer, source, grown)
    after = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(one is other for one, other in zip(before, after, strict=True))
    step(source, optimizer)
    slots = {"unheard_of": 1} if shape == "same" else None
    continue_training(plan, optimizer, source, grown, slots=slots, state="carry" if slots else "drop")
    step(grown, optimizer)


def test_an_optimizer_of_another_model_is_refused() -> None:
    source, other = random_model(CONFIGS["paper"]), random_model(CONFIGS["gelu"])
    plan = plan_for(source, *THEOREMS["3.1"])
    with pytest.raises(RequestError, match="the optimizer does not belong to this model: parameter 0 of group 0"):
        grow_optimizer(plan, torch.optim.SGD(other.parameters(), lr=1), source, execute(plan, source))
    with pytest.raises(RequestError, match=r"unknown state policy 'cary'.*did you mean 'carry'"):
        grow_optimizer(plan, torch.optim.SGD(source.parameters(), lr=1), source, execute(plan, source), state="cary")
    with pytest.raises(RequestError, match=r"unknown update policy 'rav'.*did you mean 'raw'"):
        UpdateRules(policy="rav")
    with pytest.raises(RequestError, match="expected 0 or more"):
        UpdateRules(ramp=-1)


def test_slots_hold_powers_of_the_slope() -> None:
    plan = plan_for(random_model(CONFIGS["paper"]), *THEOREMS["3.5"])
    tensor = plan.tensor("layers.0.mha_norm.weight")
    value = next(b.value for b in tensor.blocks if isinstance(b.value, Affine))
    squared = next(b.value for b in slot_plan(tensor, 2).blocks if isinstance(b.value, Affine))
    assert squared.scale == value.slope * value.slope
    assert value.scale * value.slope == type(value.slope).of(1)


WRITERS = ("mlp.down.weight", "mlp.down.bias", "heads.0.output.weight")


def layers_copied(plan: Plan) -> dict[int, int]:
    """New layer -> where the layer that it copies stands in the target."""
    source = [dict(t.index).get("layer") for t in plan.tensors() if t.template.endswith("mlp.down.weight")]
    layers = [int(layer) for layer in source if layer is not None]
    old = [layer for layer in layers if not plan.is_new({"layer": layer})]
    origins = {layer: plan.origin({"layer": layer}) for layer in layers if layer not in old}
    return {new: old[origin["layer"]] for new, origin in origins.items() if origin is not None}


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("positions", [(1, 3, 4), (2, 3, 4), (0, 1, 2)])
def test_copied_layers_fade_in_to_what_they_copy(positions: tuple[int, ...], saved: bool) -> None:
    """With a learning rate of zero, what a new layer writes with comes to the copied layer's, in equal steps."""
    model = random_model(CONFIGS["paper"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    plan = plan_for(model, LayerAddition(num_hidden_layers=5, positions=positions))
    grown = execute(plan, model)
    before = copy.deepcopy(grown.state_dict())
    continue_training(plan, optimizer, model, grown, updates=UpdateRules(fade_in=4))
    copied = layers_copied(plan)
    assert tuple(copied) == positions
    if saved:
        kept = json.loads(json.dumps(updates_of(optimizer).state_dict()))
        optimizer = torch.optim.SGD(grown.parameters(), lr=0.0)
        updates_of(optimizer).load_state_dict(kept)
    for done in range(1, 7):
        step(grown, optimizer)
        for new, old in copied.items():
            for name in WRITERS:
                found, aim = (grown.get_parameter(f"layers.{at}.{name}").detach() for at in (new, old))
                torch.testing.assert_close(found, aim * min(done / 4, 1.0))
                assert bool(aim.any())
    moved = {name for name, value in grown.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {n for n in before if n.split(".")[1] in map(str, positions) and ("down" in n or "output" in n)}
    assert not any(updates_of(optimizer).regions(p) for p in grown.parameters())


def test_a_second_growth_in_width_goes_on_fading_in() -> None:
    model = random_model(CONFIGS["final norm"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rules = UpdateRules(fade_in=4)
    first = plan_for(model, *THEOREMS["3.6"])
    deeper = execute(first, model)
    continue_training(first, optimizer, model, deeper, updates=rules)
    step(deeper, optimizer)
    second = plan_for(deeper, *THEOREMS["3.5"])
    wider = execute(second, deeper)
    continue_training(second, optimizer, deeper, wider, updates=rules)
    for done in (2, 3, 4, 5):
        step(wider, optimizer)
        for new, old in layers_copied(first).items():
            for name in ("mlp.down.weight", "mlp.down.bias"):
                found, aim = (wider.get_parameter(f"layers.{at}.{name}").detach()[..., :5] for at in (new, old))
                torch.testing.assert_close(found, aim * min(done / 4, 1.0))


def test_depth_and_width_at_once_fade_in_what_the_source_has() -> None:
    model = random_model(CONFIGS["final norm"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    plan = plan_for(model, *THEOREMS["all"])
    grown = execute(plan, model)
    before = copy.deepcopy(grown.state_dict())
    continue_training(plan, optimizer, model, grown, updates=UpdateRules(fade_in=1))
    step(grown, optimizer)
    for new, old in layers_copied(plan).items():
        name = f"layers.{new}.mlp.down.weight"
        moved = (grown.get_parameter(name).detach() - before[name]) != 0
        aim = before[f"layers.{old}.mlp.down.weight"]
        assert (
            int(moved.sum())
            == model.get_parameter(f"layers.{plan.origin({'layer': new})['layer']}.mlp.down.weight").numel()
        )
        torch.testing.assert_close(grown.get_parameter(name).detach()[moved], aim[moved])


def test_a_fade_in_from_another_model_is_refused() -> None:
    model = random_model(CONFIGS["paper"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    region = {"region": [[0, 5]], "towards": 0, "steps": 3, "done": 0, "start": 0.0}
    number = next(n for n, p in enumerate(model.parameters()) if p.shape == (5,))
    with pytest.raises(RequestError, match="fades in from 0, which is none of the same shape"):
        updates_of(optimizer).load_state_dict({"steps": 0, "regions": {number: [region]}})
    with pytest.raises(ValueError, match="a fade that no rule gives"):
        updates_of(optimizer).load_state_dict({"steps": 0, "regions": {number: [{**region, "towards": None}]}})


@pytest.mark.parametrize("rate", [0.3, 2.7])
def test_scaling_an_update_of_nothing_leaves_every_bit(rate: float) -> None:
    """In bfloat16 too, where 0.3 w + 0.7 w is not w."""
    model = random_model(CONFIGS["paper"])
    plan = plan_for(model, *THEOREMS["all"])
    grown, model = execute(plan, model).bfloat16(), model.bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    continue_training(plan, optimizer, model, grown, updates=UpdateRules(new_rate=rate, fade_in=0))
    before = copy.deepcopy(grown.state_dict())
    for p in grown.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert any(updates_of(optimizer).regions(p) for p in grown.parameters())
    assert all(torch.equal(value, before[name]) for name, value in grown.state_dict().items())


# What a step may meet.


def grown_late(theorem: str, *, step_count: int = 1000, rules: UpdateRules | None = None, **options: Any) -> Any:
    """A reference model that has grown in a run of AdamW, late; with its plan."""
    model = random_model(CONFIGS["paper"])
    optimizer = torch.optim.AdamW(model.parameters(), **{"lr": 1e-2, "weight_decay": 0.0, **options})
    step(model, optimizer)
    for state in optimizer.state.values():
        state["step"].fill_(step_count)
    plan = plan_for(model, *THEOREMS[theorem])
    grown = execute(plan, model)
    continue_training(plan, optimizer, model, grown, updates=rules)
    return grown, optimizer, plan


def with_gradients(model: ReferenceTransformer, seed: int = 0) -> None:
    numbers = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=numbers, dtype=p.dtype)


def test_a_parameter_without_gradient_waits() -> None:
    grown, optimizer, _ = grown_late("3.1")
    weight = grown.get_parameter("layers.0.mlp.up.weight")
    regions, before = updates_of(optimizer).regions(weight), weight.detach().clone()
    with_gradients(grown)
    weight.grad = None
    optimizer.step()
    assert updates_of(optimizer).regions(weight) == regions
    assert torch.equal(weight.detach(), before)
    with_gradients(grown)
    optimizer.step()
    assert not torch.equal(weight.detach(), before)


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.9, 0.95), (0.5, 0.999)])
def test_bias_correction_lasts_until_moments_have_forgotten_that_they_are_young(betas: tuple[float, float]) -> None:
    """Its factor may be 1 for a moment: at (0.9, 0.99) it is at age 1."""
    grown, optimizer, _ = grown_late("3.1", step_count=10_000, betas=betas, eps=1e-12)
    weight, born = grown.get_parameter("layers.0.mlp.up.weight"), 6
    fresh = torch.nn.Parameter(weight.detach()[:, -born:].clone())
    alone = torch.optim.AdamW([fresh], lr=1e-2, betas=betas, eps=1e-12, weight_decay=0.0)
    for seed in range(40):
        with_gradients(grown, seed)
        assert weight.grad is not None
        fresh.grad = weight.grad[:, -born:].clone()
        optimizer.step()
        alone.step()
        torch.testing.assert_close(weight.detach()[:, -born:], fresh.detach(), rtol=1e-9, atol=1e-12)


def test_copies_are_as_young_as_what_they_copy() -> None:
    grown, optimizer, _ = grown_late("3.1")
    with_gradients(grown)
    optimizer.step()
    plan = plan_for(grown, *THEOREMS["3.6"])
    deeper = execute(plan, grown)
    continue_training(plan, optimizer, grown, deeper, updates=UpdateRules(fade_in=0))
    for new, old in layers_copied(plan).items():
        young = [
            [(r.region, r.inherited) for r in updates_of(optimizer).regions(deeper.get_parameter(name)) if r.inherited]
            for name in (f"layers.{new}.mlp.up.weight", f"layers.{old}.mlp.up.weight")
        ]
        assert young[0] == young[1]
        assert [inherited for _, inherited in young[0]] == [1000]


def test_a_closure_may_clear_gradients_first() -> None:
    grown, optimizer, plan = grown_late("3.1", rules=UpdateRules(freeze_old=True))
    before = copy.deepcopy(grown.state_dict())
    optimizer.zero_grad()

    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(grown)
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    for name, region, _ in source_blocks(plan):
        at = select(before[name], region)
        assert torch.equal(grown.get_parameter(name).detach()[at], before[name][at]), name
    assert any(not torch.equal(p.detach(), before[name]) for name, p in grown.named_parameters())


class OwnAdamW(torch.optim.AdamW):
    """A subclass is of its kind."""


@pytest.mark.parametrize("kind", ["own", "decoupled Adam"])
def test_kinds_are_known_by_what_they_come_from(kind: str) -> None:
    model = random_model(CONFIGS["paper"])
    options = {"lr": 1e-2, "weight_decay": 0.5, "betas": (0.9, 0.999)}
    optimizer: torch.optim.Optimizer = (
        OwnAdamW(model.parameters(), **options)
        if kind == "own"
        else torch.optim.Adam(model.parameters(), decoupled_weight_decay=True, **options)
    )
    step(model, optimizer)
    plan = plan_for(model, *THEOREMS["3.1"])
    grown = execute(plan, model)
    continue_training(plan, optimizer, model, grown, updates=UpdateRules(new_rate=0.0))
    weight = grown.get_parameter("layers.0.mlp.up.weight")
    before = weight.detach().clone()
    with_gradients(grown)
    optimizer.step()
    assert updates_of(optimizer).regions(weight)
    torch.testing.assert_close(weight.detach()[:, -6:], before[:, -6:] * (1 - 1e-2 * 0.5))  # decay, and nothing else


# Fading in, whatever happens meanwhile.


def faded(plan: Plan, grown: ReferenceTransformer) -> float:
    """The largest distance of what a new layer writes with from that of the layer that it copies."""
    pairs = [
        [grown.get_parameter(f"layers.{at}.{name}").detach().double() for at in (new, old)]
        for new, old in layers_copied(plan).items()
        for name in WRITERS
    ]
    return max(float((a - b).abs().max()) for a, b in pairs)


def test_a_skipped_step_delays_fading_in() -> None:
    grown, optimizer, plan = grown_late("3.6", rules=UpdateRules(fade_in=4), lr=0.0, fused=True)
    optimizer.grad_scale, optimizer.found_inf = None, torch.ones(())  # as GradScaler says that a gradient is infinite
    with_gradients(grown)
    optimizer.step()
    optimizer.found_inf = torch.zeros(())
    for _ in range(4):
        assert faded(plan, grown) > 0.1
        with_gradients(grown)
        optimizer.step()
    assert faded(plan, grown) < 1e-12


def test_fading_in_without_gradients_goes_on() -> None:
    grown, optimizer, plan = grown_late("3.6", rules=UpdateRules(fade_in=4), lr=0.0)
    for _ in range(4):
        with_gradients(grown)
        for new in layers_copied(plan):
            grown.get_parameter(f"layers.{new}.mlp.down.weight").grad = None
        optimizer.step()
    assert faded(plan, grown) < 1e-12


@pytest.mark.parametrize("late", [False, True])
def test_fading_in_ends_at_frozen_layers_exactly(late: bool) -> None:
    """With what is old frozen from the beginning, or by a growth on the way."""
    rules = UpdateRules(fade_in=4, freeze_old=not late)
    grown, optimizer, plan = grown_late("3.6", rules=rules, lr=0.0 if late else 1e-2)
    if not late:
        for new in layers_copied(plan):
            for name in WRITERS:
                grown.get_parameter(f"layers.{new}.{name}").requires_grad_(False)  # no update of its own
    for done in range(4):
        if late and done == 2:
            wider = plan_for(grown, *THEOREMS["3.5"])
            larger = execute(wider, grown)
            continue_training(wider, optimizer, grown, larger, updates=UpdateRules(freeze_old=True))
            grown = larger
        grown.zero_grad()
        loss_of(grown).backward()
        optimizer.step()
    if late:
        for new, old in layers_copied(plan).items():
            found, aim = (grown.get_parameter(f"layers.{at}.mlp.down.weight").detach()[:, :5] for at in (new, old))
            torch.testing.assert_close(found, aim)
    else:
        assert faded(plan, grown) < 1e-12


def test_a_copy_of_what_is_fading_in_ends_where_it_ends() -> None:
    grown, optimizer, first = grown_late("3.6", rules=UpdateRules(fade_in=4), lr=0.0)
    with_gradients(grown)
    optimizer.step()
    plan = plan_for(grown, LayerAddition(num_hidden_layers=8, positions="end"))
    deeper = execute(plan, grown)
    continue_training(plan, optimizer, grown, deeper, updates=UpdateRules(fade_in=4))
    for _ in range(4):
        with_gradients(deeper)
        optimizer.step()
    assert faded(first, deeper) < 1e-12
    assert faded(plan, deeper) < 1e-12


def test_long_fades_come_to_their_end_in_bfloat16() -> None:
    model = random_model(CONFIGS["paper"])
    plan = plan_for(model, *THEOREMS["3.6"])
    grown, model = execute(plan, model).bfloat16(), model.bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    continue_training(plan, optimizer, model, grown, updates=UpdateRules(fade_in=1000))
    for _ in range(1000):
        for p in grown.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert faded(plan, grown) == 0


def test_new_heads_do_not_fade_in() -> None:
    """Beside the head that it copies, a copied head would count twice."""
    grown, optimizer, _ = grown_late("3.2", lr=0.0)
    before = copy.deepcopy(grown.state_dict())
    for _ in range(3):
        with_gradients(grown)
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in grown.state_dict().items())


def test_updates_of_a_run_that_went_on_are_not_made_anew() -> None:
    model = random_model(CONFIGS["paper"])
    plan = plan_for(model, *THEOREMS["3.6"])
    grown = execute(plan, model)
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    scale_updates(optimizer, grown, plan)
    with pytest.raises(RequestError, match="has region updates already"):
        scale_updates(optimizer, grown, plan)
    step(grown, optimizer)
    with pytest.raises(RequestError, match="has been trained since it was grown"):
        scale_updates(torch.optim.SGD(grown.parameters(), lr=0.1), grown, plan)


def test_a_layer_fades_in_from_one_that_the_optimizer_has() -> None:
    model = random_model(CONFIGS["paper"])
    plan = plan_for(model, *THEOREMS["3.6"])
    grown = execute(plan, model)
    new = [p for name, p in grown.named_parameters() if name.split(".")[1] in map(str, layers_copied(plan))]
    with pytest.raises(RequestError, match=r"is to fade in from .*, which this optimizer does not have"):
        scale_updates(torch.optim.SGD(new, lr=0.1), grown, plan)
    scale_updates(torch.optim.SGD(new, lr=0.1), grown, plan, updates=UpdateRules(fade_in=0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ramp": 250.0}, r"ramp = 250\.0: expected a whole number of steps"),
        ({"fade_in": 2.5}, r"fade_in = 2\.5: expected a whole number of steps"),
        ({"freeze_old": "no"}, r"freeze_old = 'no': expected True or False"),
        ({"new_rate": "2"}, r"new_rate = '2': expected a number"),
        ({"fade_in": -1}, r"fade_in = -1: expected 0 or more"),
        ({"policy": "funktion"}, r"unknown update policy 'funktion'"),
    ],
)
def test_wrong_rules_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        UpdateRules(**wrong)
