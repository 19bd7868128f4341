"""Which fields of the config a consumer reads: those that growth changes, in every form in which they may stand.

A field is changed by hand in a source's config.json. A consumer that reads it then agrees with transformers about the
changed checkpoint; one that does not is far off, and would be equally far off after a growth that changes the field.
openvino is not asked again: it runs the file that onnxruntime runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.consumers.cases import CASES, edit_config, write_bert, write_llama
from tests.consumers.consumers import CONSUMERS, Gguf, RefusedError
from tests.consumers.judging import error, reference, run

import growformer

pytestmark = pytest.mark.consumers

WITH_A_CONVERTER = ["ctranslate2", "llama.cpp"]
"""Consumers that rebuild a model from its config and tensors. The others run what transformers itself traced."""

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 7000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a config, and what consumers make of it where they do not follow.

    Attributes:
        case: of ``cases.py``; its source is changed.
        config: fields to set; None removes one.
        ignored: consumers that go on and compute something else.
    """

    case: str = "llama"
    config: dict[str, Any]
    ignored: tuple[str, ...] = ()


CHANGES = {
    "rms_norm_eps": Change(config={"rms_norm_eps": 0.5}),
    "rope_parameters": Change(config={"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}),
    "rope_theta, as before transformers 5": Change(config={"rope_parameters": None, "rope_theta": 50.0}),
    "linear rotary scaling": Change(
        config={"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 7000.0}}
    ),
    "llama3 rotary scaling": Change(config={"rope_parameters": LLAMA3}, ignored=("ctranslate2",)),
    # transformers goes by the tensors. The cases "llama" and "llama tied" are those that do not contradict themselves.
    "tie_word_embeddings in spite of a head": Change(config={"tie_word_embeddings": True}),
    "layer_norm_eps": Change(case="bert", config={"layer_norm_eps": 0.5}),
}


@pytest.mark.parametrize("consumer", [*WITH_A_CONVERTER, "onnxruntime"], indirect=True)
@pytest.mark.parametrize("field", CHANGES)
def test_a_field_is_read(field: str, consumer: str, tmp_path: Path) -> None:
    change = CHANGES[field]
    case = CASES[change.case]
    before, after = case.source(tmp_path / "before"), case.source(tmp_path / "after")
    edit_config(after, **change.config)
    follows = CONSUMERS[consumer]
    exact = reference(case, after, follows, torch.float64)
    if "tie_word_embeddings" not in change.config:  # which changes nothing in transformers, and must not elsewhere
        assert error(reference(case, before, follows, torch.float64), exact) > 0.01
    found = error(run(case, after, follows).logits, exact)
    limit = follows.own_error[case.kind]
    if consumer in change.ignored:
        assert found > 10 * limit, f"{consumer} reads {field} by now: {found}"
    else:
        assert found <= limit


@pytest.mark.parametrize("consumer", [*WITH_A_CONVERTER, "onnxruntime"], indirect=True)
@pytest.mark.parametrize("grouped", [True, False], ids=["grouped queries", "as many kv heads as heads"])
def test_a_head_dim_of_its_own(grouped: bool, consumer: str, tmp_path: Path) -> None:
    """ctranslate2 takes a Llama's head_dim to be hidden_size / num_attention_heads, whatever the config says.

    With grouped queries it stops, since shapes do not match. Without, it runs, and gives wrong numbers.
    """
    source = write_llama(tmp_path / "source", num_key_value_heads=2 if grouped else 6)
    growformer.grow_checkpoint(source, tmp_path / "grown", init="noise", head_dim=16)
    case, runs = CASES["llama"], CONSUMERS[consumer]
    exact = reference(case, source, runs, torch.float64)
    if consumer == "ctranslate2" and grouped:
        with pytest.raises(RefusedError, match="has dimension 160 but expected 80"):
            run(case, tmp_path / "grown", runs)
        return
    found = error(run(case, tmp_path / "grown", runs).logits, exact)
    if consumer == "ctranslate2":
        assert found > 0.01, f"it reads head_dim by now: {found}"
        growformer.grow_checkpoint(source, tmp_path / "both", init="noise", head_dim=16, hidden_size=16 * 6)
        found = error(run(case, tmp_path / "both", runs).logits, exact)
    assert found <= runs.own_error["decoder"]


@pytest.mark.parametrize("consumer", WITH_A_CONVERTER, indirect=True)
@pytest.mark.parametrize(
    "sizes",
    [
        {"intermediate_size": 1},
        {"intermediate_size": 101},
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 3},
        {"num_key_value_heads": 6},
        {"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 1},
        {"hidden_size": 108, "head_dim": 18},
        {"num_hidden_layers": 1},
    ],
    ids=str,
)
def test_awkward_sizes(sizes: dict[str, int], consumer: str, tmp_path: Path) -> None:
    """Neither asks sizes to be multiples of anything, in float32."""
    folder = write_llama(tmp_path / "source", **sizes)
    runs = CONSUMERS[consumer]
    exact = reference(CASES["llama"], folder, runs, torch.float64)
    assert error(run(CASES["llama"], folder, runs).logits, exact) <= runs.own_error["decoder"]


@pytest.mark.parametrize("consumer", ["ctranslate2"], indirect=True)
def test_ctranslate2_wants_a_field_that_transformers_5_does_not_write(consumer: str, tmp_path: Path) -> None:
    """A BERT saved by transformers 5 is refused, grown or not; one line in config.json helps."""
    folder = write_bert(tmp_path / "source")
    edit_config(folder, position_embedding_type=None)
    with pytest.raises(RefusedError, match="no attribute 'position_embedding_type'"):
        run(CASES["bert"], folder, CONSUMERS[consumer])


@pytest.mark.parametrize("consumer", ["llama.cpp"], indirect=True)
def test_llama_cpp_has_one_activation_for_every_bert(consumer: str, tmp_path: Path) -> None:
    """Whatever hidden_act says, llama.cpp takes the tanh approximation of GELU, from a table of float16 numbers."""
    runs, case = CONSUMERS[consumer], CASES["bert"]
    folder = write_bert(tmp_path / "source", hidden_act="relu")
    computed = run(case, folder, runs).logits
    model = case.load(folder, torch.float64)
    with torch.inference_mode():
        asked_for = torch.stack([model(torch.tensor([tokens]))[0][0].mean(dim=0) for tokens in case.inputs()])
    assert error(computed, asked_for) > 0.01
    assert error(computed, reference(case, folder, runs, torch.float64)) <= runs.own_error["encoder"]


@pytest.mark.parametrize("consumer", ["llama.cpp"], indirect=True)
@pytest.mark.parametrize(("intermediate_size", "stored"), [(128, "Q8_0"), (130, "F16")])
def test_eight_bits_want_multiples_of_32(consumer: str, intermediate_size: int, stored: str, tmp_path: Path) -> None:
    """llama.cpp's converter leaves a tensor in float16 whose rows are no multiple of 32, with a warning only."""
    import gguf

    folder = write_llama(tmp_path / "source", hidden_size=96, head_dim=16, intermediate_size=intermediate_size)
    Gguf.convert(folder, tmp_path / "model.gguf", "q8_0")
    tensors = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert tensors["blk.0.ffn_up.weight"] == "Q8_0"
    assert tensors["blk.0.ffn_down.weight"] == stored
