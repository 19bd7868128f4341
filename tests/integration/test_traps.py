"""Sources that contradict themselves or leave things out: what transformers makes of them is what is preserved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.families.case import Case
from tests.integration.cases import CASES, tokens
from torch import nn

import growformer
from growformer.verification.outputs import compare_outputs


def save(name: str, folder: Path, **changes: Any) -> nn.Module:
    """Save a case's model with a changed config.json (None removes a field), and return what transformers loads."""
    CASES[name].build().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config = {k: v for k, v in {**config, **changes}.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return load(name, folder)


def load(name: str, folder: Path) -> nn.Module:
    model: nn.Module = getattr(transformers, CASES[name].model).from_pretrained(folder).eval()
    return model


def change(folder: Path, file: str, **changes: Any) -> None:
    data = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**data, **changes}))


def assert_preserved(name: str, source: nn.Module, grown: nn.Module) -> None:
    report = compare_outputs(source, grown, tokens(CASES[name]))
    assert report.ok, report


def test_a_head_that_differs_stays_a_head_of_its_own(tmp_path: Path) -> None:
    """The config says tied, the tensors say otherwise."""
    CASES["llama tied"].build().save_pretrained(tmp_path / "source")
    state = load_file(tmp_path / "source" / "model.safetensors")
    state["lm_head.weight"] = -state["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(state, tmp_path / "source" / "model.safetensors", {"format": "pt"})
    source = load("llama tied", tmp_path / "source")
    assert not torch.equal(source.lm_head.weight, source.model.embed_tokens.weight)
    assert_preserved("llama tied", source, growformer.grow(source, hidden_size=36, init="noise"))
    growformer.grow_checkpoint(tmp_path / "source", tmp_path / "grown", hidden_size=36, init="noise")
    assert_preserved("llama tied", source, load("llama tied", tmp_path / "grown"))


def test_an_equal_head_is_stored_once(tmp_path: Path) -> None:
    source = CASES["llama tied"].build()
    source.save_pretrained(tmp_path / "source")
    state = load_file(tmp_path / "source" / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, tmp_path / "source" / "model.safetensors", {"format": "pt"})
    written = growformer.grow_checkpoint(tmp_path / "source", tmp_path / "grown", hidden_size=36, init="noise")
    assert "lm_head.weight" in written.dropped
    grown = load("llama tied", tmp_path / "grown")
    assert grown.lm_head.weight is grown.model.embed_tokens.weight
    assert_preserved("llama tied", source, grown)


def test_a_head_tied_in_memory_although_the_config_says_untied() -> None:
    source = CASES["bert masked"].build()
    source.config.tie_word_embeddings = False
    grown = growformer.grow(source, hidden_size=48, init="noise")
    assert grown.cls.predictions.decoder.weight is grown.bert.embeddings.word_embeddings.weight
    assert_preserved("bert masked", source, grown)


def test_a_missing_head_is_refused(tmp_path: Path) -> None:
    save("llama tied", tmp_path / "source", tie_word_embeddings=False)
    with pytest.raises(growformer.SourceError, match=r"missing lm_head\.weight"):
        growformer.plan(tmp_path / "source", hidden_size=36)


def test_the_outputs_check_sees_another_head(tmp_path: Path) -> None:
    """Negative control: the check must not tie what is not tied."""
    source = CASES["llama tied"].build()
    grown = growformer.grow(source, hidden_size=36)
    grown.lm_head.weight = nn.Parameter(torch.randn_like(grown.lm_head.weight))
    assert not compare_outputs(source, grown, tokens(CASES["llama tied"])).ok


@pytest.mark.parametrize("at", [[0, 1, 2], [0, 3, 5], "end", "interleave"])
def test_layer_types_that_the_class_derives(tmp_path: Path, at: list[int] | str) -> None:
    source = save("qwen2", tmp_path / "source", layer_types=None)
    assert source.config.layer_types == ["full_attention", "full_attention", "sliding_attention"]
    growformer.grow_checkpoint(
        tmp_path / "source", tmp_path / "grown", num_hidden_layers=6, new_layers_at=at, init="noise"
    )
    assert_preserved("qwen2", source, load("qwen2", tmp_path / "grown"))


@pytest.mark.parametrize(
    "rotary",
    [
        {"rope_theta": 5e5},
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {
            "rope_theta": 5e5,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        {
            "rope_theta": 1e4,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        },
    ],
    ids=["theta", "linear", "llama3", "yarn"],
)  # fmt: skip
@pytest.mark.parametrize("growth", [{"intermediate_size": 41}, {"head_dim": 16}], ids=["mlp", "head_dim"])
def test_legacy_rotary_configs(tmp_path: Path, rotary: dict[str, Any], growth: dict[str, int]) -> None:
    source = save("llama", tmp_path / "source", rope_parameters=None, **rotary)
    growformer.grow_checkpoint(tmp_path / "source", tmp_path / "grown", init="noise", **growth)
    assert_preserved("llama", source, load("llama", tmp_path / "grown"))


def test_a_base_that_some_layers_do_not_take(tmp_path: Path) -> None:
    """Of an older config's base and scaling, OLMo 3's layers that look at a window take neither."""
    case = Case(
        model_type="olmo3", model="Olmo3ForCausalLM",
        config={
            **CASES["llama"].config, "num_hidden_layers": 4, "rope_parameters": None, "rope_theta": 1e4,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        },
    )  # fmt: skip
    source = case.source()
    source.save_pretrained(tmp_path / "source")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    del config["rope_parameters"]
    legacy = {name: case.config[name] for name in ("rope_theta", "rope_scaling")}
    (tmp_path / "source" / "config.json").write_text(json.dumps({**config, **legacy}))
    growformer.grow_checkpoint(tmp_path / "source", tmp_path / "grown", init="noise", head_dim=16)
    result = growformer.verify(tmp_path / "source", tmp_path / "grown", checks=["constraints", "outputs"])
    assert result.ok, result
    grown = tmp_path / "grown" / "config.json"
    config = json.loads(grown.read_text())
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 5e5**2
    assert config["rope_theta"] == config["rope_parameters"]["full_attention"]["rope_theta"] == 1e4**2
    del config["rope_parameters"]
    grown.write_text(json.dumps(config))  # as if the base said it all
    result = growformer.verify(tmp_path / "source", tmp_path / "grown", checks=["constraints", "outputs"])
    assert not any(report.ok for report in result.reports().values())


def test_rotary_parameters_that_contradict_each_other(tmp_path: Path) -> None:
    save(
        "llama", tmp_path / "source", rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        rope_scaling={"rope_type": "linear", "factor": 2.0},
    )  # fmt: skip
    with pytest.raises(growformer.RequestError, match="rope_scaling give different factor, rope_type"):
        growformer.plan(tmp_path / "source", intermediate_size=41)


def test_a_rotary_base_past_float32_is_refused() -> None:
    with pytest.raises(growformer.RequestError, match="the largest factor with rope_theta = 10000 is"):
        growformer.plan(CASES["llama"].build(), head_dim=88)


def test_an_edited_plan_is_refused(tmp_path: Path) -> None:
    CASES["llama"].build().save_pretrained(tmp_path / "source")
    data = json.loads(growformer.plan(tmp_path / "source", hidden_size=36).to_json())
    data["target_config"]["rms_norm_eps"] = 0.5
    edited = growformer.Plan.from_json(json.dumps(data))
    with pytest.raises(growformer.PlanError, match="would change what the model computes"):
        growformer.grow_checkpoint(tmp_path / "source", tmp_path / "grown", plan=edited)
    assert not (tmp_path / "grown").exists()


@pytest.mark.parametrize("field", ["rms_norm_eps", "rope_theta", "hidden_act"])
def test_constraints_look_at_the_config_that_was_written(tmp_path: Path, field: str) -> None:
    CASES["llama"].build().save_pretrained(tmp_path / "source")
    growformer.grow_checkpoint(tmp_path / "source", tmp_path / "grown", hidden_size=36)
    assert growformer.verify(tmp_path / "source", tmp_path / "grown", checks=["constraints"]).ok
    change(tmp_path / "grown", "config.json", **{field: "gelu" if field == "hidden_act" else 0.5})
    assert not growformer.verify(tmp_path / "source", tmp_path / "grown", checks=["constraints"]).ok


def test_constraints_look_for_tensors_left_over(tmp_path: Path) -> None:
    CASES["llama"].build().save_pretrained(tmp_path / "source")
    growformer.grow_checkpoint(tmp_path / "source", tmp_path / "grown", hidden_size=36)
    state = load_file(tmp_path / "grown" / "model.safetensors")
    save_file({**state, "extra": torch.zeros(3)}, tmp_path / "grown" / "model.safetensors", {"format": "pt"})
    result = growformer.verify(tmp_path / "source", tmp_path / "grown", checks=["constraints"])
    assert not result.ok
    assert "extra" in str(result)


def test_constraints_refuse_another_source(tmp_path: Path) -> None:
    CASES["llama"].build().save_pretrained(tmp_path / "source")
    growformer.grow_checkpoint(tmp_path / "source", tmp_path / "grown", hidden_size=36)
    change(tmp_path / "source", "config.json", rms_norm_eps=0.5)
    with pytest.raises(growformer.PlanError, match=r"not the source that growformer\.json is about"):
        growformer.verify(tmp_path / "source", tmp_path / "grown", checks=["constraints"])


@pytest.mark.parametrize("factor", [1.05, 0.5])
def test_a_wrong_rotary_base_is_not_hidden_by_the_sources_frequencies(factor: float) -> None:
    source = CASES["llama"].build()
    plan = growformer.plan(source, head_dim=12)
    growformer.grow(source, plan=plan)
    config = dict(plan.target_config)
    config["rope_parameters"] = {**config["rope_parameters"], "rope_theta": config["rope_theta"] * factor}
    grown = growformer.grow(source, plan=plan)
    wrong = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**config, "rope_theta": None})).eval()
    wrong.load_state_dict(grown.state_dict())
    assert compare_outputs(source, grown, tokens(CASES["llama"]), frequencies=True).ok
    assert not compare_outputs(source, wrong, tokens(CASES["llama"]), frequencies=True).ok


def test_steps_of_live_models_compose() -> None:
    source = CASES["llama"].build()
    first = growformer.plan(source, head_dim=16, hidden_size=36, init="noise")
    second = growformer.plan(growformer.grow(source, plan=first), intermediate_size=51, init="noise")
    assert_preserved("llama", source, growformer.grow(source, plan=first.then(second)))


def test_live_models_without_a_plan_are_compared_by_outputs_or_by_what_they_show() -> None:
    source = CASES["llama"].build()
    grown = growformer.grow(source, hidden_size=36)
    result = growformer.verify(source, grown)
    assert result.ok
    assert result.constraints is None
    found = growformer.verify(source, grown, checks=["constraints", "trainability"])
    assert found.ok
    assert found.constraints is not None
    assert found.constraints.record == "inferred"
    with torch.no_grad():
        grown.model.layers[0].mlp.gate_proj.weight[0, 0] *= -1
    assert not growformer.verify(source, grown, checks=["constraints"]).ok


def test_a_model_without_its_pooler() -> None:
    model = transformers.BertModel(CASES["bert"].build().config, add_pooling_layer=False).eval()
    grown = growformer.grow(model, intermediate_size=53)
    assert grown.pooler is None
    assert_preserved("bert", model, grown)


def test_new_post_norm_layers_say_how_exact_they_are() -> None:
    assert any(
        "eps / (2 variance)" in note for note in growformer.plan(CASES["bert"].build(), num_hidden_layers=3).notes
    )


def test_files_of_other_checkpoints_stay_behind(tmp_path: Path) -> None:
    source = tmp_path / "source"
    CASES["llama"].build().save_pretrained(source)
    CASES["llama"].build().save_pretrained(source / "checkpoint-100")
    (source / "original").mkdir()
    (source / "original" / "consolidated.00.pth").write_bytes(b"weights")
    (tmp_path / "secret").write_text("secret")
    (source / "notes.txt").symlink_to(tmp_path / "secret")
    (source / "linked").symlink_to(tmp_path)
    (source / "training_args.bin").write_bytes(b"arguments")
    save_file({"x": torch.zeros(2)}, source / "consolidated.safetensors")
    written = growformer.grow_checkpoint(source, tmp_path / "grown", hidden_size=36)
    assert {path.name for path in (tmp_path / "grown").iterdir()} == {
        "config.json", "generation_config.json", "growformer.json", "model.safetensors", "training_args.bin",
    }  # fmt: skip
    for name in ("notes.txt", "linked", "consolidated.safetensors", "original/consolidated.00.pth"):
        assert name in written.dropped, name


def test_an_output_inside_the_source_is_refused(tmp_path: Path) -> None:
    CASES["llama"].build().save_pretrained(tmp_path / "source")
    with pytest.raises(growformer.OutputError, match="lies inside the source"):
        growformer.grow_checkpoint(tmp_path / "source", tmp_path / "source" / "grown", hidden_size=36)
