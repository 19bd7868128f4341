"""``growformer verify``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import tokenizers
import torch
import transformers

HEADER = ["check", "what", "result"]


@pytest.fixture(scope="module")
def pair(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a source with a tokenizer, and what was grown from it."""
    from growformer.cli.main import main

    folder = tmp_path_factory.mktemp("pair")
    source = Path(shutil.copytree(models["llama"], folder / "source"))
    words = {word: i for i, word in enumerate(["[UNK]", "[BOS]", "[EOS]", "the", "sky", "is", "blue"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(source)
    grown = folder / "grown"
    assert (
        main(["grow", str(source), str(grown), "--hidden-size", "36", "--num-hidden-layers", "4", "--no-verify"]) == 0
    )
    return source, grown


def test_verdict_and_table(run, pair: tuple[Path, Path]) -> None:
    ran = run("verify", *pair, "--dtype", "float32,bfloat16")
    assert ran.code == 0
    assert ran.err == ""
    lines = ran.out.splitlines()
    assert lines[0] == "Preserved: constraints, outputs, trainability"
    assert lines[1] == ""
    assert lines[2].split() == HEADER
    found = [tuple(line.split()[:2]) for line in lines[3:] if line.split()[1:2] in (["ok"], ["FAILED"])]
    names = [name for name, _ in found]
    assert {state for _, state in found} == {"ok"}
    assert list(dict.fromkeys(names)) == ["constraints", "outputs", "trainability"]
    assert names.count("outputs") == 7
    # Per dtype: everything, the worst position, the streams; then the cache.
    assert "64 positions of random tokens in float32" in ran.out
    assert "64 positions of random tokens in bfloat16" in ran.out
    assert "the position furthest off, in bfloat16" in ran.out
    assert "the stream after 3 layers, in float32" in ran.out
    assert "16 tokens with a KV cache, in float32" in ran.out


def test_json_and_checks(run, pair: tuple[Path, Path]) -> None:
    found = run("verify", *pair, "--checks", "constraints", "--json").json()
    assert found["ok"] is True
    assert found["constraints"]["ok"] is True
    assert found["outputs"] is None
    found = run("verify", *pair, "--checks", "outputs, trainability", "--json").json()
    assert found["constraints"] is None
    assert found["outputs"]["ok"] is True
    assert found["trainability"]["steps"] == 2


def test_a_prompt_goes_through_the_tokenizer(run, pair: tuple[Path, Path]) -> None:
    ran = run("verify", *pair, "--checks", "outputs", "--prompt", "the sky is blue")
    assert ran.code == 0
    assert "4 positions of text of the prompt in float32" in ran.out
    assert "64 positions of random tokens in float32" in ran.out
    found = run("verify", *pair, "--checks", "outputs", "--prompt", "the sky is blue", "--json").json()
    worst = found["outputs"]["comparisons"][1]["worst"]
    assert worst["text"] == ["the", "sky", "is", "blue"][worst["position"]]


def test_own_inputs_lengths_and_disk(run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the sky\nis blue\nthe sky is blue")
    (tmp_path / "b.json").write_text('{"input_ids": [5, 9, 11, 3, 3]}')
    given = ["--inputs", tmp_path / "a.txt", "--inputs", tmp_path / "b.json", "--lengths", "9,max"]
    found = run("verify", *pair, "--checks", "outputs", *given, "--json").json()["outputs"]
    assert [(c["inputs"], c["length"]) for c in found["comparisons"]] == [
        ("random tokens", 9), ("random tokens", 64), ("text of a.txt and 1 more", 5),
    ]  # fmt: skip
    assert found["tokens"] == 2 * 9 + 2 * 64 + 4 + 4 + 5
    again = run("verify", *pair, "--checks", "outputs", *given, "--from-disk", "--json").json()["outputs"]
    assert again["comparisons"] == found["comparisons"]
    assert again["cache"]["tokens"] == 2
    assert run("verify", *pair, "--checks", "outputs", "--in-memory", "--lengths", "5").code == 0


def test_a_changed_dtype_is_compared_in_that_dtype(run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert run("grow", pair[0], tmp_path / "half", "--hidden-size", 36, "--dtype", "bfloat16").code == 0
    found = run("verify", pair[0], tmp_path / "half", "--json")
    assert found.code == 0
    assert [c["dtype"] for c in found.json()["outputs"]["comparisons"]] == ["bfloat16"]
    assert run("verify", pair[0], tmp_path / "half", "--dtype", "float32").code == 1


def test_a_disturbed_weight_is_exit_code_1(run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    broken = Path(shutil.copytree(pair[1], tmp_path / "broken"))
    tensors = safetensors.torch.load_file(broken / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"] += 0.5
    safetensors.torch.save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    ran = run("verify", pair[0], broken)
    assert ran.code == 1
    assert ran.out.splitlines()[0].startswith("NOT preserved: constraints, outputs")
    assert "FAILED" in ran.out
    assert "first wrong after layer" in ran.out
    ran = run("verify", pair[0], broken, "--json")
    assert ran.code == 1
    assert ran.json()["ok"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--checks", "output"],
            "unknown check 'output': expected constraints, outputs, trainability; did you mean 'outputs'?",
        ),
        (["--checks", ","], "no check is named: expected constraints, outputs, trainability"),
        (["--dtype", "float8"], "unknown dtype 'float8': expected float32, bfloat16, float16; did you mean 'float32'?"),
        (["--dtype", ""], "no dtype is named: expected float32, bfloat16, float16"),
        (["--lengths", "9,long"], "--lengths 9,long: expected whole numbers from 1, or max, found 'long'"),
        (
            ["--checks", "outputs", "--lengths", "65"],
            "lengths: 65 positions, and the model reads at most 64; ask for max",
        ),
        (["--checks", "outputs", "--inputs", "no.txt"], "no.txt: no such file of inputs"),
    ],
)
def test_wrong_options(run, pair: tuple[Path, Path], options: list[str], message: str) -> None:
    ran = run("verify", *pair, *options)
    assert (ran.code, ran.out, ran.err) == (2, "", f"error: {message}\n")


def test_the_wrong_way_round(run, pair: tuple[Path, Path]) -> None:
    source, grown = pair
    ran = run("verify", grown, source)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: the grown model is smaller than its source (")
    assert "name the source first" in ran.err


def test_whole_numbers_are_no_copies(run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(pair[1], broken)
    for file in broken.glob("*.safetensors"):
        tensors = safetensors.torch.load_file(file)
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
        safetensors.torch.save_file(tensors, file, {"format": "pt"})
    ran = run("verify", pair[0], broken, "--checks", "constraints")
    assert ran.code == 1
    assert "model.norm.weight" in ran.out
    assert "int8" in ran.out


def test_a_record_of_an_endless_axis_is_refused(run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    hostile = tmp_path / "hostile"
    shutil.copytree(pair[1], hostile)
    record = json.loads((hostile / "growformer.json").read_text())
    record["plan"]["axis_maps"]["vocab"][0]["runs"] = [[0, 10**12]]
    (hostile / "growformer.json").write_text(json.dumps(record))
    ran = run("verify", pair[0], hostile)
    assert ran.code == 2
    assert "an axis map of more than 33,554,432 coordinates" in ran.err
    assert "Traceback" not in ran.err


def test_a_tied_head_that_another_tool_has_stored_as_well(run, models: dict[str, Path], tmp_path: Path) -> None:
    source, grown = tmp_path / "source", tmp_path / "grown"
    shutil.copytree(models["llama"], source)
    config = transformers.AutoConfig.from_pretrained(source)
    config.tie_word_embeddings = True
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(source)
    assert run("grow", source, grown, "--num-hidden-layers", 4).code == 0
    file = grown / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    safetensors.torch.save_file(tensors, file, {"format": "pt"})
    ran = run("verify", source, grown, "--checks", "constraints", "--json")
    assert ran.code == 0
    assert any("with the same bytes" in note for note in ran.json()["notes"])
    tensors["lm_head.weight"][0, 0] += 1
    safetensors.torch.save_file(tensors, file, {"format": "pt"})
    assert run("verify", source, grown, "--checks", "constraints").code == 1


def test_two_models_that_are_not_one(run, models: dict[str, Path]) -> None:
    ran = run("verify", models["bert"], models["llama"])
    assert ran.code in (1, 2)
    assert "Traceback" not in ran.err


def test_a_model_that_was_not_grown_is_its_own_source(run, models: dict[str, Path]) -> None:
    ran = run("verify", models["llama"], models["llama"], "--checks", "constraints", "--strict", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)["constraints"]
    assert (found["record"], found["strict"], found["violations"]) == ("inferred", True, [])
    assert found["num_bytes"] == 2 * found["values"]["copy"] * 4
    ran = run("verify", models["llama"], models["llama"], "--record", models["llama"], "--checks", "constraints")
    assert ran.code == 2
    assert "growformer.json: missing; only a checkpoint written by growformer has one" in ran.err
