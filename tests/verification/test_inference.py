"""Without a record: what became of a source is inferred from both sides, and checked like any other claim."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from tests.verification.support import Grown, grown, needed

import growformer.verification.bands as bands
from growformer.architecture import Architecture
from growformer.architecture.registry import for_config
from growformer.architecture.source import SourceInfo, describe, from_config, specialised
from growformer.errors import SourceError
from growformer.verification.constraints import ConstraintsReport, compare_checkpoints
from growformer.verification.inference.infer import Inferred, infer
from growformer.verification.requirements import Free
from growformer.verification.tensors import Whole

Tensors = dict[str, torch.Tensor]


def inferred(made: Grown, target: Tensors | None = None, config: dict[str, Any] | None = None) -> Inferred:
    after = made.target if target is None else target
    wanted = made.plan.target_config if config is None else config
    return infer(
        made.plan.architecture, made.plan.source, wanted, Whole(made.source.__getitem__), Whole(after.__getitem__)
    )


def compared(made: Grown, target: Tensors | None = None, config: dict[str, Any] | None = None) -> ConstraintsReport:
    after = made.target if target is None else target
    return made.compare(after, inferred(made, after, config).record, target_names=after)  # type: ignore[arg-type]


# What growformer places by default.


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "gemma3", "qwen3", "deepseek_v3", "bloom", "reference"])
def test_default_placements_are_inferred(family: str) -> None:
    for growth in ("all", "layers"):
        made = grown(family, growth)
        found = inferred(made)
        assert made.compare(data=found.record, target_names=made.target).ok  # type: ignore[arg-type]
        recorded = made.compare()
        assert made.compare(data=found.record).values == recorded.values  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_dtype_is_inferred_alike(family: str, dtype: torch.dtype) -> None:
    assert compared(grown(family, "all", dtype)).ok


@pytest.mark.parametrize("family", ["llama", "bert", "gemma2"])
def test_a_disturbance_is_found_all_the_same(family: str) -> None:
    made = grown(family, "all")
    constrained = [(n, r) for n, found in needed(made) for r in found if not isinstance(r.must, Free)]
    for name, requirement in constrained[:: max(1, len(constrained) // 3)]:
        region = requirement.copies[0]
        at = tuple(int(a.start if isinstance(a, slice) else a[0]) for a in region)
        target = {**made.target, name: made.target[name].clone()}
        target[name][at] += 0.5
        report = compared(made, target)
        assert not report.ok
        assert name in {v.where for v in report.violations}


# Depth, as other tools expand it.

CLOSING = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 3, "vocab_size": 11,
    "hidden_size": 12, "intermediate_size": 10, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6,
    "rms_norm_eps": 0.01, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip


@lru_cache
def plain(dtype: torch.dtype = torch.float32) -> tuple[Architecture, SourceInfo, Tensors]:
    """Return a source without biases, as most models are."""
    generator = torch.Generator().manual_seed(0)
    found = shapes_of(CONFIG)
    tensors = {n: torch.randn(shape, generator=generator).to(dtype) for n, (shape, _) in found.items()}
    found = {n: (shape, str(dtype).removeprefix("torch.")) for n, (shape, _) in found.items()}
    architecture = specialised(for_config(CONFIG), found)
    return architecture, describe(architecture, CONFIG, found), tensors


def shapes_of(config: dict[str, Any]) -> dict[str, Any]:
    info = from_config(for_config(config), config)
    return {t.stored: (t.shape, t.dtype) for t in info.tensors.values()}


def check(target: Tensors, dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[Inferred, ConstraintsReport]:
    architecture, info, source = plain(dtype)
    before, after = Whole(source.__getitem__), Whole(target.__getitem__)
    found = infer(architecture, info, {**CONFIG, **changes}, before, after)
    return found, compare_checkpoints(found.record, before, after, target_names=target)


def deeper(layers: list[tuple[int, tuple[str, ...]]], dtype: torch.dtype = torch.float32) -> Tensors:
    """Return source layers in some order, each with some of its tensors times zero."""
    source = plain(dtype)[2]
    target = {name: t for name, t in source.items() if ".layers." not in name}
    for at, (origin, zeroed) in enumerate(layers):
        for name, tensor in source.items():
            if f".layers.{origin}." in name:
                renamed = name.replace(f".layers.{origin}.", f".layers.{at}.")
                target[renamed] = tensor * 0.0 if zeroed and name.endswith(zeroed) else tensor
    return target


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layers", [
    [(0, ()), (0, CLOSING), (1, ()), (1, CLOSING), (2, ()), (2, CLOSING)],
    [(0, ()), (1, ()), (2, ()), (1, CLOSING), (2, CLOSING)],
    [(1, CLOSING), (0, ()), (0, CLOSING), (1, ()), (2, ())],
], ids=["interleaved", "stacked", "in front"])  # fmt: skip
def test_duplicated_layers_that_write_nothing_are_new(
    layers: list[tuple[int, tuple[str, ...]]], dtype: torch.dtype
) -> None:
    found, report = check(deeper(layers, dtype), dtype, num_hidden_layers=len(layers))
    assert report.ok, report
    new = [i for i, (_, zeroed) in enumerate(layers) if zeroed]
    assert np.flatnonzero(found.record.along("layer", {}).source < 0).tolist() == new
    assert any(note.startswith("new layers: ") for note in found.notes)


def test_a_mistyped_filter_is_caught_and_its_tensor_named() -> None:
    target = deeper([(0, ()), (0, ("o_prj.weight", "down_proj.weight")), (1, ()), (2, ())])
    _, report = check(target, num_hidden_layers=4)
    assert [(v.kind, v.where) for v in report.violations] == [("zero", "model.layers.1.self_attn.o_proj.weight")]
    assert "expected zero" in str(report)


def test_layers_in_another_order_are_caught() -> None:
    _, report = check(deeper([(1, ()), (0, ()), (2, ()), (2, CLOSING)]), num_hidden_layers=4)
    assert report.violations
    assert {v.kind for v in report.violations} <= {"copy", "zero"}


# Width, as other tools duplicate it.

Repeat = Callable[[torch.Tensor, int], torch.Tensor]


def tiled(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.cat([tensor, tensor], dim)


def interleaved(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    return tensor.repeat_interleave(2, dim)


def wider_mlp(repeat: Repeat) -> Tensors:
    target = dict(plain()[2])
    for name, tensor in target.items():
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            target[name] = repeat(tensor, 0)
        elif name.endswith("down_proj.weight"):
            target[name] = repeat(tensor, 1) / 2
    return target


@pytest.mark.parametrize("repeat", [tiled, interleaved])
def test_duplicated_units_are_recognised(repeat: Repeat) -> None:
    target = wider_mlp(repeat)
    _, report = check(target, intermediate_size=20)
    assert report.ok, report
    assert report.values["sum"] > 0
    name = "model.layers.1.mlp.down_proj.weight"
    target[name][3, 5] *= 2
    assert [v.where for v in check(target, intermediate_size=20)[1].violations] == [name]


@pytest.mark.parametrize("repeat", [tiled, interleaved])
def test_a_duplicated_stream_is_recognised(repeat: Repeat) -> None:
    target = {}
    for name, tensor in plain()[2].items():
        if name.endswith(CLOSING) or tensor.ndim == 1:
            target[name] = repeat(tensor, 0)
        elif name.endswith("embed_tokens.weight"):
            target[name] = repeat(tensor, 1)
        else:
            target[name] = repeat(tensor, 1) / 2
    _, report = check(target, hidden_size=24)
    assert report.ok, report


def test_units_duplicated_unevenly_are_refused_with_what_was_tried() -> None:
    target = wider_mlp(lambda t, dim: torch.cat([t, t.narrow(dim, 0, 3)], dim))
    found, report = check(target, intermediate_size=13)
    assert not report.ok
    assert any(note.startswith("no record that was tried fits") for note in found.notes)


# What cannot be inferred.


def test_another_class_is_refused() -> None:
    made = grown("llama", "mlp")
    with pytest.raises(SourceError, match=r"must be of one class: the source is of model_type 'llama', .* 'qwen3'"):
        inferred(made, config={**made.plan.target_config, "model_type": "qwen3"})


def test_an_epsilon_that_was_left_as_it_was_is_named() -> None:
    made = grown("llama", "hidden")
    config = {**made.plan.target_config, "rms_norm_eps": made.plan.source.config["rms_norm_eps"]}
    report = compared(made, config=config)
    assert {v.kind for v in report.violations} == {"norm"}
    assert "expected rms_norm_eps = 0.005, as the mean square is 1/2 of the source's" in str(report.violations[0])


# Bands.


@pytest.mark.parametrize("family", ["gpt2", "bert", "gpt_oss"])
def test_bands_make_no_difference(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = grown(family, "all")
    whole = made.compare(target_names=made.target)
    monkeypatch.setattr(bands, "BAND_BYTES", 900)
    small = made.compare(target_names=made.target, threads=3)
    assert small.ok
    assert (small.values, small.tensors, small.num_bytes) == (whole.values, whole.tensors, whole.num_bytes)
    assert sum(small.values.values()) == sum(t.numel() for t in made.target.values())
    broken = {name: tensor * 1.5 for name, tensor in made.target.items()}
    found, threaded = (made.compare(broken, threads=n).violations for n in (1, 3))
    assert found == threaded
    monkeypatch.undo()
    assert [str(v) for v in made.compare(broken).violations] == [str(v) for v in found]
