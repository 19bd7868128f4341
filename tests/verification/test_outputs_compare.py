"""Outputs of grown models pass, and damage is found where it is: late, by layer, in the cache, far out."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import growformer
from growformer.planning.plan import Plan
from growformer.verification import outputs
from growformer.verification.output_errors import errors_of
from growformer.verification.output_runs import InputSet
from growformer.verification.outputs import compare_outputs, convert
from growformer.verification.recorded import Recorded

torch.set_num_threads(1)


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=61, hidden_size=24, intermediate_size=37, num_hidden_layers=3, num_attention_heads=6,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=4096,
        )
    )  # fmt: skip


def bert() -> nn.Module:
    return transformers.BertModel(
        transformers.BertConfig(
            vocab_size=43, hidden_size=20, intermediate_size=29, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=64,
        )
    )  # fmt: skip


def t5() -> nn.Module:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=53, d_model=22, d_kv=6, d_ff=31, num_layers=3, num_decoder_layers=3, num_heads=3,
            decoder_start_token_id=0,
        )
    )  # fmt: skip


GROWTHS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "llama": (llama, {"hidden_size": 36, "num_hidden_layers": 5, "head_dim": 16, "intermediate_size": 41}),
    "bert": (bert, {"hidden_size": 40, "num_attention_heads": 8, "num_hidden_layers": 4}),
    "t5": (t5, {"d_model": 29, "num_layers": 5, "d_ff": 37}),
}


@pytest.fixture(scope="module", params=GROWTHS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Recorded]:
    return grown_pair(request.param)


def grown_pair(name: str, attentive: float = 1.0) -> tuple[nn.Module, nn.Module, Recorded]:
    make, sizes = GROWTHS[name]
    torch.manual_seed(11)
    source = make().eval()
    with torch.no_grad():
        for name_, parameter in source.named_parameters():
            parameter.normal_(std=0.3)
            parameter.mul_(attentive if "q_proj" in name_ or "k_proj" in name_ else 1)
    plan: Plan = growformer.plan(source, init="noise", **sizes)
    return source, growformer.grow(source, plan=plan), Recorded.read(json.loads(plan.to_json()))


@pytest.fixture(scope="module")
def llamas() -> tuple[nn.Module, nn.Module, Recorded]:
    return grown_pair("llama")


def tokens(length: int = 40, batch: int = 2, kind: str = "random tokens", **options: Any) -> InputSet:
    generator = torch.Generator().manual_seed(length)
    return InputSet(kind, ({"input_ids": torch.randint(3, 40, (batch, length), generator=generator)},), **options)


def given(model: nn.Module) -> InputSet:
    made = tokens()
    if not model.config.is_encoder_decoder:
        return made
    ids = torch.randint(3, 40, (2, 20), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = 0
    return InputSet(made.kind, ({**made.batches[0], "decoder_input_ids": ids},))


# Preserved.


def test_everything_is_preserved(pair: tuple[nn.Module, nn.Module, Recorded]) -> None:
    source, grown, record = pair
    report = compare_outputs(source, grown, [given(source)], ["float32", "bfloat16"], generate=6, record=record)
    assert report.ok, report.rows()
    assert [c.dtype for c in report.comparisons] == ["float32", "bfloat16"]
    for comparison in report.comparisons:
        assert 0 < comparison.source_error < (1e-5 if comparison.dtype == "float32" else 0.1)
        assert 0.5 < comparison.ratio <= comparison.limit
        depth = sum(getattr(source.config, n, 0) for n in ("num_hidden_layers", "num_decoder_layers"))
        assert len(comparison.by_layer) == depth
        assert all(0.3 < layer.ratio <= comparison.limit for layer in comparison.by_layer)
        assert comparison.by_position[-1].stop == (20 if source.config.is_encoder_decoder else 40)
    assert (report.cache is not None) == (not isinstance(source, transformers.BertModel)), report.notes


def test_models_stay_as_they_are(llamas: tuple[nn.Module, nn.Module, Recorded]) -> None:
    source, grown, record = llamas
    before = [copy.deepcopy(m.state_dict()) for m in (source, grown)]
    compare_outputs(source, grown, [tokens()], ["bfloat16"], generate=3, record=record)
    for state, model in zip(before, (source, grown), strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not any(m._forward_hooks for m in model.modules())


def test_json_has_every_figure(llamas: tuple[nn.Module, nn.Module, Recorded]) -> None:
    source, grown, record = llamas
    report = compare_outputs(source, grown, [tokens()], generate=4, record=record)
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["ok"] is True
    assert found["tokens"] == 80
    comparison = found["comparisons"][0]
    assert comparison["length"] == 40
    assert comparison["inputs"] == "random tokens"
    assert comparison["worst"].keys() == {
        "sequence", "position", "token", "text", "output", "source_error", "grown_error",
    }  # fmt: skip
    assert comparison["worst"]["output"] == "logits"
    ids = tokens().batches[0]["input_ids"]
    assert comparison["worst"]["token"] == ids[comparison["worst"]["sequence"], comparison["worst"]["position"]]
    assert {"start", "stop", "source_error", "grown_error"} <= comparison["by_position"][0].keys()
    layers = [(layer["layer"], layer["grown_layer"]) for layer in comparison["by_layer"]]
    along = record.along("layer", {}).source.tolist()
    assert layers == [(layer, along.index(layer)) for layer in range(3)]
    assert found["cache"].keys() >= {"tokens", "same", "dtype", "grown_error", "source_error", "ratio", "ok"}


def test_without_a_record_streams_are_not_compared(llamas: tuple[nn.Module, nn.Module, Recorded]) -> None:
    report = compare_outputs(llamas[0], llamas[1], [tokens()])
    assert report.ok
    assert report.comparisons[0].by_layer == ()
    assert report.cache is None


# Negative controls.


def disturbed(model: nn.Module, name: str, by: float = 0.1) -> nn.Module:
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_parameter(name).add_(by)
    return broken


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_wrong_layer_is_named(llamas: tuple[nn.Module, nn.Module, Recorded], layer: int) -> None:
    source, grown, record = llamas
    at = record.along("layer", {}).source.tolist().index(layer)
    # One row, which writes a coordinate of the source: not a new one, which nothing reads yet.
    broken = copy.deepcopy(grown)
    with torch.no_grad():
        broken.get_parameter(f"model.layers.{at}.mlp.down_proj.weight")[3] += 0.05
    comparison = compare_outputs(source, broken, [tokens()], record=record).comparisons[0]
    assert not comparison.ok
    first = comparison.first_wrong
    assert first is not None
    assert (first.layer, first.grown_layer) == (layer, at)
    assert first.first_grown <= at
    row = next(row for row in compare_outputs(source, broken, [tokens()], record=record).rows() if "stream" in row[1])
    assert not row[3]
    assert f"first wrong after layer {layer} of the source ({at} of the grown model)" in row[2]


def test_a_new_layer_that_is_no_identity_is_named(llamas: tuple[nn.Module, nn.Module, Recorded]) -> None:
    source, grown, record = llamas
    along = record.along("layer", {}).source.tolist()
    new = along.index(-1)
    broken = disturbed(grown, f"model.layers.{new}.mlp.down_proj.weight", 0.01)
    first = compare_outputs(source, broken, [tokens()], record=record).comparisons[0].first_wrong
    after = next(at for at in range(new, len(along)) if along[at] >= 0)
    assert first is not None
    assert first.first_grown <= new < first.grown_layer == after


def test_a_stream_that_is_wrong_although_outputs_are_not(llamas: tuple[nn.Module, nn.Module, Recorded]) -> None:
    """What one layer adds and the next takes away again shows in no output."""
    source, grown, record = llamas
    along = record.along("layer", {}).source.tolist()
    broken = copy.deepcopy(grown)
    last = broken.get_submodule(f"model.layers.{along.index(1)}")
    following = broken.get_submodule(f"model.layers.{along.index(1) + 1}")
    last.register_forward_hook(lambda *a: a[2] + 1 if isinstance(a[2], torch.Tensor) else (a[2][0] + 1, *a[2][1:]))
    following.register_forward_pre_hook(lambda _, a: (a[0] - 1, *a[1:]))
    comparison = compare_outputs(source, broken, [tokens()], record=record).comparisons[0]
    assert comparison.overall_ok
    assert comparison.first_wrong is not None
    assert not comparison.ok


class WrongAt(nn.Module):
    """A head that is wrong at one position of a long input."""

    def __init__(self, head: nn.Module, position: int, by: float) -> None:
        super().__init__()
        self.head, self.position, self.by = head, position, by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(x)
        if y.shape[1] > self.position:
            y = y.clone()
            y[0, self.position, 7] += self.by
        return y


def test_one_wrong_position_late_in_a_long_input(llamas: tuple[nn.Module, nn.Module, Recorded]) -> None:
    source, grown, _ = llamas
    broken = copy.deepcopy(grown)
    broken.lm_head = WrongAt(broken.lm_head, 2077, 1e-3)
    report = compare_outputs(source, broken, [tokens(), tokens(2500, batch=1)])
    short, long = report.comparisons
    assert short.ok
    assert not long.positions_ok
    assert long.worst is not None
    assert long.worst.position == 2077
    assert long.worst.grown_error > 10 * long.worst.source_error
    assert not report.ok
    row = next(row for row in report.rows() if not row[3] and "furthest" in row[1])
    assert "position 2077 of sequence 0" in row[2]


def test_a_wrong_rotary_base_that_only_long_inputs_show() -> None:
    source, grown, _ = grown_pair("llama", attentive=2.0)
    broken = copy.deepcopy(grown)
    for name, buffer in broken.named_buffers():
        if name.endswith("inv_freq"):
            size = source.get_buffer(name).numel()
            buffer[:size] *= (1 - 1e-6) ** torch.arange(size)
    right = compare_outputs(source, grown, [tokens(24), tokens(2500, batch=1)])
    wrong = compare_outputs(source, broken, [tokens(24), tokens(2500, batch=1)])
    assert right.ok
    assert wrong.comparisons[0].ok
    assert not wrong.comparisons[1].ok
    parts = wrong.comparisons[1].by_position
    assert parts[-1].ratio > 2 * parts[0].ratio  # it grows with the position


def test_a_broken_cache_path(llamas: tuple[nn.Module, nn.Module, Recorded]) -> None:
    """A forward that is right on whole inputs and wrong when it continues from a cache."""
    source, grown, record = llamas
    broken = copy.deepcopy(grown)
    at = record.along("layer", {}).source.tolist().index(1)
    attention = broken.model.layers[at].self_attn.o_proj
    attention.register_forward_hook(lambda _, __, y: y * 1.001 if y.shape[1] == 1 else y)
    report = compare_outputs(source, broken, [tokens()], generate=8, record=record)
    assert all(c.ok for c in report.comparisons)
    assert report.cache is not None
    assert not report.cache.ok
    assert report.cache.tokens == 8
    assert not report.ok
    assert any("KV cache" in row[1] and not row[3] for row in report.rows())


def test_a_tie_between_tokens_is_no_failure() -> None:
    """Where two tokens are equally likely, rounding may pick another; the logits decide, and the margin is shown."""
    source, grown, record = grown_pair("llama")
    with torch.no_grad():
        for model in (source, grown):
            head = model.lm_head.weight
            head[8:] = head[:1] * 0.01
            head[1:8] = head[:1]
        grown.lm_head.weight[3, 0] += 1e-7
    report = compare_outputs(source, grown, [tokens()], generate=8, record=record)
    assert report.cache is not None
    assert report.cache.ok
    if not report.cache.same:
        assert report.cache.margin is not None
        assert report.cache.margin < 1e-5


def test_an_output_that_is_missing_or_of_another_shape(llamas: tuple[nn.Module, nn.Module, Recorded]) -> None:
    source, grown, _ = llamas
    with pytest.raises(growformer.SourceError, match="the grown model does not return logits, as the source does"):
        compare_outputs(source, convert(grown, torch.float32).model, [tokens()])

    class Shorter(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.inner = model

        def forward(self, **inputs: torch.Tensor) -> Any:
            found = self.inner(**inputs)
            found["logits"] = found["logits"][:, :-1]
            return found

    with pytest.raises(growformer.SourceError, match=r"of shape \[2, 40, 61\], and the grown model of \[2, 39, 61\]"):
        compare_outputs(source, Shorter(grown), [tokens()])


def test_where_the_source_overflows_nothing_is_compared(llamas: tuple[nn.Module, nn.Module, Recorded]) -> None:
    source, grown, _ = (copy.deepcopy(m) for m in llamas)
    with torch.no_grad():
        for model in (source, grown):
            model.lm_head.weight.mul_(1e6)
    report = compare_outputs(source, grown, [tokens()], ["float32", "float16"])
    assert [c.dtype for c in report.comparisons] == ["float32"]
    assert report.notes == ("nothing is compared in float16: the source itself overflows in it on random tokens",)


def test_a_model_that_cannot_decode_any_more(llamas: tuple[nn.Module, nn.Module, Recorded]) -> None:
    source, grown, record = llamas
    broken = copy.deepcopy(grown)

    def refuse(_: nn.Module, given: Any) -> None:
        if given[0].shape[1] == 1:
            raise IndexError("no such layer in the cache")

    broken.lm_head.register_forward_pre_hook(refuse)
    report = compare_outputs(source, broken, [tokens()], generate=4, record=record)
    assert not report.ok
    assert report.cache is not None
    assert report.to_json()["cache"]["ratio"] is None
    assert "the grown model cannot decode with a KV cache in float32, as the source can (IndexError" in report.notes[0]
    # Where the source cannot either, nothing is known.
    report = compare_outputs(broken, grown, [tokens()], generate=4)
    assert report.cache is None
    assert report.ok


def test_classes_that_decode_something_else_are_not_judged_by_it() -> None:
    """A cache that the source does not use right shows nothing about growth, and a note says so."""
    source, grown, record = grown_pair("llama")
    for model in (source, grown):
        model.lm_head.register_forward_hook(lambda _, __, y: y + 1 if y.shape[1] == 1 else y)
    report = compare_outputs(source, grown, [tokens()], generate=4, record=record)
    assert report.cache is None
    assert "the source itself decodes something else than its forward gives" in report.notes[0]


def test_one_huge_activation_does_not_hide_the_others() -> None:
    """In trained models one coordinate of one token is thousands of times as large as all else."""
    source = llama()
    with torch.no_grad():
        source.get_parameter("model.embed_tokens.weight")[:, 3] *= 1e4
    plan = growformer.plan(source, num_hidden_layers=5, new_layers_at=[1, 3])
    grown = growformer.grow(source, plan=plan)
    record = Recorded.read(json.loads(plan.to_json()))
    comparison = compare_outputs(source, grown, [tokens()], record=record).comparisons[0]
    assert comparison.ok
    assert len(comparison.by_layer) == 3
    broken = disturbed(grown, "model.layers.3.mlp.down_proj.weight", 1e-3)
    first = compare_outputs(source, broken, [tokens()], record=record).comparisons[0].first_wrong
    assert first is not None
    assert (first.first_grown, first.grown_layer) == (3, 4)


def test_the_rounding_of_one_huge_number_decides_nothing() -> None:
    numbers = torch.Generator().manual_seed(0)
    exact, noise = (torch.randn(40, 64, generator=numbers, dtype=torch.float64) for _ in range(2))
    exact[0, 7] = 1e4
    own, other = exact + 1e-7 * noise, exact + 1e-7 * noise.flip(0)
    own[0, 7], other[0, 7] = 1e4 + 1e-4, 1e4 + 1e-3
    plain = errors_of("stream", [exact], [own], [other])
    by_coordinate = errors_of("stream", *outputs._by_coordinate([exact], [own], [other]))
    assert plain.ratio > 5
    assert by_coordinate.ratio < 1.5
    other[:, 5] += 1e-6  # a coordinate that is really off
    assert errors_of("stream", *outputs._by_coordinate([exact], [own], [other])).ratio > 1.5
