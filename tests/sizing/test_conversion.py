"""Qwen2 written as Llama: every executor, the record and the checks agree, and what is no special case is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.sizing.models import QWEN2_7B, outputs, qwen2, tokens

import growformer
from growformer.architecture.conversion import CONVERSIONS, conversions_of, convert
from growformer.architecture.registry import architectures
from growformer.architecture.source import from_config
from growformer.execute.checkpoint import check_same_source
from growformer.execute.state_dict import grow_state_dict
from growformer.storage.folder import open_folder
from growformer.verification.conditions import local_conditions

FIT: dict[str, Any] = {"tensor_parallel": 8, "multiple_of": 8, "consumer": "vllm"}
BIAS = "model.layers.1.self_attn.o_proj.bias"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e6}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    qwen2().save_pretrained(tmp_path / "source")
    return tmp_path / "source"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tie_word_embeddings": True},
        {"headless": True},
        {"rope_parameters": YARN},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"use_sliding_window": False, "sliding_window": 4, "max_window_layers": 1},
    ],
    ids=str,
)
def test_outputs_stay(settings: dict[str, Any], tmp_path: Path) -> None:
    model = qwen2(**settings)
    model.save_pretrained(tmp_path / "source")
    grown = growformer.pad(tmp_path / "source", tmp_path / "padded", **FIT)
    assert grown.plan.target_config["model_type"] == "llama"
    kind = transformers.LlamaModel if settings.get("headless") else transformers.LlamaForCausalLM
    auto = transformers.AutoModel if settings.get("headless") else transformers.AutoModelForCausalLM
    loaded = auto.from_pretrained(tmp_path / "padded")
    assert type(loaded) is kind
    assert loaded.config.num_attention_heads == 8
    assert loaded.config.head_dim == 8
    before, after = outputs(model), outputs(loaded.eval())
    assert (before - after).abs().max() < 1e-12 * before.abs().max()
    found = growformer.verify(tmp_path / "source", tmp_path / "padded")
    assert found.ok, found


def test_every_executor_agrees(folder: Path, tmp_path: Path) -> None:
    model = transformers.Qwen2ForCausalLM.from_pretrained(folder).eval()
    plan = growformer.plan_padding(folder, trainable=True, **FIT)
    plan.check()
    grown = growformer.pad(folder, tmp_path / "padded", plan=plan)
    by_folder = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "padded").state_dict()
    by_module = growformer.pad(model, plan=growformer.plan_padding(model, trainable=True, **FIT)).state_dict()
    by_state = grow_state_dict(plan, model.state_dict())
    assert by_folder.keys() == by_module.keys() == by_state.keys()
    for name, tensor in by_state.items():
        assert torch.equal(tensor, by_folder[name]), name
        assert torch.equal(tensor, by_module[name]), name
    assert by_state[BIAS].shape == (56,)
    assert not by_state[BIAS].any()
    assert grown.tensors[BIAS] == "new"
    record = growformer.load_provenance(tmp_path / "padded")
    assert record.plan.source == plan.source
    assert record.new_regions[BIAS] == [[[[0, 56]]]]
    assert growformer.Plan.from_json(plan.to_json()).to_json() == plan.to_json()


def test_a_bias_that_is_not_zero_fails(folder: Path, tmp_path: Path) -> None:
    growformer.pad(folder, tmp_path / "padded", **FIT)
    assert growformer.verify(folder, tmp_path / "padded", checks=["constraints"]).ok
    file = tmp_path / "padded" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    tensors[BIAS][3] = 0.01
    save_file(tensors, file)
    found = growformer.verify(folder, tmp_path / "padded", checks=["constraints"])
    assert not found.ok
    assert "o_proj.bias" in str(found)
    assert "expected zero" in str(found)


def test_the_original_source_is_recognised(folder: Path) -> None:
    plan = growformer.plan_padding(folder, **FIT)
    native = growformer.plan(folder)
    assert plan.source.digest == native.source.digest
    assert plan.source.original == native.source.config
    check_same_source(growformer.Plan.from_json(plan.to_json()), open_folder(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
    with pytest.raises(growformer.PlanError, match="config or tensors differ"):
        check_same_source(plan, open_folder(folder))


def test_and_on_from_there(folder: Path, tmp_path: Path) -> None:
    first = growformer.plan_padding(folder, **FIT)
    growformer.pad(folder, tmp_path / "padded", plan=first)
    second = growformer.plan(tmp_path / "padded", num_hidden_layers=5, hidden_size=64)
    both = first.then(second)
    assert both.source == first.source
    both.check()
    model = transformers.Qwen2ForCausalLM.from_pretrained(folder).eval().double()
    grown = growformer.grow(model, plan=both)
    assert grown.config.num_hidden_layers == 5
    # Norms compute in float32, whatever the model's dtype, and see more coordinates now.
    assert (outputs(model) - outputs(grown)).abs().max() < 1e-5 * outputs(model).abs().max()


def test_cached_generation(folder: Path, tmp_path: Path) -> None:
    growformer.pad(folder, tmp_path / "padded", **FIT)
    models = [
        transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
        for path in (folder, tmp_path / "padded")
    ]
    continued = [m.generate(tokens(9), max_new_tokens=12, do_sample=False, pad_token_id=0) for m in models]
    assert torch.equal(*continued)


def test_the_tokenizer_stays(folder: Path, tmp_path: Path) -> None:
    """The tokenizer of a Qwen2 folder must be loaded as one, although the config says llama."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = {chr(code): code - 33 for code in range(33, 90)} | {"Ġ": 57, "AB": 58}
    made = Tokenizer(models.BPE(vocab=pieces, merges=[("A", "B")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "Qwen2Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    growformer.pad(folder, tmp_path / "padded", **FIT)
    texts = ["AB CAB", "A B"]
    before, after = (transformers.AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "padded"))
    assert before(texts)["input_ids"] == after(texts)["input_ids"]
    assert before.decode(before(texts[0])["input_ids"]) == after.decode(after(texts[0])["input_ids"])


# What is no special case.


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"use_sliding_window": True}, "use_sliding_window = True: Llama has no sliding window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has other entries"),
        ({"dual_chunk_attention_config": {"chunk_size": 8}}, "Llama has no dual chunk attention"),
        ({"is_causal": False}, "is_causal = False: Llama is causal"),
        ({"architectures": ["GteQwen2ForCausalLM"]}, "the class GteQwen2ForCausalLM has no counterpart"),
    ],
)
def test_others_are_refused(fields: dict[str, Any], why: str) -> None:
    family = architectures()["qwen2"]
    config = {**QWEN2_7B, **fields, **({"num_hidden_layers": 2} if "layer_types" in fields else {})}
    with pytest.raises(growformer.RequestError) as raised:
        convert(CONVERSIONS[0], family, from_config(family, config))
    assert "qwen2 cannot be written as llama here" in str(raised.value)
    assert why in str(raised.value)


def test_notes_say_why_it_was_not_written() -> None:
    options: dict[str, Any]
    for config, options, why in (
        ({**QWEN2_7B, "is_causal": False}, {}, "qwen2 cannot be written as llama here: is_causal = False"),
        (QWEN2_7B, {"keep_class": True}, "keep_class forbids to write it as llama"),
    ):
        plan = growformer.plan_padding(config, tensor_parallel=8, consumer="vllm", **options)
        assert plan.target_config["model_type"] == "qwen2"
        assert plan.target_config["hidden_size"] == 4096
        assert why in "\n".join(plan.notes)


def test_the_written_config() -> None:
    family = architectures()["qwen2"]
    source = from_config(family, {n: v for n, v in QWEN2_7B.items() if n not in ("rope_theta", "rms_norm_eps")})
    other, written = convert(conversions_of("qwen2")[0], family, source)
    assert other.name == "llama"
    expected = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "head_dim": 128, "attention_bias": True,
        "mlp_bias": False, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu", "bos_token_id": None,
        "eos_token_id": None, "num_key_value_heads": 4, "max_position_embeddings": 131072,
    }  # fmt: skip
    assert {name: written.config[name] for name in expected} == expected
    gone = {"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}
    assert not gone & set(written.config)


# The check of the record does not believe it.


def _record() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(growformer.plan_padding(QWEN2_7B, **{**FIT, "multiple_of": 128}).to_json())
    return data


def test_the_record_holds() -> None:
    assert local_conditions(_record()) == []


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("source", "zeros"), [], "zeros"),
        (("source", "original", "use_sliding_window"), True, "qwen2"),
        (("source", "original", "rms_norm_eps"), 1e-5, "rms_norm_eps"),
        (("source", "original", "hidden_act"), "gelu", "hidden_act"),
        (("source", "original", "rope_theta"), 1e4, "rope_theta"),
        (("source", "original", "model_type"), "mistral", "model_type"),
        (("source", "config", "attention_bias"), False, "attention_bias"),
        (("source", "config", "max_position_embeddings"), 64, "max_position_embeddings"),
        (("target_config", "sliding_window"), 4096, "sliding_window"),
        (("architecture", "attention", 0, "scale"), "1 / head_dim", "attention"),
        (("architecture", "arrows", "norm", "eps"), 1e-5, "norm: eps"),
    ],
)
def test_a_record_that_was_changed_fails(path: tuple[Any, ...], value: Any, where: str) -> None:
    data = _record()
    inside = data
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    found = [v for v in local_conditions(data) if v.kind == "conversion"]
    assert where in [v.where for v in found]


def test_zeros_without_a_conversion_fail() -> None:
    data = _record()
    del data["source"]["original"]
    assert "zeros" in [v.where for v in local_conditions(data) if v.kind == "conversion"]


def test_weights_cannot_be_zeros() -> None:
    data = copy.deepcopy(_record())
    data["source"]["zeros"].append("layers.{layer}.mlp.up_proj.weight")
    found = [str(v) for v in local_conditions(data) if v.kind == "conversion"]
    assert any("biases only" in text for text in found)
