"""Small checkpoints with every parameter random, and pieces so small that every tensor is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.families.case import all_cases

from growformer.execute import fill, layout
from growformer.planning import initialisation

torch.set_num_threads(1)
CASES = {str(case): case for case in all_cases()}
LLAMA = "llama-LlamaForCausalLM"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors, draws and sums into pieces that are many and uneven."""
    monkeypatch.setattr(layout, "BAND_BYTES", 200)
    monkeypatch.setattr(fill, "_AT_ONCE", 7)
    monkeypatch.setattr(initialisation, "_GROUPS", 3)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a case's name to a checkpoint in several shards, which no test may change."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("checkpoint") / "source"
            CASES[name].source(1e-3).save_pretrained(made[name], max_shard_size="20KB")  # type: ignore[operator]
        return made[name]

    return make


@pytest.fixture
def llama(checkpoint: Callable[[str], Path]) -> Path:
    """Return a Llama checkpoint."""
    return checkpoint(LLAMA)
