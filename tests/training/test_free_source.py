"""In one process too, a source can be freed as it is read."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.distributed.models import MODELS, make, same, step

import growformer


@pytest.mark.parametrize("name", MODELS)
def test_a_freed_source_gives_the_same_model_and_state(name: str) -> None:
    model, sizes = make(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step(model, optimizer)
    twin = copy.deepcopy(model)
    alone = torch.optim.AdamW(twin.parameters())
    alone.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    expected, alone = growformer.grow(twin, optimizer=alone, **sizes)
    grown, optimizer = growformer.grow(model, optimizer=optimizer, free_source=True, **sizes)
    assert same(grown.state_dict(), expected.state_dict())
    assert len(list(grown.parameters())) == len(list(expected.parameters()))
    for parameter, own in zip(grown.parameters(), expected.parameters(), strict=True):
        assert parameter.requires_grad == own.requires_grad
        for slot, value in optimizer.state[parameter].items():
            assert torch.equal(value, alone.state[own][slot]), slot
    assert all(parameter.is_meta for parameter in model.parameters())
    with pytest.raises(growformer.SourceError, match="lies on the meta device"):
        growformer.grow(model, **sizes)
    assert step(grown, optimizer, 1) == step(expected, alone, 1)


def test_what_shares_storage_with_a_freed_source_stays() -> None:
    model, sizes = make("llama")
    kept = model.model.layers[0].mlp.up_proj.weight.detach()[:3]
    before = kept.clone()
    growformer.grow(model, free_source=True, **sizes)
    assert torch.equal(kept, before)


def test_the_optimizer_is_checked_before_anything_is_freed() -> None:
    model, sizes = make("llama")
    other = torch.optim.SGD(make("gpt2")[0].parameters(), lr=1.0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(growformer.RequestError, match="does not belong to this model"):
        growformer.grow(model, optimizer=other, free_source=True, **sizes)
    assert same(model.state_dict(), before)
