"""Sizes for a parameter count: counted as the class counts, near the number, in proportion, and always plannable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.sizing.models import BERT, FAMILIES, GPT2, LLAMA3_8B, QWEN2_7B, SMOLLM2, family, llama, outputs

import growformer
from growformer.architecture.registry import for_config
from growformer.architecture.source import describe
from growformer.sizing.counting import count_parameters
from growformer.sizing.suggest import CLOSE, FARTHEST, SHAPES, parse_count

TIES = {
    "lm_head.weight": "model.embed_tokens.weight",
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
REAL = {"qwen2": QWEN2_7B, "llama tied": SMOLLM2, "llama": LLAMA3_8B, "gpt2": GPT2, "bert": BERT}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", REAL)
def test_real_models(name: str, shape: str) -> None:
    config = REAL[name]
    for factor, plan in growformer.suggest(config, shape=shape).items():
        if isinstance(plan, str):
            assert (name, shape) == ("bert", "wider"), plan
            assert "no wider sizes come within 10%" in plan
            assert "the shape balanced or deeper" in plan
            continue
        before, after = plan.num_parameters()
        assert abs(after / (factor * before) - 1) <= (FARTHEST if name == "bert" else CLOSE)
        source, target = plan.source_sizes, plan.target_sizes
        roles = plan.architecture.roles
        grown = {role for role, field in roles.items() if target[field] != source[field]}
        if shape == "deeper":
            assert grown == {"layers"}
        if shape == "wider":
            assert "layers" not in grown
            assert "hidden" in grown
        hidden, mlp = target[roles["hidden"]], target[roles["mlp"]]
        assert hidden % 64 == 0
        assert mlp % 128 == 0
        assert mlp / hidden == pytest.approx(source[roles["mlp"]] / source[roles["hidden"]], rel=0.13)
        assert f"{after:,} parameters" in plan.notes[0]


def test_balanced_keeps_the_proportion_of_width_and_depth() -> None:
    plan = growformer.plan(SMOLLM2, to_parameters="538M")
    sizes = plan.target_sizes
    assert (sizes["hidden_size"], sizes["num_hidden_layers"], sizes["intermediate_size"]) == (960, 50, 2560)
    assert (sizes["num_attention_heads"], sizes["num_key_value_heads"]) == (15, 5)
    assert "proportions: hidden_size / num_hidden_layers 19.2 -> 19.2" in plan.notes[1]


def test_heads_stay_divisible_by_the_ranks_that_share_them() -> None:
    plan = growformer.plan(LLAMA3_8B, to_parameters="16B")
    assert plan.target_sizes["num_key_value_heads"] == 8
    assert plan.target_sizes["num_attention_heads"] % 8 == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_counts_are_those_of_the_class(name: str) -> None:
    with torch.device("meta"):
        model = family(name)
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    architecture = for_config(config)
    tensors = {n: (tuple(t.shape), "float32") for n, t in model.state_dict().items()}
    tied = {n: o for n, o in TIES.items() if n in tensors and model.config.tie_word_embeddings}
    source = describe(architecture, config, tensors, aliases=tied)
    for sizes in ({}, {architecture.roles["layers"]: 5}, {architecture.roles["mlp"]: 64}):
        with torch.device("meta"):
            expected = sum(p.numel() for p in family(name, **sizes).parameters())
        assert count_parameters(architecture, source, sizes) == expected


def test_a_live_model_grows_to_a_count() -> None:
    model = llama().double()
    grown = growformer.grow(model, to_parameters=2 * model.num_parameters(), shape="deeper")
    assert grown.num_parameters() / model.num_parameters() == pytest.approx(2, rel=FARTHEST)
    assert (outputs(model) - outputs(grown)).abs().max() < 1e-12 * outputs(model).abs().max()


def test_options_of_the_growth_go_along() -> None:
    plan = growformer.plan(
        SMOLLM2, to_parameters="200M", shape="deeper", init="orthogonal", seed=3, new_layers_at="end"
    )
    assert (plan.init.name, plan.init.seed) == ("orthogonal", 3)
    assert plan.axis_maps["layer"][()].array()[:30].tolist() == list(range(30))


def test_bert_falls_back_to_what_preserves() -> None:
    plan = growformer.plan(BERT, to_parameters="165M")
    assert plan.target_sizes["hidden_size"] == 768
    assert plan.target_sizes["num_hidden_layers"] > 12
    assert "other widths are refused, such as: cannot grow hidden_size 768 ->" in "\n".join(plan.notes)
    wide = growformer.plan(BERT, to_parameters="435M")
    assert wide.target_sizes["hidden_size"] == 1536


@pytest.mark.parametrize(
    ("text", "number"),
    [("1.2B", 1_200_000_000), ("350m", 350_000_000), ("7e9", 7_000_000_000), (" 90k ", 90_000), ("1_000", 1000),
     (4096, 4096), ("2T", 2 * 10**12)],
)  # fmt: skip
def test_counts_are_read(text: str | int, number: int) -> None:
    assert parse_count(text) == number


@pytest.mark.parametrize("text", ["", "big", "1.2 GB", "-3B", "B", 0, True, "0"])
def test_wrong_counts(text: Any) -> None:
    with pytest.raises(growformer.RequestError, match="expected a number of parameters"):
        parse_count(text)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"to_parameters": "100M"}, "cannot grow 134,515,008 parameters to 100,000,000: growth never removes any"),
        ({"to_parameters": "1B", "shape": "taller"}, "unknown shape 'taller': expected one of balanced, deeper, wider"),
        ({"to_parameters": "1B", "hidden_size": 960}, "to_parameters chooses all sizes: leave out hidden_size"),
        ({"shape": "wider"}, "shape = 'wider' goes with to_parameters"),
        ({"to_parameters": 10**15, "shape": "wider"}, "no wider sizes come within 10%"),
    ],
)
def test_wrong_requests(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(growformer.RequestError) as raised:
        growformer.plan(SMOLLM2, **request_)
    assert message in str(raised.value)


def test_an_own_model() -> None:
    from growformer.architecture.declaration import linear

    own = growformer.Architecture(
        name="own",
        sizes={"inputs": "inputs", "mlp": "width", "classes": "classes"},
        arrows={"up": linear("inputs -> mlp", bias=True), "down": linear("mlp -> classes", bias=True)},
        fixed={"inputs": "data", "classes": "data"},
        roles={"mlp": "width"},
    )
    config = {"inputs": 8, "width": 100, "classes": 4}
    plan = growformer.plan(config, to_parameters=2600, architecture=own)
    assert plan.num_parameters()[1] == pytest.approx(2600, rel=CLOSE)
    assert growformer.plan_padding(config, tensor_parallel=16, architecture=own).target_config["width"] == 112
    uneven = growformer.Architecture(
        name="uneven",
        sizes={"layer": "depth", "stream": "stream", "mlp": "width[layer]"},
        arrows={"up.{layer}": linear("stream -> mlp"), "down.{layer}": linear("mlp -> stream")},
        roles={"mlp": "width"},
    )
    lists = {"depth": 2, "stream": 4, "width": [100, 90]}
    with pytest.raises(growformer.RequestError, match="width is not one number"):
        growformer.plan_padding(lists, tensor_parallel=16, architecture=uneven)
