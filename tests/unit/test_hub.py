"""Hub ids: plans fetch headers only, growth fetches the pinned commit. The hub is played by a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from tests.integration.cases import CASES

import growformer
from growformer.storage.folder import open_folder, open_headers
from growformer.storage.header import DTYPES, read_header

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Serve a tiny model as ``owner/tiny``; the list says what was asked for."""
    folder = tmp_path / "hub"
    CASES["llama"].build().save_pretrained(folder)
    asked: list[str] = []
    codes = {name: code for code, (name, _) in DTYPES.items()}

    class Api:
        def model_info(self, model: str, revision: str | None = None) -> SimpleNamespace:
            if model != "owner/tiny":
                raise ValueError("404: no such repository")
            asked.append(f"info {revision}")
            return SimpleNamespace(sha=COMMIT)

        def get_safetensors_metadata(self, model: str, revision: str) -> SimpleNamespace:
            asked.append(f"headers {revision}")
            tensors = {
                name: SimpleNamespace(dtype=codes[e.dtype], shape=list(e.shape), data_offsets=(e.start, e.end))
                for name, e in read_header(folder / "model.safetensors").items()
            }
            return SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=tensors)})

    def download(model: str, file: str, revision: str) -> str:
        asked.append(f"{file} {revision}")
        return str(folder / file)

    def snapshot(model: str, revision: str, allow_patterns: list[str]) -> str:
        asked.append(f"all {revision}")
        assert not any("py" in pattern or "bin" in pattern for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    return asked


def test_a_plan_fetches_config_and_headers_only(hub: list[str]) -> None:
    plan = growformer.plan("owner/tiny", hidden_size=36, revision="main")
    assert plan.target_config["hidden_size"] == 36
    assert hub == ["info main", f"config.json {COMMIT}", f"headers {COMMIT}"]


def test_headers_and_folder_describe_the_same(hub: list[str], tmp_path: Path) -> None:
    by_headers, by_folder = open_headers("owner/tiny"), open_folder(tmp_path / "hub")
    assert by_headers.shapes() == by_folder.shapes()
    assert (
        growformer.plan("owner/tiny", hidden_size=36).source.digest
        == growformer.plan(tmp_path / "hub", hidden_size=36).source.digest
    )


def test_growth_records_the_commit(hub: list[str], tmp_path: Path) -> None:
    growformer.grow_checkpoint("owner/tiny", tmp_path / "grown", hidden_size=36)
    record = json.loads((tmp_path / "grown" / "growformer.json").read_text())
    assert record["source"]["revision"] == COMMIT
    assert hub == ["info None", f"all {COMMIT}"]


def test_a_grown_model_of_the_hub_brings_its_record(hub: list[str], tmp_path: Path) -> None:
    small = Path(shutil.copytree(tmp_path / "hub", tmp_path / "small"))
    growformer.grow_checkpoint(small, tmp_path / "large", hidden_size=36)
    shutil.rmtree(tmp_path / "hub")
    shutil.move(tmp_path / "large", tmp_path / "hub")
    found = growformer.verify(small, "owner/tiny", checks=["constraints"])
    assert found.ok
    assert found.constraints is not None
    assert found.constraints.record == "growformer.json"
    assert "hidden_size" in growformer.report(small, "owner/tiny", verify=False).html
    with pytest.raises(growformer.SourceError, match="owner/missing: no such folder"):
        growformer.verify(small, "owner/missing")


@pytest.mark.parametrize("model", ["owner/missing", "missing", "./owner/missing"])
def test_a_model_that_is_nowhere(hub: list[str], model: str) -> None:
    for read in (open_headers, open_folder):
        with pytest.raises(growformer.SourceError, match=f"{model}: no such folder"):
            read(model)


def test_headers_of_our_own_match_the_library(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 5).bfloat16(), "a": torch.randn(7), "empty": torch.zeros(0, 2)}
    save_file(tensors, tmp_path / "x.safetensors")
    found = read_header(tmp_path / "x.safetensors")
    assert {n: (e.shape, e.dtype) for n, e in found.items()} == {
        n: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in tensors.items()
    }
