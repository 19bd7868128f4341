"""The source that a record is about, written again, and several growths in sequence; another source is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.verification.folders import save_llama

import growformer
from growformer.errors import PlanError

SIZES = {"hidden_size": 36, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8}
MORE = {"hidden_size": 40, "num_attention_heads": 10, "num_key_value_heads": 5, "head_dim": 10}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama, what it grows into, and what that grows into."""
    folder = tmp_path_factory.mktemp("made")
    save_llama(folder / "source", attention_dropout=0.0)
    growformer.grow_checkpoint(folder / "source", folder / "grown", **SIZES)
    growformer.grow_checkpoint(folder / "grown", folder / "twice", **MORE)
    return folder


def written_again(made: Path, tmp_path: Path, **fields: Any) -> Path:
    source = Path(shutil.copytree(made / "source", tmp_path / "source"))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **fields}))
    return source


HARMLESS: list[dict[str, Any]] = [
    {"transformers_version": "4.1"}, {"use_cache": False}, {"attention_dropout": 0.1}, {"of_my_own_tool": 3},
    {"mlp_bias": False, "attention_bias": False},
]  # fmt: skip


@pytest.mark.parametrize("fields", HARMLESS, ids=str)
def test_a_source_that_was_written_again(made: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    source = written_again(made, tmp_path, **fields)
    found = growformer.verify(source, made / "grown", checks="constraints")
    assert found.ok
    assert found.constraints is not None
    assert found.constraints.record == "growformer.json"
    assert growformer.report(source, made / "grown").ok


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"rms_norm_eps": 1e-2}, "rms_norm_eps 1e-06 there, 0.01 here"),
    ({"hidden_act": "gelu"}, "hidden_act 'silu' there, 'gelu' here"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, "rope_parameters a mapping there"),
]


@pytest.mark.parametrize(("fields", "said"), OTHERS, ids=[str(fields) for fields, _ in OTHERS])
def test_another_config_is_refused_by_field(made: Path, tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    source = written_again(made, tmp_path, **fields)
    with pytest.raises(PlanError, match=f"not the source that growformer.json is about .*{said}"):
        growformer.verify(source, made / "grown", checks="constraints")


def test_another_tensor_is_refused_by_name(made: Path, tmp_path: Path) -> None:
    source = written_again(made, tmp_path)
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].half()
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    shape = r"model.norm.weight has the shape \[24\]"
    said = f"{shape} in float32 there, {shape} in float16 here"
    with pytest.raises(PlanError, match=said):
        growformer.verify(source, made / "grown", checks="constraints")


def test_two_growths_in_sequence(made: Path) -> None:
    for pair in (("source", "grown"), ("grown", "twice")):
        assert growformer.verify(*(made / name for name in pair)).ok
    with pytest.raises(PlanError, match=r"hidden_size 36 there, 24 here.*verify each step by itself; or --record inf"):
        growformer.verify(made / "source", made / "twice")
    found = growformer.verify(made / "source", made / "twice", record="inferred")
    assert found.ok, found  # what was rescaled twice has been rounded twice


def test_what_an_inferred_record_allows_is_bounded(made: Path, tmp_path: Path) -> None:
    twice = Path(shutil.copytree(made / "twice", tmp_path / "twice"))
    tensors = load_file(twice / "model.safetensors")
    name = "model.layers.0.input_layernorm.weight"
    tensors[name][3] *= 1 + 2.0**-19  # several units
    save_file(tensors, twice / "model.safetensors", {"format": "pt"})
    found = growformer.verify(made / "source", twice, record="inferred", checks="constraints").constraints
    assert found is not None
    assert {v.where for v in found.violations} == {name}
