"""The benchmarks run, with ``-m slow``; no test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def test_grow_benchmark_runs(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "grow.py"), "--tiny", "--runs", "1", "--out", str(out)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["job"] for row in rows] == [
        "tiny, 2 layers", "tiny, hidden size × 2", "tiny, all six", "671B, plan from the config", "growformer --help",
    ]  # fmt: skip
    assert all(row["tree_bytes"] >= row["peak_bytes"] > 0 and row["seconds"] > 0 for row in rows)
    assert [row["ratio"] > 0 for row in rows[:3]] == [True] * 3
    assert list(tmp_path.iterdir()) == [out]


def test_distributed_benchmark_runs(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "distributed.py"), "--tiny", "--ranks", "1", "--out", str(out)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert row["whole_bytes"] > row["bound_bytes"] - row["peak_bytes"] > 0
    assert row["bound_bytes"] > 0
    assert "ratio" in ran.stdout


def test_updates_benchmark_runs(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "updates.py"), "--tiny", "--out", str(out)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rules = json.loads(out.read_text())["rules"]
    assert len(rules) == 4
    assert all(row["with"] > 0 and row["without"] > 0 and 0 < row["kept"] < 1.5 for row in rules.values())


def test_trainability_benchmark_runs(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "trainability.py"), "--tiny", "--out", str(out)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert row["ok"]
    assert min(row["estimated_bytes"], row["peak_bytes"], row["seconds"], row["regions"]) > 0


def test_outputs_benchmark_runs(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "verify_outputs.py"), "--tiny", "--out", str(out)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["imports", "in memory", "from disk"]
    assert all(row["peak_bytes"] > 0 and row["seconds"] > 0 for row in rows.values())
    assert all(0 < rows[how]["ratio"] < 2 for how in ("in memory", "from disk"))


def test_verify_benchmark_runs(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    arguments = ["--size", "tiny", "--runs", "1", "--job", "all six", "--job", "2 layers, record inferred"]
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "verify.py"), *arguments, "--out", str(out)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(row["job"], row["record"]) for row in rows] == [
        ("tiny, all six", "growformer.json"),
        ("tiny, 2 layers, record inferred", "inferred"),
    ]
    assert all(row["read_bytes"] > 0 and row["ratio"] > 0 and row["peak_bytes"] > 0 for row in rows)
    assert list(tmp_path.iterdir()) == [out]
