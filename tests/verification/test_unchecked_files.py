"""What no check compares is said: tokenizers, generation settings, code, labels, the dtype that loading takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.verification.folders import copied, save_llama

import growformer
from growformer.verification.config_conditions import is_rate
from growformer.verification.unchecked_files import not_compared
from growformer.verification.unread_fields import unread


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a tokenizer, chat template and code beside it, and what it grows into."""
    folder = tmp_path_factory.mktemp("made")
    save_llama(folder / "source", id2label={0: "good", 1: "bad"})
    (folder / "source" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}))
    (folder / "source" / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "source" / "modeling_own.py").write_text("raise SystemExit\n")
    growformer.grow_checkpoint(folder / "source", folder / "grown", intermediate_size=27)
    return folder


@pytest.fixture
def pair(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    return copied(made, tmp_path)


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.exists() else {}), **fields}))


def test_what_growth_carries_needs_no_note(pair: tuple[Path, Path]) -> None:
    assert not_compared(*pair) == []
    text = (pair[1] / "tokenizer.json").read_text()
    (pair[1] / "tokenizer.json").write_text(json.dumps(json.loads(text), indent=4))  # as another version writes it
    edit(pair[1] / "generation_config.json", transformers_version="4.0.0")
    assert not_compared(*pair) == []
    assert growformer.verify(*pair, checks=["constraints"]).notes == ()


FILES = [
    ("tokenizer.json", '{"model": {"vocab": {"b": 0, "a": 1}}}', "tokenizer.json differs from the source's"),
    ("generation_config.json", '{"temperature": 5.0}', "generation_config.json differs from the source's"),
    ("modeling_own.py", "print()", "modeling_own.py differs from the source's"),
    ("modeling_new.py", "print()", "modeling_new.py is not in the source"),
    ("chat_template.jinja", None, "chat_template.jinja is missing"),
]


@pytest.mark.parametrize(("name", "text", "said"), FILES, ids=[f"{name}-{said[-7:]}" for name, _, said in FILES])
def test_files(pair: tuple[Path, Path], name: str, text: str | None, said: str) -> None:
    if text is None:
        (pair[1] / name).unlink()
    else:
        (pair[1] / name).write_text(text)
    (note,) = growformer.verify(*pair, checks=["constraints"]).notes
    assert note.startswith(f"beside the grown weights {said}: ")


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"dtype": "float16"}, "the grown config names the dtype float16, and the weights are stored in float32"),
    ({"auto_map": {"AutoModel": "modeling_own.Own"}}, r"the grown config names code to load \(auto_map\)"),
    ({"label2id": {"good": 1, "bad": 0}}, "config fields that differ: label2id; outputs are the same, and have"),
    ({"architectures": None}, r"only the source's config names a class \(architectures\)"),
    ({"id2label": None}, "config fields that differ: id2label; outputs are the same, and have"),
    ({"id2label": {"0": "bad", "1": "good"}}, "config fields that differ: id2label; outputs are the same, and have"),
]


@pytest.mark.parametrize(("fields", "said"), CONFIGS, ids=[str(fields) for fields, _ in CONFIGS])
def test_config_fields(pair: tuple[Path, Path], fields: dict[str, Any], said: str) -> None:
    edit(pair[1] / "config.json", **fields)
    found = growformer.verify(*pair, checks=["constraints"])
    assert found.ok
    (note,) = found.notes
    assert re.match(said, note)


def test_fields_that_no_class_reads(pair: tuple[Path, Path]) -> None:
    edit(pair[1] / "config.json", tuned_with_own_tool="1.2", hidden_act="swish")  # silu by its other name
    found = growformer.verify(*pair, checks=["constraints", "outputs"])
    assert found.ok
    assert found.notes == ("config fields that differ, and that the model's class does not read: tuned_with_own_tool",)
    for name in ("rope_scaling", "attention_bias", "output_hidden_states", "tie_word_embeddings"):
        assert unread([name], {"model_type": "llama"}) == []
    assert unread(["nowhere"], {"model_type": "of_my_own"}) == []  # code that is not there cannot be searched
    nested = {"model_type": "llava", "text_config": {"model_type": "of_my_own"}}
    assert unread(["text_config.nowhere"], nested) == []
    edit(pair[1] / "config.json", attention_bias=True)
    assert not growformer.verify(*pair, checks=["constraints"]).ok


def test_fields_that_no_output_depends_on_are_said(pair: tuple[Path, Path]) -> None:
    edit(pair[1] / "config.json", attention_dropout=0.5, use_cache=False, attn_implementation="eager")
    found = growformer.verify(*pair, checks=["constraints"])
    assert found.ok
    (note,) = found.notes
    assert note == (
        "config fields that differ, and that no output depends on: attention_dropout, attn_implementation, use_cache"
    )


def test_a_flag_of_dropping_may_decide_an_output() -> None:
    assert is_rate("attention_dropout", 0.1, 0)
    assert is_rate("text_config.classifier_dropout", None, 0.1)
    assert not is_rate("token_dropout", True, False)  # ESM scales its embeddings by it
    assert not is_rate("normalize_router_prob_before_dropping", True, False)  # NLLB-MoE
    assert not is_rate("hidden_act", 1)


def test_a_folder_that_names_no_class_is_run_as_the_other(pair: tuple[Path, Path]) -> None:
    edit(pair[1] / "config.json", architectures=None)
    found = growformer.verify(*pair)
    assert found.verdict == "Preserved: constraints, outputs, trainability"
    assert found.notes == ("only the source's config names a class (architectures); both were run as that class",)


def test_labels_that_only_the_grown_model_has(pair: tuple[Path, Path]) -> None:
    edit(pair[0] / "config.json", id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    assert any("id2label" in note for note in not_compared(*pair))
    edit(pair[1] / "config.json", id2label=None, label2id=None)
    assert not any("id2label" in note for note in not_compared(*pair))  # transformers makes up the same


@pytest.mark.parametrize("kind", [[], {}, 1, None, "../../llama", "llama\n"], ids=repr)
def test_model_types_that_are_none_take_nothing_from_a_fault(pair: tuple[Path, Path], kind: Any) -> None:
    edit(pair[1] / "config.json", rms_norm_eps=0.5, more={"model_type": kind})
    found = growformer.verify(*pair, checks=["constraints"]).constraints
    assert found is not None
    assert {"more", "norm"} <= {v.where for v in found.violations}


def test_fields_of_other_models_count_as_read() -> None:
    for name in ("reorder_and_upcast_attn", "attention_layers", "encoder_stride"):  # classes use code of other models
        assert unread([name], {"model_type": "llama"}) == []
    assert unread(["nowhere_x"], {"model_type": "gemma3_text"}) == ["nowhere_x"]  # in the folder of another type
    assert unread([f"nowhere_{n}" for n in range(51)], {"model_type": "llama"}) == []  # too many to look for


def test_long_names_are_cut(pair: tuple[Path, Path]) -> None:
    edit(pair[1] / "config.json", **{"x" * 150: 1})
    (note,) = not_compared(*pair)
    assert len(note) < 200


def test_what_cannot_be_read_takes_nothing_from_what_was_found(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object, **__: object) -> None:
        raise growformer.SourceError("tokenizer.json: cannot be read")

    monkeypatch.setattr("growformer.verification.unchecked_files.digest_files", unreadable)
    found = growformer.verify(*pair, checks=["constraints"])
    assert found.ok
    assert found.notes == ("what no check compares was not looked at: tokenizer.json: cannot be read",)


def test_another_class_is_a_fault(pair: tuple[Path, Path]) -> None:
    edit(pair[1] / "config.json", architectures=["LlamaForSequenceClassification"])
    found = growformer.verify(*pair, checks=["constraints"]).constraints
    assert found is not None
    assert [v.where for v in found.violations] == ["architectures"]


@pytest.mark.parametrize("with_config", [True, False])
def test_an_adapter_beside_the_weights_is_refused(pair: tuple[Path, Path], with_config: bool) -> None:
    edit(pair[1] / "adapter_config.json", base_model_name_or_path="somewhere/else")
    if not with_config:
        (pair[1] / "config.json").unlink()
    with pytest.raises(growformer.SourceError, match=r"an adapter \(adapter_config.json\), which"):
        growformer.verify(*pair, checks=["constraints"])
