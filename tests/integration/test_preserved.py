"""Stock models of the first families compute what they computed, from memory and from disk."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from tests.integration.cases import CASES, PAIRS, Case, tokens
from torch import nn

import growformer
from growformer.execute.state_dict import grow_state_dict
from growformer.verification.outputs import compare_outputs, convert, put_frequencies


def grow(case: Case, model: nn.Module, growth: str, **options: object) -> tuple[growformer.Plan, nn.Module]:
    plan = growformer.plan(model, init="noise", **case.growths[growth], **options)
    return plan, growformer.grow(model, plan=plan)


def rotates_by_other_than_two(plan: growformer.Plan) -> bool:
    before, after = plan.source_sizes.get("head_dim"), plan.target_sizes.get("head_dim")
    return before != after and bool(plan.architecture.rotary)


def is_rescaled(plan: growformer.Plan) -> bool:
    """Whether any weight is multiplied by something, the only source of rounding."""
    from growformer.planning.blocks import Affine, Mean, Sum

    values = [block.value for tensor in plan.tensors() for block in tensor.blocks]
    return any(isinstance(v, (Mean, Sum)) or (isinstance(v, Affine) and not v.is_copy) for v in values)


@pytest.mark.parametrize(("name", "growth"), PAIRS)
def test_float32_outputs_are_as_close_to_exact_as_the_source(name: str, growth: str) -> None:
    case = CASES[name]
    model = case.build()
    plan, grown = grow(case, model, growth)
    report = compare_outputs(model, grown, tokens(case), ["float32"], frequencies=rotates_by_other_than_two(plan))
    assert report.ok, report
    assert report.comparisons[0].largest < 1e-4


@pytest.mark.parametrize(("name", "growth"), PAIRS)
def test_bfloat16_outputs_are_as_close_to_exact_as_the_source(name: str, growth: str) -> None:
    case = CASES[name]
    model = convert(case.build(), torch.bfloat16)
    plan, grown = grow(case, model, growth)
    report = compare_outputs(model, grown, tokens(case), ["bfloat16"], frequencies=rotates_by_other_than_two(plan))
    limit = 3.0 if is_rescaled(plan) else 1.5
    assert report.comparisons[0].ratio <= limit, report


@pytest.mark.parametrize(("name", "growth"), PAIRS)
def test_hidden_states_of_every_source_layer(name: str, growth: str) -> None:
    case = CASES[name]
    model = case.build()
    plan, grown = grow(case, model, growth)
    if rotates_by_other_than_two(plan):
        put_frequencies(model, grown)
    inputs = tokens(case)
    with torch.no_grad():
        exact = convert(model, torch.float64)(**inputs, output_hidden_states=True).hidden_states
        before = model(**inputs, output_hidden_states=True).hidden_states
        after = grown(**inputs, output_hidden_states=True).hidden_states
    layers = plan.axis_maps["layer"][()].array().tolist()
    stream_scale = plan.space_scale("stream", {})
    assert stream_scale.is_one()
    # Entry 0 is the embedding, entry i + 1 what layer i gives; the last one has passed the final norm, if any.
    # In front of a new post-norm layer the norm has handed over its gain, so the state is compared behind the run.
    pairs = [(0, 0)] if layers[0] == 0 else []
    for source_layer in range(len(before) - 1):
        target = layers.index(source_layer)
        while plan.architecture.adds and target + 1 < len(layers) and layers[target + 1] == -1:
            target += 1
        pairs.append((source_layer + 1, target + 1))
    if pairs[-1][0] == len(before) - 1:
        pairs[-1] = (len(before) - 1, len(after) - 1)
    for i, j in pairs:
        size = before[i].shape[-1]
        norm = float(exact[i].norm())
        source_error = float((before[i].double() - exact[i]).norm()) / norm
        grown_error = float((after[j][..., :size].double() - exact[i]).norm()) / norm
        # Embeddings are exact in the source; one rounding of float32 is what a mean or a scale may add there.
        assert grown_error <= 2 * source_error + 2**-24, (i, j, grown_error, source_error)


@pytest.mark.parametrize(("name", "growth"), [(n, "all") for n in CASES])
def test_disturbing_one_block_is_noticed(name: str, growth: str) -> None:
    """Negative control: the outputs check fails when one value that must be zero (or a copy) is not."""
    case = CASES[name]
    model = case.build()
    _, grown = grow(case, model, growth)
    broken = copy.deepcopy(grown)
    target = next(
        p
        for n, p in broken.named_parameters()
        if n.endswith(("down_proj.weight", "mlp.c_proj.weight", "0.output.dense.weight"))
    )
    with torch.no_grad():
        target.add_(0.05 * torch.randn(target.shape, generator=torch.Generator().manual_seed(3)))
    report = compare_outputs(model, broken, tokens(case), ["float32"])
    assert not report.ok


@pytest.mark.parametrize(("name", "growth"), PAIRS)
def test_disk_equals_memory_and_loads_without_a_warning(name: str, growth: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = case.build()
    model.save_pretrained(tmp_path / "source", max_shard_size="40KB")
    _, grown = grow(case, model, growth)
    written = growformer.grow_checkpoint(
        tmp_path / "source", tmp_path / "grown", init="noise", max_shard_bytes=60_000, **case.growths[growth]
    )
    assert sum(p.suffix == ".safetensors" for p in (tmp_path / "grown").iterdir()) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded, info = getattr(transformers, case.model).from_pretrained(tmp_path / "grown", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    state = grown.state_dict()
    assert set(loaded.state_dict()) == set(state)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, state[key]), key
    for key, value in grown.config.to_dict().items():
        if key not in ("architectures", "dtype", "transformers_version", "_name_or_path"):
            assert loaded.config.to_dict()[key] == value, key
    assert set(written.tensors) <= set(state)
    result = growformer.verify(tmp_path / "source", tmp_path / "grown", checks=["constraints"])
    assert result.ok, result


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.model.endswith(("CausalLM", "LMHeadModel"))])
@pytest.mark.parametrize("growth", ["all", "layers"])
def test_greedy_generation_with_a_cache(name: str, growth: str) -> None:
    case = CASES[name]
    model = case.build()
    plan, grown = grow(case, model, growth)
    if rotates_by_other_than_two(plan):
        put_frequencies(model, grown)
    prompt = tokens(case, length=9, batch=1)["input_ids"]
    settings = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    mask = torch.ones_like(prompt)
    expected = model.generate(prompt, attention_mask=mask, **settings)
    assert torch.equal(grown.generate(prompt, attention_mask=mask, **settings), expected)
    assert expected.shape[1] == 9 + 64


@pytest.mark.parametrize("growth", ["head_dim", "all"])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_long_positions_deviate_by_the_predicted_phase(name: str, growth: str) -> None:
    """At 4,096 tokens a head_dim that is no doubling moves angles by a float32 rounding, and by no more."""
    from growformer.planning.planner import phase_error

    case = CASES[name]
    model = case.build()
    plan, grown = grow(case, model, growth)
    before, after = plan.source_sizes["head_dim"], plan.target_sizes["head_dim"]
    predicted = phase_error(10000.0, before, after, 4096)
    buffers = [next(b for n, b in m.named_buffers() if n.endswith("inv_freq")).double() for m in (model, grown)]
    moved = float((buffers[1][: buffers[0].numel()] - buffers[0]).abs().max() * 4096)
    assert moved == pytest.approx(predicted, abs=4096 * 2**-23)
    inputs = tokens(case, length=4096, batch=1)
    with torch.no_grad():
        expected = model(**inputs).logits[:, -64:]
        free = grown(**inputs).logits[:, -64:]
        put_frequencies(model, grown)
        same = grown(**inputs).logits[:, -64:]
    largest = float(expected.abs().max())
    assert float((same - expected).abs().max()) < 1e-4 * largest
    assert float((free - expected).abs().max()) < max(50 * moved, 1e-4) * largest


@pytest.mark.parametrize("new_layers", ["copy", "random"])
@pytest.mark.parametrize(("name", "growth"), PAIRS)
def test_new_parameters_learn_within_two_steps(name: str, growth: str, new_layers: str) -> None:
    case = CASES[name]
    model = case.build()
    plan = growformer.plan(model, new_layers=new_layers, **case.growths[growth])
    grown = growformer.grow(model, plan=plan)
    inputs = {"input_ids": torch.arange(case.settings["vocab_size"]).remainder(59).add(2).reshape(1, -1)}
    result = growformer.verify(model, grown, plan=plan, checks=["gradients"], inputs=inputs)
    assert result.gradients is not None
    assert result.gradients.regions
    assert result.ok, result


def test_one_dead_unit_is_noticed() -> None:
    """Negative control: gate and up of one new unit are both zero, so that it never learns."""
    case = CASES["llama"]
    model = case.build()
    plan = growformer.plan(model, intermediate_size=53)
    grown = growformer.grow(model, plan=plan)
    with torch.no_grad():
        for part in (grown.model.layers[1].mlp.gate_proj, grown.model.layers[1].mlp.up_proj):
            part.weight[40].zero_()
            part.bias[40].zero_()
    result = growformer.verify(model, grown, plan=plan, checks=["gradients"])
    assert not result.ok
    assert result.gradients is not None
    assert {r.dead_units for r in result.gradients.dead} == {1}
    assert all("layers.1.mlp" in r.tensor for r in result.gradients.dead)


@pytest.mark.parametrize("name", CASES)
def test_growing_twice(name: str) -> None:
    case = CASES[name]
    model = case.build()
    _, once = grow(case, model, next(iter(case.growths)))
    plan = growformer.plan(once, init="noise", **case.growths["all"])
    twice = growformer.grow(once, plan=plan)
    report = compare_outputs(model, twice, tokens(case), ["float32"], frequencies=rotates_by_other_than_two(plan))
    assert report.ok, report


@pytest.mark.parametrize("at", [[0], [1], [2], [0, 1, 4], "end", "interleave"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "bert", "gpt2 scaled by layer"])
@pytest.mark.parametrize("new_layers", ["copy", "random"])
def test_a_new_layer_at_every_position(name: str, at: list[int] | str, new_layers: str) -> None:
    case = CASES[name]
    model = case.build()
    count = model.config.num_hidden_layers + (len(at) if isinstance(at, list) else 3)
    plan = growformer.plan(model, init="noise", new_layers=new_layers, new_layers_at=at, num_hidden_layers=count)
    grown = growformer.grow(model, plan=plan)
    assert compare_outputs(model, grown, tokens(case), ["float32"]).ok


def test_sliding_window_layers_keep_their_type() -> None:
    case = CASES["qwen2"]
    model = case.build()
    plan = growformer.plan(model, num_hidden_layers=6, new_layers_at=[0, 2, 5])
    types = plan.target_config["layer_types"]
    layers = plan.axis_maps["layer"][()].array().tolist()
    assert [types[i] for i, at in enumerate(layers) if at >= 0] == model.config.layer_types
    assert model.config.layer_types == ["full_attention", "full_attention", "sliding_attention"]


def test_the_source_is_neither_changed_nor_shared() -> None:
    case = CASES["llama tied"]
    model = case.build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan, grown = grow(case, model, "layers")
    pointers = {p.data_ptr() for p in model.parameters()}
    assert not pointers & {p.data_ptr() for p in grown.parameters()}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert grown.lm_head.weight is grown.model.embed_tokens.weight
    state = grow_state_dict(plan, model.state_dict())
    assert all(torch.equal(value, grown.state_dict()[name]) for name, value in state.items())


def test_mode_dtype_and_frozen_parameters_follow() -> None:
    model = CASES["llama"].build().to(torch.bfloat16).train()
    model.model.embed_tokens.weight.requires_grad_(False)
    grown = growformer.grow(model, hidden_size=36)
    assert grown.training
    assert {p.dtype for p in grown.parameters()} == {torch.bfloat16}
    assert not grown.model.embed_tokens.weight.requires_grad
    assert grown.lm_head.weight.requires_grad
