"""Recipes: what they may say, what wins, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from growformer.cli.options import Growth
from growformer.cli.recipe import Recipe, load_recipe
from growformer.errors import RequestError


def test_a_recipe_has_the_options_of_the_command_line() -> None:
    assert set(Recipe.model_fields) == {f.name for f in fields(Growth)} - {"recipe"}


def test_a_recipe_is_the_same_request(run, models: dict[str, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "num_hidden_layers: 5\nset: {n_inner: 53}\nnew_layers_at: [1, 3, 4]\nnew_layers: random\ninit: orthogonal\n"
        "seed: 3\ndtype: bfloat16\nmax_shard_size: 5KB\n"
    )
    sizes = ("--num-hidden-layers", 5, "--set", "n_inner=53", "--new-layers-at", "1,3,4")
    others = ("--new-layers", "random", "--init", "orthogonal", "--seed", 3, "--dtype", "bfloat16")
    by_recipe = run("plan", models["gpt2"], "--recipe", recipe, "--json").json()
    assert by_recipe == run("plan", models["gpt2"], *sizes, *others, "--max-shard-size", "5KB", "--json").json()
    assert by_recipe["dtype"] == "bfloat16"
    assert by_recipe["init"]["seed"] == 3


def test_the_command_line_overrides_a_recipe(run, models: dict[str, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 3\nset:\n  n_inner: 53\n  n_layer: 3\n")
    found = run("plan", models["gpt2"], "--recipe", recipe, "--seed", 4, "--set", "n_inner=59", "--json").json()
    assert {c["field"]: c["target"] for c in found["changes"]} == {"n_inner": 59, "n_layer": 3}
    assert found["init"]["seed"] == 4


def test_like_is_relative_to_the_recipe(run, models: dict[str, Path], tmp_path: Path) -> None:
    config = {**json.loads((models["llama"] / "config.json").read_text()), "hidden_size": 30}
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "config.json").write_text(json.dumps(config))
    (tmp_path / "recipe.yaml").write_text("like: target\n")
    found = run("plan", models["llama"], "--recipe", tmp_path / "recipe.yaml", "--json").json()
    assert {"field": "hidden_size", "source": 24, "target": 30}.items() <= found["changes"][0].items()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hiden_size: 3", "unknown key 'hiden_size'; did you mean 'hidden_size'?"),
        ("hidden-size: 3", "unknown key 'hidden-size'; did you mean 'hidden_size'?"),
        ("xyzzy: 3", "unknown key 'xyzzy'; known: hidden_size, intermediate_size,"),
        ("hidden_size: wide", "hidden_size: expected a whole number, found 'wide'"),
        ("hidden_size: '768'", "hidden_size: expected a whole number, found '768'"),
        ("hidden_size: true", "hidden_size: expected a whole number, found True"),
        ("hidden_size: 7.5\nseed: x", "hidden_size: expected a whole number, found 7.5; seed: expected a whole number"),
        ("init: [normal]", "init: expected 'normal', 'copy' or 'orthogonal', found ['normal']"),
        ("init: magic", "init: expected 'normal', 'copy' or 'orthogonal', found 'magic'"),
        ("new_layers_at: middle", "new_layers_at: expected 'end' or 'interleave' or a list, found 'middle'"),
        ("set: 3", "set: expected a mapping, found 3"),
        ("- hidden_size: 3", "expected lines such as hidden_size: 720, found a list"),
        ("hidden_size: [3", "not YAML: line 2: expected"),
        ("hidden_size: 3\nhidden_size: 4", "not YAML: line 2: the key 'hidden_size' stands twice"),
        ("set: {a: 1, a: 2}", "the key 'a' stands twice"),
        ("like: !!python/object/apply:os.system [ls]", "not YAML: line 1: could not determine a constructor"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text + "\n")
    with pytest.raises(RequestError, match=re.escape(f"{file}: ")) as found:
        load_recipe(file)
    assert message in str(found.value)


def test_an_empty_recipe_asks_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_recipe(tmp_path / "empty.yaml") == {}


def test_the_example_in_the_docstring_is_valid(tmp_path: Path) -> None:
    import growformer.cli.recipe as module

    lines = [line for line in (module.__doc__ or "").splitlines() if line.startswith("    ")]
    (tmp_path / "r.yaml").write_text("\n".join(lines).replace("    ", "", 1).replace("\n    ", "\n"))
    assert load_recipe(tmp_path / "r.yaml") == {
        "hidden_size": 720,
        "num_hidden_layers": 36,
        "new_layers_at": "end",
        "init": "orthogonal",
        "seed": 1,
        "set": {"max_position_embeddings": 8192},
    }
