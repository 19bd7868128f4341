"""``growformer inspect``."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers


def sizes(answer: dict) -> dict[str, dict]:
    return {s["field"]: s for s in answer["sizes"]}


def test_sizes_and_what_can_grow(run, models: dict[str, Path]) -> None:
    found = run("inspect", models["llama"], "--json").json()
    model = transformers.LlamaForCausalLM.from_pretrained(models["llama"])
    assert found["parameters"] == model.num_parameters()
    assert found["architecture"] == "llama"
    assert found["classes"] == ["LlamaForCausalLM"]
    assert found["dtypes"] == {"float32": found["tensors"]}
    assert found["tied"] is False
    by_field = sizes(found)
    assert {name: s["value"] for name, s in by_field.items()} == {
        "num_hidden_layers": 3, "hidden_size": 24, "intermediate_size": 37, "num_key_value_heads": 2,
        "num_attention_heads": 6, "head_dim": 10,
    }  # fmt: skip
    assert by_field["intermediate_size"]["example"] == 38
    assert by_field["intermediate_size"]["limits"] == ""
    assert by_field["num_attention_heads"]["example"] == 8
    assert "nearest: 6, 8" in by_field["num_attention_heads"]["limits"]
    assert by_field["hidden_size"]["example"] == 30  # the class wants a multiple of the heads
    assert "wants hidden_size to be a multiple of num_attention_heads" in by_field["hidden_size"]["limits"]
    assert {f["field"]: f["value"] for f in found["fixed"]} == {"vocab_size": 61}
    assert "resize_token_embeddings" in found["fixed"][0]["because"]


def test_what_cannot_grow_alone(run, models: dict[str, Path]) -> None:
    found = run("inspect", models["bert"], "--json").json()
    by_field = sizes(found)
    assert by_field["hidden_size"]["example"] == 40
    assert "only be repeated a whole number of times; nearest: 20, 40" in by_field["hidden_size"]["limits"]
    assert by_field["num_attention_heads"]["example"] is None
    assert [f["field"] for f in found["fixed"]] == ["vocab_size", "max_position_embeddings", "type_vocab_size"]


def test_the_table(run, models: dict[str, Path]) -> None:
    ran = run("inspect", models["gpt2"])
    assert ran.code == 0
    assert ran.err == ""
    lines = ran.out.splitlines()
    assert lines[0] == f"{models['gpt2']} (gpt2, GPT2LMHeadModel)"
    assert "tied        lm_head.weight = wte.weight" in lines
    assert any(line.split() == ["n_inner", "47", "to", "any", "larger", "value"] for line in lines)
    assert any(
        line.startswith("n_positions") and "no: positions past the table have no source" in line for line in lines
    )
    assert lines == [line.rstrip() for line in lines]


def test_every_line_fits_a_narrow_terminal(run, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    wide = run("inspect", models["bert"]).out
    monkeypatch.delenv("COLUMNS")
    piped = run("inspect", models["bert"]).out
    names = str(models["bert"])
    assert all(len(line) <= 80 for line in wide.replace(names, "MODEL").splitlines())
    assert wide.split() == piped.split()


def test_a_config_alone(run, models: dict[str, Path]) -> None:
    found = run("inspect", models["llama"] / "config.json", "--json").json()
    whole = run("inspect", models["llama"], "--json").json()
    assert found["sizes"] == whole["sizes"]
    assert found["parameters"] == whole["parameters"]
    assert "tensors" not in run("inspect", models["llama"] / "config.json").out
