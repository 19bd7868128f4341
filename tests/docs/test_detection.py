"""The table of what is detected is what the constraints catch today, for one family; the slow run looks at all."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from tests.verification.sensitivity import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


def load() -> Any:
    spec = importlib.util.spec_from_file_location("detection", ROOT / "scripts" / "detection.py")
    assert spec is not None
    assert spec.loader is not None
    detection = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(detection)
    return detection


@pytest.mark.parametrize(
    "family", ["gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "gpt2")]
)
def test_the_table_is_up_to_date(family: str) -> None:
    detection = load()
    rows = detection.rows([family], outputs=False)
    written = [detection.without_outputs(row) for row in detection.written([family])]
    assert written == [detection.without_outputs(row) for row in rows], "run python scripts/detection.py"


def test_the_table_promises_what_it_should() -> None:
    detection = load()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in detection.written(list(FAMILIES))]
    assert {row[0] for row in cells} == set(FAMILIES)
    for _, kind, disturbance, constraints, strict, *_ in cells:
        caught, of = map(int, re.findall(r"\d+", constraints))
        if kind in ("copy", "regenerated") or (disturbance == "sign" and kind != "zero"):
            assert caught == of
        if kind != "sum":
            caught, of = map(int, re.findall(r"\d+", strict))
            assert caught == of
