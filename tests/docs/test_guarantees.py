"""The table of guarantees is what the code gives today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("guarantees", ROOT / "scripts" / "guarantees.py")
    assert spec is not None
    assert spec.loader is not None
    guarantees = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guarantees)
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in guarantees.page().splitlines()}
    assert cells["llama"][5].startswith("rescaled")  # the paper's section 3.5: gains x sqrt(h / h')
    assert cells["gpt2"][5].startswith("averaged and rescaled")
    assert cells["bert"][5].startswith("repeated, whole multiples only")
    assert cells["bert"][6].startswith("exact up to eps")
    assert [cells[name][1] for name in ("llama", "gpt2", "bert")] == ["exact"] * 3
    assert guarantees.PAGE.read_text(encoding="utf-8") == guarantees.page(), "run python scripts/guarantees.py"
