"""``growformer pad``, and the sizes that ``plan`` suggests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from tests.cli.support import contents

import growformer


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen2") / "source"
    config = transformers.Qwen2Config(
        vocab_size=61, hidden_size=56, intermediate_size=37, num_hidden_layers=2, num_attention_heads=7,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def test_pad_writes_what_it_says(run, qwen2: Path, tmp_path: Path) -> None:
    before = contents(qwen2)
    ran = run("pad", qwen2, tmp_path / "out", "--tensor-parallel", 8, "--multiple-of", 8, "--for", "vllm")
    assert (ran.code, ran.err) == (0, "")
    rows = [line.split() for line in ran.out.splitlines()]
    assert f"{qwen2} (qwen2, Qwen2ForCausalLM)" in ran.out
    assert ["model_type", "qwen2", "llama", "the", "same", "function,"] in [row[:6] for row in rows]
    assert ["num_attention_heads", "7", "8", "requested"] in rows
    assert ["7", "1", "(0)", "1", "(1)", "8", "(0)"] in rows
    assert "FLOPs per token" in ran.out
    assert "weights on disk" in ran.out
    assert "Every block was compared with the source: all constraints hold" in ran.out
    assert contents(qwen2) == before
    assert run("verify", qwen2, tmp_path / "out").code == 0
    assert type(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")).__name__ == "LlamaForCausalLM"


def test_dry_run_writes_nothing(run, qwen2: Path, tmp_path: Path) -> None:
    ran = run("pad", qwen2, tmp_path / "out", "--tensor-parallel", 8, "--for", "vllm", "--dry-run")
    assert ran.code == 0
    assert "Nothing was written." in ran.out
    assert list(tmp_path.iterdir()) == []
    alone = run("pad", qwen2 / "config.json", "--tensor-parallel", 8, "--for", "vllm", "--dry-run", "--json").json()
    assert alone["path"] is None
    assert alone["classes"] == {"source": ["Qwen2ForCausalLM"], "target": ["LlamaForCausalLM"]}
    assert alone["ranks"][7] == {"rank": 7, "heads": [1, 0], "kv_heads": [1, 1], "mlp": [5, 2]}


def test_json(run, qwen2: Path, tmp_path: Path) -> None:
    options = ("--tensor-parallel", 8, "--for", "vllm", "--keep-class", "--trainable", "--seed", 3)
    found = run("pad", qwen2, tmp_path / "out", *options, "--dtype", "bfloat16", "--json").json()
    assert found["fit"] == {"tensor_parallel": 8, "multiple_of": 1, "consumer": "vllm", "version": "0.33.0"}
    assert found["pads"] is True
    assert found["classes"]["target"] == ["Qwen2ForCausalLM"]
    assert found["plan"]["init"] == {"name": "normal", "seed": 3, "std": 0.02}
    assert found["plan"]["parameters"]["target"] > found["plan"]["parameters"]["source"]
    assert found["verification"]["ok"] is True
    assert growformer.load_provenance(tmp_path / "out").plan.target_config["hidden_size"] == 64


def test_what_fits_is_left_alone(run, models: dict[str, Path], tmp_path: Path) -> None:
    ran = run("pad", models["llama"], tmp_path / "out", "--tensor-parallel", 1, "--multiple-of", 1)
    assert ran.code == 2
    assert "nothing to fit: name tensor_parallel, multiple_of, or both" in ran.err
    run("pad", models["llama"], tmp_path / "once", "--tensor-parallel", 2)
    ran = run("pad", tmp_path / "once", tmp_path / "out", "--tensor-parallel", 2)
    assert (ran.code, ran.out) == (2, "")
    assert f"nothing to pad: {tmp_path}/once fits tensor_parallel = 2 and multiple_of = 1" in ran.err
    assert not (tmp_path / "out").exists()
    ran = run("pad", tmp_path / "once", "--tensor-parallel", 2, "--dry-run")
    assert ran.code == 0
    assert "The model fits as it is; there is nothing to pad." in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the folder to write, as in growformer pad MODEL OUT, or add --dry-run"),
        (("OUT", "--for", "vlm"), "expected one of transformers, vllm, sglang, found 'vlm'; did you mean 'vllm'?"),
        (("OUT", "--tensor-parallel", "two"), "expected a whole number, found 'two'"),
        (("OUT", "--tensor-parallel", "-1"), "tensor_parallel = -1: expected a whole number from 1 on"),
    ],
)
def test_wrong_requests(run, models: dict[str, Path], tmp_path: Path, arguments: tuple, message: str) -> None:
    given = [tmp_path / "out" if a == "OUT" else a for a in arguments]
    ran = run("pad", models["llama"], *given)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_config_alone_has_no_weights(run, models: dict[str, Path], tmp_path: Path) -> None:
    ran = run("pad", models["llama"] / "config.json", tmp_path / "out", "--tensor-parallel", 4)
    assert ran.code == 2
    assert "a config alone has no weights to pad" in ran.err


# A number of parameters.


def test_plan_suggests_sizes(run, models: dict[str, Path], tmp_path: Path) -> None:
    ran = run("plan", models["llama"])
    assert (ran.code, ran.err) == (0, "")
    assert "No size is asked for. Sizes for 1.5, 2 and 4 times the parameters" in ran.out
    found = run("plan", models["llama"], "--json").json()
    assert [s["factor"] for s in found["suggestions"]] == [1.5, 2.0, 4.0]
    for suggestion in found["suggestions"]:
        assert suggestion["parameters"] == pytest.approx(suggestion["factor"] * found["parameters"], rel=0.1)
        assert suggestion["command"] in ran.out
        arguments = suggestion["command"].split()[1:]
        arguments[arguments.index("OUT")] = str(tmp_path / f"x{suggestion['factor']}")
        grown = run(*arguments, "--json").json()
        assert grown["plan"]["parameters"]["target"] == suggestion["parameters"]


def test_to_parameters(run, models: dict[str, Path], tmp_path: Path) -> None:
    for command in (("plan", models["llama"]), ("grow", models["llama"], tmp_path / "out")):
        found = run(*command, "--to-parameters", "50k", "--shape", "deeper", "--json").json()
        plan = found.get("plan", found)
        assert plan["parameters"]["target"] == pytest.approx(50_000, rel=0.1)
        assert [c["field"] for c in plan["changes"]] == ["num_hidden_layers"]
        assert "the 50,000 asked for" in plan["notes"][0]
    (tmp_path / "recipe.yaml").write_text("to_parameters: 50k\nshape: deeper\n")
    again = run("plan", models["llama"], "--recipe", tmp_path / "recipe.yaml", "--json").json()
    assert again["changes"] == plan["changes"]
    ran = run("plan", models["llama"], "--to-parameters", "50k", "--hidden-size", 48)
    assert ran.code == 2
    assert "to_parameters chooses all sizes: leave out hidden_size" in ran.err
    ran = run("plan", models["llama"], "--shape", "tall", "--to-parameters", "50k")
    assert "expected one of balanced, deeper, wider, found 'tall'" in ran.err
    assert json.dumps(again)
