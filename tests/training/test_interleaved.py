"""Update regions of parameters that lie interleaved in one stored tensor: every second column is a gate."""

from __future__ import annotations

import torch
from tests.distributed.models import make

import growformer


def test_updates_of_interleaved_experts_are_scaled_once() -> None:
    model, _ = make("gpt_oss")
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    rules = growformer.UpdateRules(new_rate=1.5)
    grown, optimizer = growformer.grow(model, optimizer=optimizer, intermediate_size=26, updates=rules)
    parameter = grown.get_parameter("model.layers.0.mlp.experts.gate_up_proj")
    old = model.get_parameter("model.layers.0.mlp.experts.gate_up_proj").shape[-1]
    before = parameter.detach().clone()
    for one in grown.parameters():
        one.grad = torch.ones_like(one)
    optimizer.step()
    moved = before - parameter.detach()
    torch.testing.assert_close(moved[..., :old], torch.ones_like(moved[..., :old]))
    torch.testing.assert_close(moved[..., old:], torch.full_like(moved[..., old:], 1.5))
