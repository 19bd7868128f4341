"""Without a record: what became of a source is inferred from both sides, and checked like any other claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.verification.support import MODELS, Grown, grown, needed

import growformer.verification.bands as bands
from growformer.errors import SourceError
from growformer.verification.constraints import ConstraintsReport
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


@MODELS
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


def deeper(made: Grown, layers: list[tuple[int, tuple[str, ...]]]) -> tuple[Tensors, dict[str, Any]]:
    """Return source layers in some order, each with some of its tensors set to zero, and the config of that depth."""
    target = {name: t for name, t in made.source.items() if ".layers." not in name}
    for at, (origin, zeroed) in enumerate(layers):
        for name, tensor in made.source.items():
            if f".layers.{origin}." in name:
                renamed = name.replace(f".layers.{origin}.", f".layers.{at}.")
                target[renamed] = tensor * 0.0 if name.endswith(zeroed) and zeroed else tensor
    config = {**made.plan.source.config, "num_hidden_layers": len(layers)}
    kinds = [made.plan.source.config["layer_types"][origin] for origin, _ in layers]
    return target, {**config, "layer_types": kinds}


@pytest.mark.parametrize("layers", [
    [(0, ()), (0, CLOSING), (1, ()), (1, CLOSING)],
    [(0, ()), (1, ()), (1, CLOSING), (0, CLOSING)],
    [(0, CLOSING), (1, CLOSING), (0, ()), (0, CLOSING), (1, ())],
], ids=["interleaved", "stacked", "in front"])  # fmt: skip
@pytest.mark.parametrize("family", ["llama"])
def test_duplicated_layers_that_write_nothing_are_new(family: str, layers: list[tuple[int, tuple[str, ...]]]) -> None:
    made = grown(family, "mlp")
    target, config = deeper(made, layers)
    found = inferred(made, target, config)
    origins = found.record.along("layer", {}).source.tolist()
    kept = [i for i, (_, zeroed) in enumerate(layers) if not zeroed]
    assert [i for i, origin in enumerate(origins) if origin >= 0] == kept
    assert compared(made, target, config).ok
    assert (
        f"new layers: {', '.join(str(i) for i in range(len(layers)) if i not in kept)}" in found.notes
        or "to" in str(found.notes)
    )


def test_a_mistyped_filter_is_caught_and_its_tensor_named() -> None:
    made = grown("llama", "mlp")
    target, config = deeper(made, [(0, ()), (0, ("o_prj.weight", "down_proj.weight")), (1, ())])
    report = compared(made, target, config)
    assert [(v.kind, v.where) for v in report.violations] == [("zero", "model.layers.1.self_attn.o_proj.weight")]
    assert "expected zero" in str(report)


def test_layers_in_another_order_are_caught() -> None:
    made = grown("llama", "mlp")
    target, config = deeper(made, [(1, ()), (0, ()), (0, CLOSING)])
    report = compared(made, target, config)
    assert {v.kind for v in report.violations} == {"copy"}


# Width, as other tools duplicate it.


def wider_mlp(made: Grown, repeat: Callable[[torch.Tensor, int], torch.Tensor]) -> tuple[Tensors, dict[str, Any]]:
    target = dict(made.source)
    for name, tensor in made.source.items():
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            target[name] = repeat(tensor, 0)
        elif name.endswith("down_proj.weight"):
            target[name] = repeat(tensor, 1) / 2
    return target, {**made.plan.source.config, "intermediate_size": 40}


def tiled(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.cat([tensor, tensor], dim)


def interleaved(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    return tensor.repeat_interleave(2, dim)


@pytest.mark.parametrize("repeat", [tiled, interleaved])
def test_duplicated_units_are_recognised(repeat: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
    made = grown("llama", "mlp")
    target, config = wider_mlp(made, repeat)
    report = compared(made, target, config)
    assert report.ok, report
    assert report.values["sum"] > 0
    name = "model.layers.1.mlp.down_proj.weight"
    target[name] = target[name].clone()
    target[name][3, 5] *= 2
    assert [v.where for v in compared(made, target, config).violations] == [name]


@pytest.mark.parametrize("repeat", [tiled, interleaved])
def test_a_duplicated_stream_is_recognised(repeat: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
    made = grown("llama", "hidden")
    target = {}
    for name, tensor in made.source.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")) or "norm" in name:
            target[name] = repeat(tensor, 0)
        elif name.endswith("embed_tokens.weight"):
            target[name] = repeat(tensor, 1)
        else:
            target[name] = repeat(tensor, 1) / 2
    config = {**made.plan.source.config, "hidden_size": 48}
    report = compared(made, target, config)
    assert report.ok, report


def test_units_duplicated_unevenly_are_refused_with_what_was_tried() -> None:
    made = grown("llama", "mlp")
    target, config = wider_mlp(made, lambda t, dim: torch.cat([t, t.narrow(dim, 0, 3)], dim))
    found = inferred(made, target, {**config, "intermediate_size": 23})
    report = made.compare(target, found.record, target_names=target)  # type: ignore[arg-type]
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


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "mixtral", "gpt_oss", "t5"])
def test_bands_make_no_difference(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = grown(family, "all")
    whole = made.compare(target_names=made.target)
    monkeypatch.setattr(bands, "BAND_BYTES", 200)
    small = made.compare(target_names=made.target, threads=3)
    assert small.ok
    assert (small.values, small.tensors, small.num_bytes) == (whole.values, whole.tensors, whole.num_bytes)
    assert sum(small.values.values()) == sum(t.numel() for t in made.target.values())
    broken = {name: tensor * 1.5 for name, tensor in made.target.items()}
    found, threaded = (made.compare(broken, threads=n).violations for n in (1, 3))
    assert found == threaded
    monkeypatch.undo()
    assert [str(v) for v in made.compare(broken).violations] == [str(v) for v in found]
