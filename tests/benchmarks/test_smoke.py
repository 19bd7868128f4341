"""The benchmark runs; no test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_grow_benchmark_runs(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "grow.py"), "--size", "tiny", "--runs", "1", "--out", str(out)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["job"] for row in rows] == ["two layers", "hidden size × 2", "all at once × 1.25"]
    assert all(row["peak_bytes"] > 0 and row["ratio"] > 0 for row in rows)
    assert list(tmp_path.iterdir()) == [out]
