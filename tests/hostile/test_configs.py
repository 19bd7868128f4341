"""Configs with sizes that no model has, and fields of the wrong kind; beside each one that is planned."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from tests.hostile.samples import CONFIGS, GROWTH, write
from tests.hostile.targets import time_limit

import growformer
from growformer.architecture.declaration import MAX_INSTANCES
from growformer.architecture.exact import MAX_SIZE, evaluate_size
from growformer.errors import ArchitectureError, GrowformerError, SourceError

SIZES = {
    "llama": ["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size", "head_dim", "num_attention_heads"],
    "gpt2": ["n_embd", "n_layer", "n_positions", "n_inner", "n_head"],
    "mixtral": ["num_local_experts", "num_hidden_layers"],
    "deepseek_v3": ["kv_lora_rank", "n_routed_experts", "num_hidden_layers", "moe_intermediate_size"],
    "gemma2": ["num_hidden_layers"],
    "bloom": ["n_head", "hidden_size"],
}
"""Model type -> fields that are sizes: of arrays, of loops over layers, heads and experts."""


def plan(model_type: str, **changes: Any) -> growformer.Plan:
    with time_limit(20):
        return growformer.plan({**CONFIGS[model_type], **changes}, **GROWTH[model_type])


@pytest.mark.parametrize("size", [2**24 + 8, 10**9, 10**299])
@pytest.mark.parametrize(("model_type", "name"), [(m, name) for m, names in SIZES.items() for name in names])
def test_absurd_sizes_are_refused_by_arithmetic(model_type: str, name: str, size: int) -> None:
    """In milliseconds, and without an array or a list of that length."""
    plan(model_type)
    tracemalloc.start()
    try:
        with pytest.raises(GrowformerError) as caught:
            plan(model_type, **{name: size})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000
    assert len(str(caught.value)) < 3_000


def test_several_sizes_that_are_absurd_together() -> None:
    config = {"num_hidden_layers": MAX_INSTANCES, "num_local_experts": MAX_INSTANCES}
    with pytest.raises(ArchitectureError, match="gives 100000000 tensors of one kind; expected at most 1000000"):
        plan("mixtral", **config)


def test_the_largest_sizes_are_planned() -> None:
    made = growformer.plan({**CONFIGS["llama"], "vocab_size": MAX_SIZE}, intermediate_size=14)
    assert made.target_config["vocab_size"] == MAX_SIZE


def test_messages_say_the_bound() -> None:
    with pytest.raises(GrowformerError, match="the config's hidden_size is 1000000000; expected at most 16777216"):
        plan("llama", hidden_size=10**9)
    assert evaluate_size("a * b", {"a": 2**12, "b": 2**12}) == MAX_SIZE
    with pytest.raises(ArchitectureError, match=r"'a \* b' is 3.35544e\+07 with a = 8192, b = 4096; expected at most"):
        evaluate_size("a * b", {"a": 2**13, "b": 2**12})
    with pytest.raises(GrowformerError, match="'num_hidden_layers' is 10001; expected at most 10000 of 'layer'"):
        plan("llama", num_hidden_layers=10_001)


@pytest.mark.parametrize("value", [-8, -1, 8.0, 8.5, float("nan"), float("inf"), True, "8", [8], {"a": 8}, None])
@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "intermediate_size"])
def test_what_is_no_size(name: str, value: Any) -> None:
    with pytest.raises(GrowformerError):
        plan("llama", **{name: value})


@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"])
def test_sizes_of_zero(name: str) -> None:
    with pytest.raises(GrowformerError):
        plan("llama", **{name: 0})


@pytest.mark.parametrize(
    ("field", "value", "good"),
    [
        ("architectures", "LlamaForCausalLM", ["LlamaForCausalLM"]),
        ("architectures", [1], []),
        ("dtype", 3, "bfloat16"),
        ("rms_norm_eps", "1e-6", 1e-6),
        ("rms_norm_eps", float("nan"), 0),
        ("rms_norm_eps", -1.0, 1e-5),
        ("rope_parameters", [1], None),
        ("rope_parameters", {"rope_theta": "x"}, {"rope_theta": 5e5}),
        ("rope_parameters", {"rope_theta": 1}, {"rope_theta": 2}),
        ("rope_parameters", {"rope_theta": 1e4, "rope_type": 7}, {"rope_theta": 1e4, "rope_type": "default"}),
        ("rope_scaling", 3, {"type": "linear", "factor": 2.0}),
        ("rope_theta", [1], 5e5),
        ("max_position_embeddings", {"a": 1}, 128),
    ],
)
def test_fields_of_another_kind(field: str, value: Any, good: Any) -> None:
    base = {} if field == "rope_parameters" else {"rope_parameters": None}
    plan("llama", **base, **{field: good})
    with pytest.raises(SourceError, match=f"the config's {field}.* is .*; expected "):
        plan("llama", **base, **{field: value})


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {"__float__": "Infinity"}, {"__float__": "NaN"}, 10**30, "\ud800", {"a": [None]}],
)
def test_what_transformers_reads_in_other_fields(tmp_path: Path, value: Any) -> None:
    """No size, and so none of our business; it goes on as it is."""
    model = write(tmp_path / "model", some_penalty=value)
    made = growformer.plan(model, intermediate_size=14)
    assert json.dumps(made.target_config["some_penalty"]) == json.dumps(value)


def test_a_folder_is_refused_alike(tmp_path: Path) -> None:
    for number, changes in enumerate(({"num_hidden_layers": 10**9}, {"hidden_size": 10**12}, {"architectures": 3})):
        model = write(tmp_path / str(number), **changes)
        with pytest.raises(GrowformerError), time_limit(20):
            growformer.plan(model, intermediate_size=14)
        with pytest.raises(GrowformerError), time_limit(20):
            growformer.grow_checkpoint(model, tmp_path / "out", intermediate_size=14)
        assert not (tmp_path / "out").exists()


def test_a_target_config_is_refused_alike(tmp_path: Path) -> None:
    model = write(tmp_path / "model")
    growformer.plan(model, like={**CONFIGS["llama"], "num_hidden_layers": 3})
    for size in (10**9, -1, "3", 2.5):
        with pytest.raises(GrowformerError), time_limit(20):
            growformer.plan(model, like={**CONFIGS["llama"], "num_hidden_layers": size})
    (tmp_path / "like.json").write_text('{"model_type": "llama", "model_type": "llama"}')
    with pytest.raises(SourceError, match="stands twice"):
        growformer.plan(model, like=tmp_path / "like.json")


def test_what_a_message_proposes_is_looked_for_nearby() -> None:
    config = {"num_attention_heads": 2 * 1_000_003, "num_key_value_heads": 1_000_003, "head_dim": 1}
    with pytest.raises(GrowformerError), time_limit(20):
        growformer.plan({**CONFIGS["llama"], **config}, num_attention_heads=3 * 1_000_003 - 1)
