"""Any region of a stored tensor is what it is in the whole, bit by bit: what ranks hold of it adds up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.distributed.models import MODELS, make

import growformer
from growformer.execute.module import tensors_of
from growformer.execute.stored import materialise_stored, stored_tensors, take

INITS: dict[str, Any] = {"copy": "copy", "orthogonal": "orthogonal", "noise": "noise",
                         "a function": lambda fill, normal: normal + normal.mean()}  # fmt: skip


@pytest.mark.parametrize(("name", "init"), [*((name, "normal") for name in MODELS), *(("llama", i) for i in INITS)])
def test_regions_are_parts_of_the_whole(name: str, init: str) -> None:
    model, sizes = make(name)
    plan = growformer.plan(model, init=INITS.get(init, init), **sizes)
    source = tensors_of(model)
    asked: list[str] = []

    def read(canonical: str) -> torch.Tensor:
        asked.append(canonical)
        info = plan.source.tensors[canonical]
        return take(source[info.stored].detach(), info.piece)

    numbers = torch.Generator().manual_seed(3)
    differ = 0
    for stored in stored_tensors(plan):
        asked.clear()
        whole = materialise_stored(stored, plan, read, torch.float32)
        needed = list(dict.fromkeys(asked))
        for _ in range(3):
            ends = [torch.randint(0, size + 1, (2,), generator=numbers).sort().values for size in stored.shape]
            bounds = tuple(slice(int(first), int(last)) for first, last in ends)
            asked.clear()
            part = materialise_stored(stored, plan, read, torch.float32, within=bounds)
            assert torch.equal(part, whole[bounds]), stored.name
            assert list(dict.fromkeys(asked)) == needed, "every rank asks for the same sources in the same order"
            moved = tuple(slice(max(0, b.start - 1), max(0, b.stop - 1)) for b in bounds)
            differ += not torch.equal(part, whole[moved])
    assert differ > 10
