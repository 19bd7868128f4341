"""Verification loads models, tokenizers and processors: none of them runs code that lies beside the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers

import growformer
from growformer import RequestError

SIZES = {"hidden_size": 24, "intermediate_size": 20, "num_attention_heads": 4, "num_hidden_layers": 2}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A source and a grown folder with code beside the weights, which leaves a mark if it runs."""
    source, grown = tmp_path / "source", tmp_path / "grown"
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, vocab_size=31)).save_pretrained(source)
    put_code(source)
    growformer.grow_checkpoint(source, grown, intermediate_size=27)
    put_code(grown)
    return source, grown


def put_code(folder: Path) -> None:
    (folder / "own.py").write_text(f"open({str(folder.parent / 'it-ran')!r}, 'w')\nclass Own: ...\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own"] * 2}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def no_question(*_: object) -> str:
    raise AssertionError("somebody was asked whether to run code")


@pytest.mark.parametrize("from_disk", [False, True])
def test_no_code_beside_the_weights_runs(
    pair: tuple[Path, Path], from_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", no_question)
    found = growformer.verify(*pair, from_disk=from_disk, generate=2)
    assert found.outputs is not None
    assert found.outputs.ok
    with pytest.raises(RequestError, match="needs a tokenizer"):
        growformer.verify(*pair, prompt="hello", from_disk=from_disk)
    assert not (pair[0].parent / "it-ran").exists()


def test_no_pickle_is_read(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch it-ran'\ntR.")
    assert growformer.verify(*pair, checks=["outputs"]).ok
    assert not (pair[0].parent / "it-ran").exists()
    shutil.move(pair[1] / "model.safetensors", pair[1] / "elsewhere")
    with pytest.raises(growformer.SourceError, match="the weights are a pickle"):
        growformer.verify(*pair)
