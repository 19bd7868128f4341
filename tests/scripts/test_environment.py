"""scripts/environment.py installs once, repairs what is half-made, and explains what it cannot do."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, with pip replaced by a list of what it was asked for."""
    spec = importlib.util.spec_from_file_location("environment_under_test", SCRIPTS / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.installed = []
    monkeypatch.setattr(module, "_install", lambda python, *what: module.installed.append(what[-1]))
    monkeypatch.setenv("GROWFORMER_VENV", str(tmp_path / "venv"))
    return module


def bare_environment(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that looks complete and took no time to make."""
    folder = environment.folder()
    packages = folder / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("version = 3.11.7\n")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(environment, "_site_packages", lambda folder: packages)
    return packages


def test_installs_once_for_each_extra(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = bare_environment(environment, monkeypatch)
    python = environment.ensure("dev")
    assert environment.installed == [environment.TORCH, f"{environment.ROOT}[dev]"]
    (packages / "torch-2.13.0.dist-info").mkdir()
    (packages / "torch-2.13.0.dist-info" / "INSTALLER").touch()
    assert environment.ensure("dev") == python
    assert len(environment.installed) == 2
    environment.ensure("examples")
    assert environment.installed[2:] == [f"{environment.ROOT}[examples]"]
    environment.ensure("dev")
    assert len(environment.installed) == 3


@pytest.mark.parametrize("change", ["torch", "python", "stamp"])
def test_installs_again_after_a_change(environment: ModuleType, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    bare_environment(environment, monkeypatch)
    environment.ensure("dev")
    before = len(environment.installed)
    if change == "torch":
        monkeypatch.setattr(environment, "TORCH", "torch==2.99.0")
    elif change == "python":
        (environment.folder() / "pyvenv.cfg").write_text("version = 3.12.0\n")
    else:
        (environment.folder() / "growformer-environment.json").write_text("{")
    environment.ensure("dev")
    assert len(environment.installed) > before


def test_a_failed_installation_is_not_remembered(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    bare_environment(environment, monkeypatch)

    def fail(*arguments: object) -> None:
        raise SystemExit("error: pip could not install")

    monkeypatch.setattr(environment, "_install", fail)
    for _ in range(2):
        with pytest.raises(SystemExit, match="pip could not install"):
            environment.ensure("dev")


def test_half_installed_packages_are_installed_again(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packages = bare_environment(environment, monkeypatch)
    (packages / "click-8.0.dist-info").mkdir()
    (packages / "rich-15.0.dist-info").mkdir()
    (packages / "rich-15.0.dist-info" / "INSTALLER").write_text("pip\n")
    environment.ensure("dev")
    assert "click-8.0.dist-info is only half installed" in capsys.readouterr().out
    assert [path.name for path in packages.iterdir()] == ["rich-15.0.dist-info"]


def test_makes_an_environment_afresh_that_cannot_be_repaired(environment: ModuleType, tmp_path: Path) -> None:
    folder = environment.folder()
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("version = 3.11.7\n")
    (folder / "bin" / "python").symlink_to(tmp_path / "removed")
    python = environment.ensure("dev")
    assert environment._succeeds(python, "-m", "pip", "--version")


def test_leaves_other_folders_alone(environment: ModuleType) -> None:
    environment.folder().mkdir()
    (environment.folder() / "thesis.tex").touch()
    with pytest.raises(SystemExit, match=r"is not a virtual environment: remove it, or set GROWFORMER_VENV"):
        environment.ensure("dev")
    assert (environment.folder() / "thesis.tex").exists()


def test_an_old_python_is_named(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(version_info=(3, 9, 1), executable="/usr/bin/python3.9", version="3.9.1 (main)")
    monkeypatch.setattr(environment, "sys", old)
    monkeypatch.setattr(environment.shutil, "which", lambda name: name if name == "python3.12" else None)
    with pytest.raises(
        SystemExit, match=r"3\.10 or newer, and /usr/bin/python3\.9 is 3\.9\.1: run it with python3\.12"
    ):
        environment.ensure("dev")


@pytest.mark.parametrize("script", ["environment", "demo", "test"])
def test_an_old_python_can_read_the_scripts(script: str) -> None:
    ast.parse((SCRIPTS / f"{script}.py").read_text(encoding="utf-8"), feature_version=(3, 7))
