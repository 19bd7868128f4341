"""The table of guarantees is what the code gives today."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from growformer.architecture.registry import architectures

ROOT = Path(__file__).resolve().parents[2]


def load() -> Any:
    spec = importlib.util.spec_from_file_location("guarantees", ROOT / "scripts" / "guarantees.py")
    assert spec is not None
    assert spec.loader is not None
    guarantees = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guarantees)
    return guarantees


def test_the_table_is_up_to_date() -> None:
    guarantees = load()
    page = guarantees.page()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    cells = {name.split(" ")[0]: row for row in rows for name in row[0].split(", ")}
    assert cells["llama"][5].startswith("rescaled")  # the paper's section 3.5: gains x sqrt(h / h')
    assert cells["gpt2"][5].startswith("averaged and rescaled")
    assert cells["bert"][5].startswith("repeated, whole multiples only")
    assert cells["bert"][6].startswith("exact up to eps")
    assert [cells[name][1] for name in ("llama", "gpt2", "bert")] == ["exact"] * 3
    assert "this would change what the model computes" not in page  # the planner and the check of its plans disagree
    assert guarantees.PAGE.read_text(encoding="utf-8") == page, "run python scripts/guarantees.py"


def test_messages_about_one_model_are_put_in_general() -> None:
    guarantees = load()
    architecture = architectures()["gpt2"]
    message = "cannot grow n_head 3 -> 6: key = n_embd / n_head would shrink from 8 to 4; nearest: 9"
    expected = (
        "cannot grow num_attention_heads N -> N: key = hidden_size / num_attention_heads would shrink from N to N"
    )
    assert guarantees.in_general(message, architecture) == expected
