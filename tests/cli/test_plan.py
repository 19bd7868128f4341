"""``growformer plan``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.support import contents, set_config

import growformer


def target(answer: dict) -> dict[str, object]:
    return {c["field"]: c["target"] for c in answer["changes"]}


def test_it_says_what_would_happen_and_writes_nothing(run, models: dict[str, Path], tmp_path: Path) -> None:
    before = contents(models["llama"])
    ran = run(
        "plan", models["llama"], "--hidden-size", 36, "--num-hidden-layers", 5, "--init", "orthogonal", "--seed", 5
    )
    assert ran.code == 0
    assert ran.err == ""
    text = ran.out
    assert f"{models['llama']} (llama, LlamaForCausalLM)" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["hidden_size", "24", "36", "requested"] in rows
    assert "new layers at 2, 4: copies of 1, 2; what they write to the stream is zero" in text
    assert "  model.embed_tokens" not in text
    assert "  embed_tokens.weight: [61 × 24] source · [61 × 12] zero" in text
    assert "  layers.{layer}.self_attn.q_proj.weight: [60 × 24] source · [60 × 12] free" in text
    assert "'orthogonal' with seed 5 and standard deviation 0.02" in text
    assert "FLOPs per token" in text
    assert "Nothing was written" in text
    assert list(tmp_path.iterdir()) == []
    assert contents(models["llama"]) == before


def test_json_counts(run, models: dict[str, Path], tmp_path: Path) -> None:
    found = run("plan", models["llama"], "--hidden-size", 36, "--dtype", "bfloat16", "--json").json()
    assert run("grow", models["llama"], tmp_path / "out", "--hidden-size", 36, "--dtype", "bfloat16").code == 0
    again = run("inspect", tmp_path / "out", "--json").json()
    assert found["parameters"]["target"] == again["parameters"]
    header = 8 + int.from_bytes((tmp_path / "out" / "model.safetensors").read_bytes()[:8], "little")
    assert found["weight_bytes"]["target"] == (tmp_path / "out" / "model.safetensors").stat().st_size - header
    assert found["weight_bytes"]["source"] == 4 * found["parameters"]["source"]
    assert found["training_bytes"]["target"] == 16 * found["parameters"]["target"]
    assert sum(found["tensors"].values()) == again["tensors"]
    assert found["written"] is None


def test_sizes_by_every_route(run, models: dict[str, Path], tmp_path: Path) -> None:
    expected = run("plan", models["gpt2"], "--hidden-size", 28, "--intermediate-size", 53, "--json").json()
    assert target(expected) == {"n_embd": 28, "n_inner": 53, "n_head": 4, "layer_norm_epsilon": pytest.approx(7.5e-6)}
    assert run("plan", models["gpt2"], "--set", "n_embd=28", "--set", "n_inner=53", "--json").json() == expected
    assert run("plan", models["gpt2"], "--set", "hidden_size=28", "--set", "n_inner=53", "--json").json() == expected
    config = {**json.loads((models["gpt2"] / "config.json").read_text()), "n_embd": 28, "n_inner": 53, "n_head": 4}
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "config.json").write_text(json.dumps(config))
    for like in (tmp_path / "target", tmp_path / "target" / "config.json"):
        assert target(run("plan", models["gpt2"], "--like", like, "--json").json()) == target(expected)
    for option in (("--set", "n_inner=59"), ("--intermediate-size", 59)):
        more = run("plan", models["gpt2"], "--like", tmp_path / "target", *option, "--json").json()
        assert target(more)["n_inner"] == 59


def test_like_takes_sizes_only_and_says_so(run, models: dict[str, Path], tmp_path: Path) -> None:
    config = {**json.loads((models["llama"] / "config.json").read_text()), "hidden_size": 30, "hidden_act": "gelu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = run("plan", models["llama"], "--like", tmp_path, "--json").json()
    assert found["notes"] == ["the target config differs in hidden_act as well; only sizes are taken from it"]
    assert "hidden_act" not in target(found)


def test_other_fields_are_set_with_a_note(run, models: dict[str, Path]) -> None:
    ran = run("plan", models["llama"], "--set", "max_position_embeddings=128", "--set", "hidden_size=30")
    assert ["max_position_embeddings", "64", "128", "requested"] in [line.split() for line in ran.out.splitlines()]
    assert "max_position_embeddings = 128 is no size" in ran.out
    # A field that only the class knows.
    assert run("plan", models["llama"], "--set", "pretraining_tp=1", "--json").code == 0


def test_new_layers_at(run, models: dict[str, Path]) -> None:
    for where, expected in (("end", "3, 4"), ("interleave", "2, 4"), ("0,2", "0, 2")):
        ran = run("plan", models["llama"], "--num-hidden-layers", 5, "--new-layers-at", where)
        assert f"new layers at {expected}: copies of" in ran.out
    ran = run("plan", models["llama"], "--num-hidden-layers", 5, "--new-layers", "random")
    assert "new layers at 2, 4: fresh;" in ran.out


def test_nothing_to_grow(run, models: dict[str, Path]) -> None:
    assert "Nothing grows: the target is a copy of the source." in run("plan", models["llama"], "--hidden-size", 24).out


def test_out_is_a_plan_and_never_overwrites(run, models: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    ran = run("plan", models["llama"], "--hidden-size", 30, "--dtype", "float16", "-o", file)
    assert ran.code == 0
    assert f"growformer grow {models['llama']} OUT --plan {file} --dtype float16" in ran.out
    text = file.read_text()
    assert growformer.Plan.from_json(text).target_config["hidden_size"] == 30
    ran = run("plan", models["llama"], "--hidden-size", 36, "-o", file)
    assert (ran.code, ran.out) == (2, "")
    assert (
        ran.err == f"error: {file}: exists already, and is never overwritten. Choose another name, or remove it first\n"
    )
    assert file.read_text() == text
    ran = run("plan", models["llama"], "--hidden-size", 36, "-o", tmp_path / "no" / "plan.json")
    assert (
        ran.err == f"error: {tmp_path}/no/plan.json: its parent folder {tmp_path}/no does not exist; create it first\n"
    )


def test_a_config_alone(run, models: dict[str, Path]) -> None:
    config = run("plan", models["llama"] / "config.json", "--hidden-size", 36, "--json").json()
    whole = run("plan", models["llama"], "--hidden-size", 36, "--json").json()
    for key in ("changes", "parameters", "weight_bytes", "flops", "context_flops", "steps"):
        assert config[key] == whole[key], key


def test_the_dtype_of_a_config_alone(run, llama: Path) -> None:
    set_config(llama, dtype="bfloat16")
    found = run("plan", llama / "config.json", "--hidden-size", 36, "--json").json()
    assert found["weight_bytes"]["source"] == 2 * found["parameters"]["source"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_any_width(run, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    arguments = ("plan", models["bert"], "--hidden-size", 40, "--num-hidden-layers", 3)
    piped = run(*arguments).out
    monkeypatch.setenv("COLUMNS", str(width))
    wrapped = run(*arguments).out
    for line in wrapped.replace(str(models["bert"]), "MODEL").splitlines():
        assert len(line) <= width or len(line.split()) <= 2, line
    if width >= 80:
        assert wrapped.split() == piped.split()


def test_what_inspect_gave_is_planned_without_describing_it_again(models: dict[str, Path]) -> None:
    found = growformer.inspect(models["llama"])
    made, again = growformer.plan(found, hidden_size=36), growformer.plan(models["llama"], hidden_size=36)
    assert made.to_json() == again.to_json()
    assert made.source is found.source
