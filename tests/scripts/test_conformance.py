"""The command that checks model types: what it counts, what it says of an unknown one, and that it can fail."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.families import checks
from tests.families.case import all_cases

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
FAMILIES = SCRIPTS.parent / "src" / "growformer" / "architecture" / "families"


@pytest.fixture
def conformance(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("conformance", SCRIPTS / "conformance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["conformance.py", *arguments])
        return int(module.main())

    return run


def test_the_list_counts_what_has_cases(conformance: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance("--list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    types = sorted({case.model_type for case in all_cases()})
    assert found["verified"] == types
    assert found["model_types"] == len(types)
    assert found["declarations"] == len({case.architecture.name for case in all_cases()})
    lines, declared = found["lines"]["llama"]
    assert {"LLAMA", "QWEN2"} <= declared.keys()
    assert sum(declared.values()) < lines == len((FAMILIES / "llama.py").read_text().splitlines())


def test_every_check_has_a_line(conformance: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance("llama", "--case", "llama-LlamaModel", "--json") == 0
    *rows, counts = map(json.loads, capsys.readouterr().out.splitlines())
    assert {row["check"] for row in rows} >= {*checks.DECLARED, *checks.FAST, "growths"}
    assert counts["checks"] == len(rows)
    assert counts["failed"] == 0


def test_a_failed_check_is_shown(
    conformance: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(checks.DECLARED, "oracles", lambda case: ["something is wrong"])
    assert conformance("llama", "--case", "llama-LlamaModel") == 1
    shown = capsys.readouterr().out
    assert "FAIL llama-LlamaModel" in shown
    assert "something is wrong" in shown
    assert "1 failed" in shown


def test_an_unknown_model_type_is_named(conformance: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance("lama") == 2
    assert "no case of lama; there are cases of" in capsys.readouterr().err
