"""scripts/fuzz.py says where atheris cannot be installed, before it tries to."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.parametrize(
    ("system", "machine", "version", "reason"),
    [
        ("Linux", "x86_64", (3, 11), None),
        ("Linux", "x86_64", (3, 14), None),
        ("Linux", "x86_64", (3, 10), "no wheel for Python 3.10 on Linux x86_64; expected Python 3.11 or newer"),
        ("Linux", "aarch64", (3, 12), "no wheel for Python 3.12 on Linux aarch64"),
        ("Darwin", "arm64", (3, 12), "no wheel for Python 3.12 on Darwin arm64"),
    ],
)
def test_where_atheris_can_be_installed(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, version: tuple[int, int], reason: str | None
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("fuzz_under_test", SCRIPTS / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.unsupported(system, machine, version)
    assert found is None if reason is None else reason in found
    assert sys.modules.pop("environment", None) is not None
