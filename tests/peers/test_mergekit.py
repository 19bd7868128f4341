"""A depth expansion made by mergekit verifies without a record; one with a mistyped filter is caught."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
import transformers
from tests.families.case import randomise

import growformer
from growformer.architecture.registry import for_config
from growformer.verification.constraints import ConstraintsReport

pytestmark = pytest.mark.mergekit


def expanded(folder: Path, filters: tuple[str, str], dtype: str) -> ConstraintsReport:
    """Repeat two layers of a tiny Llama, with what some filters name scaled to zero, and verify the result."""
    command = os.environ.get("GROWFORMER_MERGEKIT", "")
    if not Path(command).is_file():
        pytest.skip("no mergekit: python3 scripts/test.py -m mergekit makes its environment")
    config = transformers.LlamaConfig(
        hidden_size=24, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=6, vocab_size=31,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    randomise(model, for_config({"model_type": "llama"}), 0)
    model.to(getattr(torch, dtype)).save_pretrained(folder / "source")

    def slices(first: int, last: int, *, silent: bool = False) -> dict[str, object]:
        source: dict[str, object] = {"model": str(folder / "source"), "layer_range": [first, last]}
        if silent:
            zero = [{"filter": name, "value": 0.0} for name in filters]
            source["parameters"] = {"scale": [*zero, {"value": 1.0}]}
        return {"sources": [source]}

    recipe = {
        "merge_method": "passthrough", "dtype": dtype,
        "slices": [slices(0, 2), slices(1, 2, silent=True), slices(2, 3), slices(2, 3, silent=True)],
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    arguments = [command, str(folder / "recipe.yaml"), str(folder / "out")]
    ran = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert (folder / "out" / "config.json").is_file(), ran.stderr[-2000:]
    found = growformer.verify(folder / "source", folder / "out", checks=["constraints"]).constraints
    assert found is not None
    assert found.record == "inferred"
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_passthrough_that_silences_what_it_repeats_preserves(tmp_path: Path, dtype: str) -> None:
    report = expanded(tmp_path, ("o_proj", "down_proj"), dtype)
    assert report.ok, report
    assert "new layers: 2, 4" in report.notes


def test_a_mistyped_filter_is_caught_and_the_tensor_named(tmp_path: Path) -> None:
    report = expanded(tmp_path, ("o_prj", "down_proj"), "float32")
    assert [(v.kind, v.where) for v in report.violations] == [
        ("zero", "model.layers.2.self_attn.o_proj.weight"),
        ("zero", "model.layers.4.self_attn.o_proj.weight"),
    ]
