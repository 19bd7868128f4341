"""Eight kills at random moments; ``python scripts/kill.py --runs 200`` does more of them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_a_killed_run_leaves_no_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    kill = importlib.import_module("kill")
    monkeypatch.setattr("sys.argv", ["kill.py", "--runs", "8", "--seed", "1"])
    code = kill.main()
    said = capsys.readouterr().out
    assert code == 0, said
    assert "8 kills" in said
    assert "0 broken promises" in said
    assert "shards" in said
