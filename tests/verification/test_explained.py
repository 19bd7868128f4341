"""Structural faults are caught, and explained: what stands there instead, or what the record says that is not so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.families.case import randomise

import growformer
from growformer.architecture.registry import for_config
from growformer.verification.constraints import ConstraintsReport

CONFIG = {
    "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 6, "vocab_size": 31, "rms_norm_eps": 1e-3, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A tied Llama, grown in width and depth."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).eval()
    randomise(model, for_config({"model_type": "llama"}), 0)
    model.save_pretrained(tmp_path / "source")
    growformer.grow_checkpoint(
        tmp_path / "source", tmp_path / "grown", intermediate_size=27, num_attention_heads=6, num_key_value_heads=6,
        num_hidden_layers=4, new_layers_at=[1],
    )  # fmt: skip
    return tmp_path / "source", tmp_path / "grown"


def change(folder: Path, tensors: dict[str, torch.Tensor], **config: object) -> None:
    file = folder / "model.safetensors"
    state = {**load_file(file), **tensors}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file, {"format": "pt"})
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, **config}))


def check(pair: tuple[Path, Path], record: str | None = None, *, strict: bool = False) -> ConstraintsReport:
    found = growformer.verify(*pair, checks=["constraints"], record=record, strict=strict).constraints
    assert found is not None
    return found


RECORDS = pytest.mark.parametrize("record", [None, "inferred"])
Q = "model.layers.2.self_attn.q_proj.weight"


@RECORDS
@pytest.mark.parametrize("strict", [False, True])
def test_what_growformer_wrote_holds(pair: tuple[Path, Path], record: str | None, strict: bool) -> None:
    report = check(pair, record, strict=strict)
    assert report.ok, report
    assert (report.record, report.strict) == (record or "growformer.json", strict)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in pair]
    assert 0.9 * sum(sizes) < report.num_bytes < sum(sizes)
    free = report.values["regenerated" if record is None else "unchecked"]
    assert free > 0
    assert sum(report.values.values()) == sum(t.numel() for t in load_file(pair[1] / "model.safetensors").values())
    if record == "inferred":
        (pair[1] / "growformer.json").unlink()
        assert check(pair).record == "inferred"
        assert "new layers: 1" in growformer.verify(*pair, checks=["constraints"]).all_notes()


@RECORDS
def test_swapped_heads(pair: tuple[Path, Path], record: str | None) -> None:
    q = load_file(pair[1] / "model.safetensors")[Q]
    change(pair[1], {Q: torch.cat([q[6:12], q[:6], q[12:]])})
    report = check(pair, record)
    assert [(v.kind, v.where) for v in report.violations] == [("copy", Q)]
    assert str(report).endswith(
        "; rows are the source's in another order: at 0..5 where source 0..5 should be stand the source's 6..11; "
        "at 6..11 where source 6..11 should be stand the source's 0..5"
    )


@RECORDS
def test_rotary_halves_in_another_order(pair: tuple[Path, Path], record: str | None) -> None:
    q = load_file(pair[1] / "model.safetensors")[Q]
    change(pair[1], {Q: torch.cat([q[0:6:2], q[1:6:2], q[6:]])})  # interleaved, where the class takes halves
    report = check(pair, record)
    assert [(v.kind, v.where) for v in report.violations] == [("copy", Q)]
    assert "rows are the source's in another order: at 1 where source 1 should be stand the source's 2" in str(report)


def test_a_layer_at_another_place_than_recorded(pair: tuple[Path, Path]) -> None:
    state = load_file(pair[1] / "model.safetensors")
    moved = {n.replace("layers.1.", "layers.2."): t for n, t in state.items() if ".layers.1." in n}
    moved |= {n.replace("layers.2.", "layers.1."): t for n, t in state.items() if ".layers.2." in n}
    change(pair[1], moved)
    report = check(pair)
    assert not report.ok
    assert report.notes == ("the record says that layers [1] are new; by the tensors, [2] are",)
    assert check(pair, "inferred").ok  # a new layer that writes nothing may stand anywhere


@RECORDS
def test_two_layers_in_the_wrong_order(pair: tuple[Path, Path], record: str | None) -> None:
    state = load_file(pair[1] / "model.safetensors")
    moved = {n.replace("layers.3.", "layers.2."): t for n, t in state.items() if ".layers.3." in n}
    moved |= {n.replace("layers.2.", "layers.3."): t for n, t in state.items() if ".layers.2." in n}
    change(pair[1], moved)
    report = check(pair, record)
    assert not report.ok
    assert any(v.explanation.startswith("it is that of source layer ") for v in report.violations)


@RECORDS
def test_an_untied_head(pair: tuple[Path, Path], record: str | None) -> None:
    table = load_file(pair[1] / "model.safetensors")["model.embed_tokens.weight"]
    change(pair[1], {"lm_head.weight": table * 1.01}, tie_word_embeddings=False)
    report = check(pair, record)
    assert {(v.kind, v.where) for v in report.violations} == {
        ("tie", "lm_head.weight"),
        ("config", "tie_word_embeddings"),
    }
    assert "lm_head.weight: expected none of its own, as the source's is tied" in "\n".join(map(str, report.violations))


def test_a_head_that_is_stored_again_is_no_fault(pair: tuple[Path, Path]) -> None:
    change(pair[1], {"lm_head.weight": load_file(pair[1] / "model.safetensors")["model.embed_tokens.weight"]})
    report = check(pair, "inferred")
    assert report.ok
    assert "lm_head.weight is stored beside model.embed_tokens.weight, with the same bytes" in report.notes


@RECORDS
def test_an_epsilon_that_did_not_change(tmp_path: Path, record: str | None) -> None:
    config = transformers.LlamaConfig(**{**CONFIG, "tie_word_embeddings": False})
    model = transformers.LlamaForCausalLM(config).eval()
    randomise(model, for_config({"model_type": "llama"}), 0)
    model.save_pretrained(tmp_path / "source")
    growformer.grow_checkpoint(tmp_path / "source", tmp_path / "grown", hidden_size=32)
    pair = tmp_path / "source", tmp_path / "grown"
    assert check(pair, record).ok
    change(pair[1], {}, rms_norm_eps=1e-3)
    report = check(pair, record)
    assert {v.kind for v in report.violations} == {"norm"}
    assert "expected rms_norm_eps = 0.00075, as the mean square is 3/4 of the source's, found 0.001" in str(report)


# Strict.

UP = torch.tensor(float("inf"))


def test_strict_sees_one_unit_in_the_last_place_and_the_sign_of_zero(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**{**CONFIG, "tie_word_embeddings": False})
    model = transformers.LlamaForCausalLM(config).eval()
    randomise(model, for_config({"model_type": "llama"}), 0)
    model.save_pretrained(tmp_path / "source")
    pair = tmp_path / "source", tmp_path / "grown"
    growformer.grow_checkpoint(*pair, hidden_size=32)
    state = load_file(pair[1] / "model.safetensors")
    gain, o = (f"model.layers.1.{name}.weight" for name in ("input_layernorm", "self_attn.o_proj"))
    state[gain][2] = torch.nextafter(state[gain][2], UP)
    state[o][30, 3] = -0.0
    change(pair[1], {gain: state[gain], o: state[o]})
    assert check(pair).ok
    report = check(pair, strict=True)
    assert {(v.kind, v.where) for v in report.violations} == {("rescaled", gain), ("zero", o)}
    assert report.strict
    state[gain][2] = torch.nextafter(torch.nextafter(state[gain][2], UP), UP)
    change(pair[1], {gain: state[gain]})
    assert [v.where for v in check(pair).violations] == [gain]
