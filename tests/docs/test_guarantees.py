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
    assert guarantees.PAGE.read_text(encoding="utf-8") == guarantees.page(), "run python scripts/guarantees.py"
