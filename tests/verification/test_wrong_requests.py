"""Wrong requests to ``verify`` have one clear error, and a failed constraint is never lost for what cannot run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.verification.folders import copied, save_llama

import growformer
from growformer.errors import GrowformerError, PlanError, RequestError, SourceError, VerificationError

DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    save_llama(folder / "source")
    growformer.grow_checkpoint(
        folder / "source",
        folder / "grown",
        intermediate_size=27,
        hidden_size=36,
        num_attention_heads=6,
        num_key_value_heads=3,
    )
    return folder


@pytest.fixture
def pair(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    return copied(made, tmp_path)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file({n: t.contiguous() for n, t in change(load_file(file)).items()}, file, {"format": "pt"})


WRONG: list[tuple[dict[str, Any], type[GrowformerError], str]] = [
    ({"record": 3}, RequestError, "record: expected 'inferred' or a file, got int"),
    ({"record": "nowhere.json"}, RequestError, "nowhere.json: no such record; expected 'inferred', a growformer.json"),
    ({"checks": "constraint"}, RequestError, "unknown check 'constraint': .* did you mean 'constraints'"),
    ({"dtypes": "float31", "checks": "outputs"}, RequestError, "unknown dtype 'float31': .* did you mean 'float32'"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=[str(options) for options, _, _ in WRONG])
def test_options(pair: tuple[Path, Path], options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        growformer.verify(*pair, **options)


def test_one_name_may_stand_alone(pair: tuple[Path, Path]) -> None:
    assert growformer.verify(*pair, checks="constraints").verdict == "Preserved: constraints"


def test_neither_a_folder_nor_a_model() -> None:
    with pytest.raises(SourceError, match="expected a model folder, a hub id or a live model, got int"):
        growformer.verify(3, 4)


RECORDS = [
    ("{}", "a record of format None; this version reads format 1"),
    ('{"format": 99}', "a record of format 99; this version reads format 1"),
    ('{"format": 1, "plan": null}', "not a record of growformer: it holds no plan"),
    ('{"format": 1, "plan": {}, "tensors": [], "new_regions": []}', "not a record of growformer: it has no 'source'"),
    ("{", "not a record of growformer, and no JSON: "),
    ("[]", "not a record of growformer: expected an object, found list"),
]


@pytest.mark.parametrize(("text", "message"), RECORDS, ids=[text for text, _ in RECORDS])
def test_records(pair: tuple[Path, Path], text: str, message: str) -> None:
    (pair[1] / "growformer.json").write_text(text)
    with pytest.raises(SourceError, match=message):
        growformer.verify(*pair, checks="constraints")


def test_a_record_of_ones_own_says_what_else_there_is(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(SourceError, match=r"neither a growformer.json nor a plan's JSON: .*; --record inferred asks"):
        growformer.verify(*pair, checks="constraints", record=tmp_path / "r.json")


def test_live_models_the_wrong_way_round(pair: tuple[Path, Path]) -> None:
    source, grown = (transformers.LlamaForCausalLM.from_pretrained(folder) for folder in pair)
    plan = growformer.load_provenance(pair[1]).plan
    assert growformer.verify(source, grown, plan=plan).ok
    with pytest.raises(PlanError, match=r"the plan was made for another source: .*; name the source first"):
        growformer.verify(grown, source, plan=plan)


def shorter(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, DOWN: tensors[DOWN][:, :-1]}


def whole_numbers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(torch.int8) for name, tensor in tensors.items()}


@pytest.mark.parametrize("checks", [None, ("constraints", "outputs", "trainability")])
@pytest.mark.parametrize(
    ("change", "reason"),
    [(shorter, "tensors have other shapes than its config says"), (whole_numbers, "its weights are int8")],
)
def test_what_cannot_run_takes_nothing_from_what_failed(
    pair: tuple[Path, Path], change: Callable[..., Any], reason: str, checks: tuple[str, ...] | None
) -> None:
    rewrite(pair[1], change)
    found = growformer.verify(*pair, checks=checks)
    assert found.verdict.startswith("NOT preserved: constraints")
    assert found.outputs is None
    assert any(note.startswith("outputs were not compared: ") and reason in note for note in found.notes)
    with pytest.raises(SourceError, match=reason):
        growformer.verify(*pair, checks=["outputs"])


def test_only_what_does_not_pass_is_raised(pair: tuple[Path, Path]) -> None:
    rewrite(pair[1], lambda tensors: {**tensors, DOWN: tensors[DOWN] + 1})
    with pytest.raises(VerificationError) as caught:
        growformer.verify(*pair, checks="constraints").raise_if_failed()
    lines = str(caught.value).splitlines()
    assert lines[0] == "NOT preserved: constraints failed"
    assert len(lines) > 1
    assert all(DOWN in line for line in lines[1:])


IDS = [
    (np.array([[1.0, 2.0]]), "input_ids are numbers of float64; expected whole numbers"),
    (np.array([[1, 31]]), "input_ids holds 31; the model has tokens 0 to 30"),
    (np.array([[1, -1]]), "input_ids holds -1; expected whole numbers from 0"),
]


@pytest.mark.parametrize(("ids", "message"), IDS, ids=[message for _, message in IDS])
def test_ids_in_arrays(pair: tuple[Path, Path], tmp_path: Path, ids: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "ids.npz", input_ids=ids)
    with pytest.raises(RequestError, match=f"ids.npz: {message}"):
        growformer.verify(*pair, checks="outputs", input_files=[tmp_path / "ids.npz"])


def test_rows_name_the_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text(json.dumps([{"input_ids": [1, 2, 3]}]))
    np.savez(tmp_path / "ids.npz", input_ids=np.array([[1, 2, 3, 4]]))
    files = [tmp_path / "ids.json", tmp_path / "ids.npz"]
    rows = growformer.verify(*pair, checks="outputs", input_files=files).rows()
    said = " ".join(what for _, what, _, _ in rows)
    assert "3 positions of tokens of ids.json" in said
    assert "4 positions of arrays of ids.npz" in said


def test_a_class_that_does_not_run_on_two_sequences(pair: tuple[Path, Path]) -> None:
    config = json.loads((pair[1] / "config.json").read_text())
    (pair[1] / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(SourceError, match=r"the grown model in float32 on .*: the class cannot run on this"):
        growformer.verify(*pair, checks=["outputs"])
    found = growformer.verify(*pair)
    assert found.verdict.startswith("NOT preserved: constraints")
    assert any("outputs were not compared: " in note for note in found.notes)
