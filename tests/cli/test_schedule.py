"""``growformer schedule``: a proposal that can be carried out, with numbers that add up and their sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tests.cli.support import Ran, set_config

import growformer
from growformer import GrowthSchedule, RequestError
from growformer.runs.rules import stacking_tokens

Run = Callable[..., Ran]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A llama of eight layers."""
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=48, intermediate_size=111, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=2, head_dim=10, max_position_embeddings=64, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(tmp_path / "target")
    return tmp_path / "target"


@pytest.mark.parametrize(
    ("parameters", "tokens", "expected"), [(7e9, 2e12, 11.11e9), (13e9, 2e12, 15.84e9), (70e9, 2e12, 42.48e9)]
)
def test_the_law_gives_these_tokens(parameters: float, tokens: float, expected: float) -> None:
    assert stacking_tokens(int(parameters), int(6 * parameters * tokens)) == pytest.approx(expected, rel=5e-4)
    assert stacking_tokens(int(parameters), int(2 * parameters * tokens)) != pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("rule", "factor", "layers"), [("early", 4, 2), ("late", 8, 1)])
def test_a_proposal_can_be_carried_out(
    run: Run, target: Path, tmp_path: Path, rule: str, factor: int, layers: int
) -> None:
    out, config = tmp_path / "schedule.yaml", tmp_path / "source.json"
    ran = run(
        "schedule", "--like", target, "--tokens", "20B", "--rule", rule, "-o", out, "--source-out", config, "--json"
    )
    assert ran.code == 0, ran.err
    said = ran.json()
    schedule = GrowthSchedule.from_yaml(out)
    assert schedule.to_dict() == said["schedule"]
    source = json.loads(config.read_text())
    assert source["num_hidden_layers"] == layers
    (plan,) = growformer.plan_schedule(schedule, source)
    assert plan.target_sizes["num_hidden_layers"] == 8
    assert said["parameters"] == dict(zip(("source", "target"), plan.num_parameters(), strict=True))
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**source))
    assert model.num_parameters() == said["parameters"]["source"]
    assert said["growth_factor"] == factor
    assert 0 < said["at_tokens"] < said["tokens"] == 20_000_000_000
    share = said["at_tokens"] / said["tokens"]
    assert said["ceiling"] == pytest.approx(share * (1 - 1 / factor))
    assert said["saving"] == pytest.approx(1 - said["flops"]["staged"] / said["flops"]["scratch"])
    assert 0 < said["saving"] < said["ceiling"]  # tables and heads do not shrink with depth
    assert all(remark["source"].startswith("arXiv:") for remark in said["remarks"])
    assert any("vanish" in remark["text"] for remark in said["remarks"])
    text = run("schedule", "--like", target, "--tokens", "20B", "--rule", rule)
    assert text.code == 0
    assert f"{said['saving']:.1%} less on the same tokens" in text.out
    assert f"Ceiling: {said['ceiling']:.1%}" in text.out
    assert "Nothing was written" in text.out


def test_flops_are_the_ledgers(target: Path) -> None:
    from growformer.sizing.flops import count_flops

    found = growformer.propose_schedule(target / "config.json", 10**9, rule="late", sequence_length=33)
    costs = []
    for config in (found.source_config, found.plan.target_config):
        seen = growformer.inspect(dict(config))
        costs.append(count_flops(seen.architecture, seen.source))
    small, large = costs
    assert found.scratch == large.training(10**9, 33)
    assert found.staged.total == small.training(8 * 10**8, 33) + large.training(2 * 10**8, 33)


def test_a_source_that_is_there(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((models["llama"] / "config.json").read_text())
    wider = tmp_path / "wider.json"
    sizes = {"hidden_size": 36, "num_attention_heads": 12, "head_dim": 12}
    wider.write_text(json.dumps({**config, **sizes}))
    ran = run("schedule", models["llama"], "--like", wider, "--tokens", "1B", "--rule", "late", "--json")
    assert ran.code == 0, ran.err
    said = ran.json()
    (stage,) = said["schedule"]["stages"]
    assert stage["sizes"].items() >= sizes.items()
    assert "new_layers_at" not in stage  # no layer is new
    small, large = (said["flops"][name] for name in ("staged", "scratch"))
    assert said["saving"] == pytest.approx(1 - small / large)
    assert said["saving"] == pytest.approx(said["ceiling"])  # g is the ratio of FLOPs per token then
    assert run("schedule", models["llama"], "--like", models["llama"], "--tokens", "1B").code == 2


def test_where_new_layers_go_depends_on_the_tokens_before(target: Path) -> None:
    config = target / "config.json"
    (few,) = growformer.propose_schedule(config, 10**5, rule="late").schedule.stages
    (many,) = growformer.propose_schedule(config, 10**9, rule="late").schedule.stages
    assert (few.new_layers_at, many.new_layers_at) == ("end", "interleave")


def test_layers_that_differ_are_cut_and_named(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    config = transformers.Gemma2Config(
        vocab_size=61, hidden_size=24, intermediate_size=37, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, head_dim=10, max_position_embeddings=64, layer_types=kinds,
    )  # fmt: skip
    target = {**config.to_dict(), "architectures": ["Gemma2ForCausalLM"]}
    found = growformer.propose_schedule(target, 10**9, rule="late", growth_factor=2)
    assert found.source_config["layer_types"] == kinds[:3]
    assert found.source_config["num_hidden_layers"] == 3
    assert any("differs from the target in layer_types" in remark.text for remark in found.remarks)
    assert found.plan.target_sizes["num_hidden_layers"] == 6


@pytest.mark.parametrize("model_type", ["gpt2", "bert", "t5", "mixtral"])
def test_proposals_for_other_families(model_type: str) -> None:
    config = transformers.AutoConfig.for_model(model_type)
    head = {"gpt2": "GPT2LMHeadModel", "bert": "BertForMaskedLM", "t5": "T5ForConditionalGeneration"}
    target = {**config.to_dict(), "architectures": [head.get(model_type, "MixtralForCausalLM")]}
    found = growformer.propose_schedule(target, 300 * 10**9)
    assert 0 < found.saving < found.ceiling
    assert found.growth_factor == 4 if model_type != "t5" else found.growth_factor > 1


WRONG: dict[str, tuple[list[str], str]] = {
    "no target": (["--tokens", "1B"], "missing option .*--like"),
    "no tokens": (["--like", "{target}"], "missing option .*--tokens"),
    "tokens": (["--like", "{target}", "--tokens", "many"], "tokens = 'many': expected a number of tokens such as 1.2B"),
    "rule": (["--like", "{target}", "--tokens", "1B", "--rule", "erly"], "expected one of early, late, .*did you mean"),
    "too short": (["--like", "{target}", "--tokens", "1M"], "the run has 1,000,000: it was fitted on longer runs"),
    "factor": (
        ["--like", "{target}", "--tokens", "20B", "--growth-factor", "1"],
        "growth_factor = 1: expected a number",
    ),
    "both": (
        ["{target}/config.json", "--like", "{target}", "--tokens", "20B", "--growth-factor", "2"],
        "the source says by how much it grows: leave out growth_factor",
    ),
    "nowhere": (["--like", "{target}/no", "--tokens", "20B"], "expected the target's config.json"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests(run: Run, target: Path, tmp_path: Path, name: str) -> None:
    import re

    options, message = WRONG[name]
    out = tmp_path / "schedule.yaml"
    ran = run("schedule", *(o.format(target=target) for o in options), "-o", out)
    assert ran.code == 2
    assert re.search(message, ran.err.replace("\n", " ")), ran.err
    assert not out.exists()


def test_nothing_is_overwritten(run: Run, target: Path, tmp_path: Path) -> None:
    out = tmp_path / "schedule.yaml"
    out.write_text("mine")
    for option in ("-o", "--source-out"):
        ran = run("schedule", "--like", target, "--tokens", "20B", option, out)
        assert (ran.code, out.read_text()) == (2, "mine")
        assert "exists already, and is never overwritten" in ran.err


def test_one_layer_has_no_shallower_source(target: Path) -> None:
    set_config(target, num_hidden_layers=1)
    with pytest.raises(RequestError, match="the target has 1 layer: there is no shallower source"):
        growformer.propose_schedule(target / "config.json", 10**10)
    with pytest.raises(RequestError, match="unknown rule 'erly': expected early or late; did you mean 'early'"):
        growformer.propose_schedule(target / "config.json", 10**10, rule="erly")


def test_a_family_whose_flops_are_not_known() -> None:
    config: dict[str, Any] = {**transformers.ViTConfig().to_dict(), "architectures": ["ViTForImageClassification"]}
    with pytest.raises(RequestError, match="its FLOPs are not known; a schedule can still be written by hand"):
        growformer.propose_schedule(config, 10**12)
