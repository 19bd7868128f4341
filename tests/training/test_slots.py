"""Optimizer state of stock classes, wherever a class keeps several declared tensors in one; and several optimizers."""

from __future__ import annotations

import copy
import re
import warnings
from typing import Any

import pytest
import torch
from tests.families.case import all_cases
from tests.families.growths import growths_of
from torch import nn

import growformer
from growformer import RequestError, UpdateRules, updates_of
from growformer.execute.slots import SLOTS
from growformer.execute.stored import stored_tensors, take
from growformer.execute.values import select
from growformer.planning.blocks import Affine, Sum
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan

CASES = {str(case): case for case in all_cases()}
FUSED = ("gpt2-GPT2LMHeadModel", "mixtral-MixtralForCausalLM", "gpt_oss-GptOssForCausalLM", "phi3-Phi3ForCausalLM")
"""Queries, keys and values in one; experts in one; experts interleaved; gate and up in one."""


def source_of(name: str) -> nn.Module:
    model = copy.deepcopy(CASES[name].source())
    return model.requires_grad_(True)


def with_random_state(kind: Any, parameters: Any, **options: Any) -> torch.optim.Optimizer:
    """An optimizer after one step, with every slot random."""
    optimizer: torch.optim.Optimizer = kind(parameters, **options)
    numbers = torch.Generator().manual_seed(4)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    for p in held:
        p.grad = torch.randn(p.shape, generator=numbers)
    optimizer.step()
    optimizer.zero_grad()
    for p in held:
        for value in optimizer.state[p].values():
            if isinstance(value, torch.Tensor) and value.ndim:
                value.copy_(torch.rand(value.shape, generator=numbers) + 0.5)
    return optimizer


def wrong_slots(plan: Plan, before: dict[str, Any], grown: nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    """Count the values of all slots that are not what the plan's blocks make of the source's."""
    states = {p: s for optimizer in optimizers for p, s in optimizer.state.items()}
    parameters = dict(grown.named_parameters(remove_duplicate=False))
    wrong = compared = 0
    for stored in stored_tensors(plan):
        for slot, value in states.get(parameters.get(stored.name), {}).items():
            if not isinstance(value, torch.Tensor) or not value.ndim:
                continue
            for spec, index, piece in stored.parts:
                expected = torch.zeros(tensor_plan(plan, spec, index).shape)
                for block in tensor_plan(plan, spec, index).blocks:
                    given = block.value.parts if isinstance(block.value, Sum) else (block.value,)
                    for part in given:
                        if isinstance(part, Affine):
                            info = plan.source.tensors[part.tensor]
                            source = select(take(before[info.stored][slot], info.piece), part.region)
                            expected[block_index(block.region)] = source * float(part.slope) ** SLOTS[slot]
                            break
                found = take(value, piece)
                wrong += int((~torch.isclose(found, expected, rtol=1e-6, atol=0)).sum())
                compared += found.numel()
    assert compared > 10_000
    return wrong


def block_index(region: Any) -> Any:
    along = [torch.arange(i.start, i.stop) if isinstance(i, slice) else torch.from_numpy(i) for i in region]
    return torch.meshgrid(*along, indexing="ij")


def states_of(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    held = {p: s for optimizer in optimizers for p, s in optimizer.state.items()}
    return {
        name: {slot: v.clone() for slot, v in held[p].items() if isinstance(v, torch.Tensor)}
        for name, p in model.named_parameters(remove_duplicate=False)
        if p in held
    }


@pytest.mark.parametrize("name", FUSED)
def test_state_follows_every_block_of_fused_parameters(name: str) -> None:
    model = source_of(name)
    optimizer = with_random_state(torch.optim.AdamW, model.parameters(), lr=1e-3)
    plan = growformer.plan(model, init="noise", **growths_of(CASES[name]).accepted["all"].request)
    before = states_of(model, [optimizer])
    grown, optimizer = growformer.grow(model, optimizer=optimizer, plan=plan)
    assert wrong_slots(plan, before, grown, [optimizer]) == 0
    one = next(s for s in optimizer.state.values() if s["exp_avg"].ndim == 2)
    one["exp_avg"][0, 0] += 1.0
    assert wrong_slots(plan, before, grown, [optimizer]) == 1


LLAMA = "llama-LlamaForCausalLM"


def muon_and_adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of layers, AdamW for all else, as Muon is used."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.ndim == 2 and ".layers." in n]
    rest = [p for n, p in named if not (p.ndim == 2 and ".layers." in n)]
    return [
        with_random_state(torch.optim.Muon, matrices, lr=1e-2, weight_decay=0.1),
        with_random_state(torch.optim.AdamW, rest, lr=1e-3, weight_decay=0.1),
    ]


def step(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    numbers = torch.Generator().manual_seed(9)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=numbers)
    for optimizer in optimizers:
        optimizer.step()


def test_muon_and_adamw_grow_together() -> None:
    model = source_of(LLAMA)
    optimizers = muon_and_adamw(model)
    plan = growformer.plan(model, init="noise", **growths_of(CASES[LLAMA]).accepted["all"].request)
    before = states_of(model, optimizers)
    rates = [group["lr"] for o in optimizers for group in o.param_groups]
    grown, same = growformer.grow(model, optimizer=optimizers, plan=plan, updates=UpdateRules(freeze_old=True))
    assert same is optimizers
    assert wrong_slots(plan, before, grown, optimizers) == 0
    held = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    assert set(held) == set(grown.parameters())
    assert len(held) == len(set(held))
    assert [group["lr"] for o in optimizers for group in o.param_groups] == rates
    start = copy.deepcopy(grown.state_dict())
    step(grown, optimizers)
    for stored in stored_tensors(plan):
        for spec, index, piece in stored.parts:
            if plan.is_new(index):
                continue
            was, found = (take(d[stored.name], piece) for d in (start, grown.state_dict()))
            for block in tensor_plan(plan, spec, index).blocks:
                old = isinstance(block.value, Affine)
                assert torch.equal(select(was, block.region), select(found, block.region)) == old, stored.name


def test_muon_scales_what_is_new() -> None:
    """At twice the rate, new regions move twice as far, from the same orthogonalised momentum; their decay apart."""
    moved = {}
    for rate in (1.0, 2.0):
        model = source_of(LLAMA)
        optimizers = muon_and_adamw(model)
        size = 2 * model.config.intermediate_size
        rules = UpdateRules(new_rate=rate, new_decay=0.0)
        grown, optimizers = growformer.grow(model, optimizer=optimizers, updates=rules, intermediate_size=size)
        weight = grown.get_parameter("model.layers.0.mlp.up_proj.weight")
        start = weight.detach().clone()
        step(grown, optimizers)
        moved[rate] = weight.detach() - start
        assert len(updates_of(optimizers[0]).regions(weight)) == 1
    half = len(moved[1.0]) // 2
    torch.testing.assert_close(moved[2.0][half:], 2 * moved[1.0][half:], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(moved[2.0][:half], moved[1.0][:half])


def test_a_parameter_has_one_optimizer() -> None:
    model = source_of(LLAMA)
    optimizers = muon_and_adamw(model)
    optimizers[1].add_param_group({"params": [optimizers[0].param_groups[0]["params"][0]]})
    with pytest.raises(RequestError, match=r"optimizers 0 and 1 both hold model\.layers\.0\.self_attn\.q_proj\.weight"):
        growformer.grow(model, optimizer=optimizers, num_hidden_layers=4)
    assert set(optimizers[0].param_groups[0]["params"]) < set(model.parameters())


@pytest.mark.parametrize("alone", [0, 1])
def test_an_optimizer_that_is_left_out_is_missed(alone: int) -> None:
    """It would go on with the source model, and half of the grown one would stop learning without a word."""
    model = source_of(LLAMA)
    optimizers = muon_and_adamw(model)
    others = [p for group in optimizers[1 - alone].param_groups for p in group["params"]]
    first = next(name for name, p in model.named_parameters() if any(p is other for other in others))
    message = rf"^{len(others)} parameters that learn are in none of the optimizers, such as {re.escape(first)}: pass"
    with pytest.warns(UserWarning, match=message) as caught:
        growformer.grow(model, optimizer=optimizers[alone], num_hidden_layers=4)
    assert caught[0].filename == __file__


def test_what_does_not_learn_needs_no_optimizer() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*are in none of the optimizers")
        model = source_of(LLAMA)
        optimizers = muon_and_adamw(model)
        for group in optimizers[1].param_groups:
            for parameter in group["params"]:
                parameter.requires_grad_(False)
        growformer.grow(model, optimizer=optimizers[0], num_hidden_layers=4)
        model = source_of(LLAMA)
        growformer.grow(model, optimizer=muon_and_adamw(model), num_hidden_layers=4)
        model.lm_head.weight = model.model.embed_tokens.weight  # tied: one parameter under two names
        model.config.tie_word_embeddings = True
        growformer.grow(model, optimizer=torch.optim.AdamW(model.parameters()), num_hidden_layers=4)


def test_optimizers_come_in_any_iterable() -> None:
    for several in (lambda o: dict(enumerate(o)).values(), iter, tuple):
        model = source_of(LLAMA)
        optimizers = muon_and_adamw(model)
        grown, back = growformer.grow(model, optimizer=several(optimizers), num_hidden_layers=4)
        assert list(back) == optimizers
        assert {p for o in back for group in o.param_groups for p in group["params"]} == set(grown.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("adamw", r"optimizer = str: expected a torch.optim.Optimizer or several, as in \[muon, adamw\], found str"),
        ([None], "optimizer = list: expected .*, found NoneType"),
        (7, "optimizer = int: expected .*, found int"),
        ([], "optimizer = none at all: expected"),
    ],
)
def test_what_is_no_optimizer_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        growformer.grow(source_of(LLAMA), optimizer=wrong, num_hidden_layers=4)
