"""Every theorem of docs/proofs/ is needed: with it taken out of the code, the test that its page names fails.

The table is in ``without.py``. Each entry runs in a process of its own, and the tests with the code as it is in one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.without import ENTRIES, NAME, NOTICED

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(*tests: str, **without: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "tests.docs.without"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [*command, *tests], cwd=ROOT, env={**environment, **without}, capture_output=True, text=True, check=False
    )


def test_the_code_passes_as_it_is() -> None:
    tests = {entry.test for entry in ENTRIES.values()}
    result = run(*tests)
    assert result.returncode == 0, result.stdout
    assert re.search(rf"^{len(tests)} passed", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ENTRIES)
def test_without_it_the_test_fails(name: str, tmp_path: Path) -> None:
    entry = ENTRIES[name]
    noticed = tmp_path / "noticed"
    result = run(entry.test, **{NAME: name, NOTICED: str(noticed)})
    assert result.returncode == 1, result.stdout + result.stderr  # 1: tests failed; others: they could not be run
    assert re.search(r"^1 failed", result.stdout, re.MULTILINE), result.stdout
    assert ("RequestError" in result.stdout) == entry.refused, result.stdout  # or else it fails by what it measures
    assert noticed.exists() == entry.noticed
