"""Every wrong request: exit code 2, one message on stderr that says what, where, what else and what next, and nothing
left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.cli.support import Ran, contents, set_config

Grow = Callable[..., Ran]


@pytest.fixture
def refused(run: Callable[..., Ran], tmp_path: Path) -> Callable[..., str]:
    """Return what ``grow`` (or another command) says as it refuses; checks all that every refusal has in common."""

    def refuse(*arguments: object, out: Path | None = None, command: str = "grow") -> str:
        model, *options = arguments
        before = contents(tmp_path)
        folders = sorted(p.name for p in tmp_path.iterdir())
        places = (model, out or tmp_path / "out") if command == "grow" else (model,)
        for extra in ([], ["--json"]):
            ran = run(command, *places, *options, *extra)
            assert ran.code == 2
            assert ran.out == ""
            assert ran.err.startswith("error: ")
            assert "Traceback" not in ran.err
            assert sorted(p.name for p in tmp_path.iterdir()) == folders
            assert contents(tmp_path) == before
        return ran.err.removeprefix("error: ").rstrip("\n")

    return refuse


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def set_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# Sizes.


def test_a_smaller_size(refused, llama: Path) -> None:
    assert refused(llama, "--hidden-size", 20) == (
        "cannot grow hidden_size 24 -> 20: smaller than the source; growth never removes anything. Nearest: 24"
    )
    assert "cannot grow num_hidden_layers 3 -> 2: smaller" in refused(llama, "--num-hidden-layers", 2)
    assert "cannot grow hidden_size 24 -> -5: smaller" in refused(llama, "--hidden-size", -5)


def test_an_indivisible_head_count(refused, llama: Path) -> None:
    assert refused(llama, "--num-attention-heads", 7) == (
        "cannot grow num_attention_heads 6 -> 7: group = num_attention_heads / num_key_value_heads is not a whole "
        "number with num_key_value_heads = 2; nearest: 6, 8"
    )
    assert refused(llama, "--num-key-value-heads", 3).endswith(
        "would shrink from 3 to 2 with num_attention_heads = 6; no larger value fits while the others stay: ask for "
        "num_key_value_heads=3 and num_attention_heads=9"
    )
    assert refused(llama, "--head-dim", 11) == (
        "cannot grow head_dim 10 -> 11: freq = head_dim / 2 is not a whole number; nearest: 10, 12"
    )


def test_an_ambiguous_size(refused, models: dict[str, Path]) -> None:
    # n_embd 21 with 3 heads of 7: for 24 there is no count of heads that keeps 7.
    assert refused(models["gpt2"], "--hidden-size", 24) == (
        "cannot grow n_embd 21 -> 24 alone: GPT-2 has no head_dim of its own, it is n_embd / n_head, and key = 7 does "
        "not divide it. Complete the request with n_head=3 (key 8); or nearest n_embd: 21, 28"
    )


def test_a_size_that_the_family_does_not_have(refused, models: dict[str, Path]) -> None:
    message = refused(models["bert"], "--head-dim", 8)
    assert message.startswith("bert has no size 'head_dim' (BERT has no head_dim of its own, it is hidden_size /")
    assert message.endswith(
        "sizes that can grow: num_hidden_layers, hidden_size, intermediate_size, num_attention_heads"
    )


def test_a_size_that_cannot_grow(refused, llama: Path) -> None:
    assert refused(llama, "--set", "vocab_size=100") == (
        "cannot grow vocab_size of llama: a larger vocabulary changes the output distribution; use "
        "resize_token_embeddings; sizes that can grow: num_hidden_layers, hidden_size, intermediate_size, "
        "num_key_value_heads, num_attention_heads, head_dim"
    )


def test_a_size_asked_for_twice(refused, models: dict[str, Path]) -> None:
    gpt2 = models["gpt2"]
    assert refused(gpt2, "--hidden-size", 28, "--set", "n_embd=35") == "n_embd is asked for twice: 28 and, by set, 35"
    assert refused(gpt2, "--hidden-size", 28, "--set", "hidden_size=35") == (
        "n_embd is asked for twice: 28 and, by set, 35"
    )
    assert refused(gpt2, "--set", "n_embd=28", "--set", "n_embd=35") == "--set n_embd stands twice: 28 and '35'"


def test_a_post_norm_hidden_size_that_is_no_multiple(refused, models: dict[str, Path]) -> None:
    message = refused(models["bert"], "--hidden-size", 30)
    assert message.startswith("cannot grow hidden_size 20 -> 30: no value suits a new coordinate of 'stream': ")
    assert "the mean of the others (" in message
    assert "against zero (" in message
    assert message.endswith("It can only be repeated a whole number of times; nearest: 20, 40")


@pytest.mark.parametrize("command", ["grow", "plan"])
def test_a_hidden_size_that_the_class_is_known_to_refuse(refused, llama: Path, command: str) -> None:
    assert refused(llama, "--hidden-size", 25, command=command) == (
        "cannot grow hidden_size 24 -> 25 with num_attention_heads = 6: its config class wants hidden_size to be a "
        "multiple of num_attention_heads, even with a head_dim of its own; nearest hidden_size: 24, 30"
    )


@pytest.mark.parametrize("command", ["grow", "plan"])
def test_a_config_that_the_class_refuses(refused, llama: Path, command: str) -> None:
    message = refused(llama, "--hidden-size", 36, "--set", "initializer_range=much", command=command)
    assert message.startswith("the class of llama refuses the target config: ")
    assert "initializer_range" in message
    assert message.endswith("; ask for other sizes")


def test_a_field_that_changes_what_the_model_computes(refused, llama: Path) -> None:
    assert refused(llama, "--hidden-size", 36, "--set", "hidden_act=gelu") == (
        "this would change what the model computes:\n  hidden_act: expected 'silu', found 'gelu'"
    )
    assert refused(llama, "--hidden-size", 36, "--set", "rms_norm_eps=0.3") == (
        "rms_norm_eps cannot be set: growth keeps it, or derives it from the sizes"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden-size", "wide"], "invalid value for '--hidden-size': expected a whole number, found 'wide'"),
        (["--hidden-size", "36.5"], "invalid value for '--hidden-size': expected a whole number, found '36.5'"),
        (["--set", "intermediate_size=wide"], "intermediate_size must be a whole number, got 'wide'"),
        (["--set", "intermediate_size=40.5"], "intermediate_size must be a whole number, got 40.5"),
        (["--set", "intermediate_size=true"], "intermediate_size must be a whole number, got True"),
        (["--seed", "x"], "invalid value for '--seed': expected a whole number, found 'x'"),
    ],
)
def test_a_size_that_is_no_number(refused, llama: Path, options: list[str], message: str) -> None:
    assert message in refused(llama, *options)


# Options.


def test_an_unknown_option(refused, llama: Path) -> None:
    assert (
        refused(llama, "--hiden-size", 36)
        == "no option --hiden-size; did you mean --hidden-size?\nSee growformer grow --help"
    )
    assert refused(llama, "--xyzzy", 36) == "no option --xyzzy\nSee growformer grow --help"
    assert refused(llama, "--quiet", 36) == "no option --quiet\nSee growformer grow --help"
    said = "no option --d-model: a size by the family's own name is --set d_model=N\nSee growformer grow --help"
    assert refused(llama, "--d-model", 36) == said


def test_an_unknown_command(run) -> None:
    ran = run("grwo")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "error: no such command 'grwo'. Did you mean 'grow'?\nSee growformer --help\n"


def test_a_missing_argument(run, llama: Path) -> None:
    ran = run("grow", llama)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: missing argument 'OUT'")


def test_an_unknown_choice(refused, llama: Path) -> None:
    message = refused(llama, "--hidden-size", 36, "--init", "norml")
    assert message.startswith(
        "invalid value for '--init': expected one of normal, copy, orthogonal, found 'norml'; did you mean 'normal'?"
    )
    message = refused(llama, "--hidden-size", 36, "--dtype", "int8")
    assert "'--dtype': expected one of bfloat16, float16, float32, float64, found 'int8'" in message


@pytest.mark.parametrize("size", ["5XB", "many", "0", "-1GB", "0.1B", "GB"])
def test_a_shard_size_that_is_none(refused, llama: Path, size: str) -> None:
    assert refused(llama, "--hidden-size", 36, f"--max-shard-size={size}") == (
        f"max_shard_size = {size!r}: expected a size such as 500MB, 5GB or 2GiB"
    )


def test_places_of_new_layers(refused, llama: Path) -> None:
    ask = (llama, "--num-hidden-layers", 5, "--new-layers-at")
    assert refused(*ask, "ende") == (
        "new_layers_at = 'ende': expected end, interleave, or numbers of target layers as in 3,7,11; did you "
        "mean 'end'?"
    )
    expected = "expected 2 different positions from 0 to 4, as the model grows from 3 to 5 layers"
    for where, found in (("1", "[1]"), ("1,1", "[1, 1]"), ("1,5", "[1, 5]"), ("1,2,3", "[1, 2, 3]")):
        assert refused(*ask, where) == f"new_layers_at = {found}: {expected}"


def test_an_unknown_field(refused, llama: Path) -> None:
    assert refused(llama, "--set", "hiden_act=relu") == (
        "--set hiden_act: llama has no config field 'hiden_act'; did you mean 'hidden_act'?; growformer inspect "
        "lists the sizes"
    )
    assert "llama has no config field 'n_inner'" in refused(llama, "--set", "n_inner=40")
    assert refused(llama, "--set", "hidden_act") == "--set hidden_act: expected FIELD=VALUE, as in --set n_inner=4096"


def test_a_broken_recipe(refused, llama: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("hiden_size: 36\nnum_hidden_layers: many\n")
    assert refused(llama, "--recipe", recipe) == (
        f"{recipe}: num_hidden_layers: expected a whole number, found 'many'; unknown key 'hiden_size'; did you mean "
        "'hidden_size'?"
    )
    recipe.write_text("hidden_size: [\n")
    assert refused(llama, "--recipe", recipe).startswith(f"{recipe}: not YAML: line 2: ")
    assert refused(llama, "--recipe", tmp_path / "no.yaml") == (
        f"{tmp_path}/no.yaml: no such recipe; expected a YAML file with lines such as hidden_size: 720"
    )


def test_a_target_config_of_another_family_or_none(
    refused, llama: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    assert (
        refused(llama, "--like", models["gpt2"]) == "the target config is of model_type 'gpt2', the source of 'llama'"
    )
    assert refused(llama, "--like", tmp_path) == f"{tmp_path}/config.json: missing; expected the target's config.json"
    (tmp_path / "broken.json").write_text("{")
    assert refused(llama, "--like", tmp_path / "broken.json").startswith(f"{tmp_path}/broken.json: not JSON: ")


# Sources.


@pytest.mark.parametrize("command", ["grow", "plan", "inspect"])
def test_a_source_that_does_not_exist(refused, tmp_path: Path, command: str) -> None:
    assert refused(tmp_path / "no", *(["--hidden-size", 36] if command != "inspect" else []), command=command) == (
        f"{tmp_path}/no: no such folder (a hub id has the form owner/name)"
    )


def test_a_source_that_is_no_model(refused, tmp_path: Path, llama: Path) -> None:
    (tmp_path / "empty").mkdir()
    ask = ("--hidden-size", 36)
    assert refused(tmp_path / "empty", *ask) == f"{tmp_path}/empty/config.json: missing; every model folder has one"
    assert refused(llama / "model.safetensors", *ask) == (
        f"{llama}/model.safetensors: expected a model folder with config.json, found a file"
    )
    (llama / "config.json").write_text("[1]")
    assert refused(llama, *ask) == f"{llama}/config.json: expected a JSON object, found list"
    (llama / "config.json").unlink()
    (llama / "model.safetensors").unlink()
    assert "config.json: missing" in refused(llama, *ask)


def test_an_unknown_family(refused, llama: Path) -> None:
    set_config(llama, model_type="lama")
    message = refused(llama, "--hidden-size", 36)
    assert message.startswith("no architecture describes model_type 'lama'; did you mean 'llama'? ")
    assert message.endswith("test and register it, or pass it as architecture=... to growformer.grow_checkpoint")
    assert "growformer inspect MODEL --draft-architecture drafts a declaration" in message
    set_config(llama, model_type="xyzzy")
    assert refused(llama, "--hidden-size", 36).startswith("no architecture describes model_type 'xyzzy'; ")
    set_config(llama, model_type=None)
    assert "the config names no model_type" in refused(llama, "--hidden-size", 36)


def test_missing_tensors(refused, llama: Path) -> None:
    tensors = weights(llama)
    del tensors["model.layers.1.mlp.up_proj.weight"], tensors["model.norm.weight"]
    set_weights(llama, tensors)
    assert refused(llama, "--hidden-size", 36) == (
        f"{llama}: the tensors do not fit the config (llama):\n"
        "  missing model.layers.1.mlp.up_proj.weight\n"
        "  missing model.norm.weight"
    )


def test_extra_tensors(refused, llama: Path) -> None:
    set_weights(
        llama,
        {
            **weights(llama),
            "model.layers.0.mlp.upproj.weight": torch.zeros(37, 24),
            "model.layers.3.mlp.up_proj.weight": torch.zeros(37, 24),
            "model.layers.0.mlp.up_proj.bias": torch.zeros(37),
        },
    )
    message = refused(llama, "--hidden-size", 36)
    assert message.startswith(f"{llama}: the tensors do not fit the config (llama):\n")
    assert "  unexpected model.layers.0.mlp.upproj.weight [37, 24]; did you mean" in message
    assert "  unexpected model.layers.3.mlp.up_proj.weight: the config has fewer layers" in message
    assert "  unexpected model.layers.0.mlp.up_proj.bias: the config says that there is none" in message


def test_a_shape_that_contradicts_the_config(refused, llama: Path) -> None:
    tensors = weights(llama)
    tensors["model.layers.1.mlp.down_proj.weight"] = torch.zeros(24, 36)
    set_weights(llama, tensors)
    assert refused(llama, "--hidden-size", 36) == (
        f"{llama}: the tensors do not fit the config (llama):\n"
        "  model.layers.1.mlp.down_proj.weight has shape [24, 36]; the config predicts [24, 37] = [stream, mlp]"
    )


def test_a_config_that_contradicts_itself(refused, llama: Path) -> None:
    set_config(llama, num_key_value_heads=4)
    message = refused(llama, "--hidden-size", 36)
    assert message.startswith(f"{llama}: the config contradicts itself: ")
    assert "num_attention_heads / num_key_value_heads" in message


def test_a_quantised_source(refused, llama: Path) -> None:
    set_config(llama, quantization_config={"quant_method": "gptq", "bits": 4})
    message = refused(llama, "--hidden-size", 36)
    assert message.startswith(f"{llama}: quantised weights (gptq) cannot be grown: ")
    assert "dequantise first: AutoModelForCausalLM.from_pretrained(SRC).dequantize().save_pretrained(DST)" in message


def test_a_pickle(refused, llama: Path) -> None:
    torch.save(weights(llama), llama / "pytorch_model.bin")
    (llama / "model.safetensors").unlink()
    message = refused(llama, "--hidden-size", 36)
    assert message.startswith(
        f"{llama}: the weights are a pickle (pytorch_model.bin), which can run code when it is opened. "
    )
    assert "AutoModel.from_pretrained('SRC', weights_only=True).save_pretrained('DST')" in message


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_file(refused, llama: Path, length: int) -> None:
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    message = refused(llama, "--hidden-size", 36)
    assert message.startswith(f"{file}: ")
    assert "cut short" in message or "incomplete or altered" in message


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../model.safetensors"}, "'a' points to '../model.safetensors', which is not a safetensors file "),
        ({"a": "/etc/passwd"}, "'a' points to '/etc/passwd', which is not a safetensors file "),
        ({"a": "x.bin"}, "'a' points to 'x.bin', which is not a safetensors file "),
        ({"a": 3}, "'a' points to 3, which is not a safetensors file "),
        ({}, "has no weight_map"),
        ({"a": "gone.safetensors"}, "1 shards of model.safetensors.index.json are missing: gone.safetensors"),
        ({"a": "model.safetensors"}, "says that it holds 'a', but it does not"),
        ({"a": "other.safetensors"}, "holds model.safetensors, which transformers loads, and model.safetensors.index"),
    ],
)
def test_a_wrong_index(refused, llama: Path, weight_map: dict[str, Any], message: str) -> None:
    shutil.copy(llama / "model.safetensors", llama / "other.safetensors")
    (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert message in refused(llama, "--hidden-size", 36)


# Outputs.


def test_an_output_that_exists(refused, llama: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    message = refused(llama, "--hidden-size", 36)
    assert message.startswith(f"{tmp_path}/out: exists already")
    assert message.endswith("overwritten. Choose another name, or remove it first")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    assert refused(llama, "--hidden-size", 36) == message


def test_an_output_that_cannot_be_written(
    refused, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = (llama, "--hidden-size", 36)
    assert refused(*ask, out=tmp_path / "no" / "out") == (
        f"{tmp_path}/no/out: its parent folder {tmp_path}/no does not exist; create it first"
    )
    (tmp_path / "file").write_text("")
    assert refused(*ask, out=tmp_path / "file" / "out") == (
        f"{tmp_path}/file/out: {tmp_path}/file is a file; expected a folder to write into"
    )
    usual = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode & os.W_OK == 0 and usual(path, mode))
    assert refused(*ask) == (
        f"{tmp_path}/out: no permission to write in {tmp_path}; choose another place, or change its mode"
    )


def test_a_full_disk(refused, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    message = refused(llama, "--hidden-size", 36)
    assert message.startswith(f"{tmp_path}/out: needs ")
    assert message.endswith("1,000 are free on that disk")
