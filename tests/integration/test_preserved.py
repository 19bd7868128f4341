"""What a few models show beyond what every family must hold: hidden states, places of new layers, the source."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.families.case import SMALL_EPS
from tests.families.checks import moves_frequencies
from tests.integration.cases import CASES, tokens

import growformer
from growformer.execute.state_dict import grow_state_dict
from growformer.planning.rotary import phase_error
from growformer.verification.outputs import compare_outputs, convert, put_frequencies

GROWTHS: dict[str, list[dict[str, Any]]] = {
    "llama": [
        {"intermediate_size": 53}, {"num_attention_heads": 12}, {"head_dim": 14}, {"hidden_size": 36},
        {"num_hidden_layers": 5},
        {"intermediate_size": 53, "num_key_value_heads": 4, "num_attention_heads": 12, "head_dim": 14,
         "hidden_size": 36, "num_hidden_layers": 5},
    ],
    "gpt2": [
        {"intermediate_size": 101}, {"hidden_size": 40}, {"hidden_size": 30, "num_attention_heads": 3},
        {"num_hidden_layers": 5},
        {"intermediate_size": 101, "hidden_size": 44, "num_attention_heads": 4, "num_hidden_layers": 5},
    ],
    "bert": [
        {"intermediate_size": 53}, {"hidden_size": 48}, {"hidden_size": 48, "num_attention_heads": 3},
        {"num_hidden_layers": 5},
        {"intermediate_size": 53, "hidden_size": 72, "num_attention_heads": 4, "num_hidden_layers": 5},
    ],
}  # fmt: skip
PAIRS = [(name, number) for name, growths in GROWTHS.items() for number in range(len(growths))]


@pytest.mark.parametrize(("name", "number"), PAIRS)
def test_hidden_states_of_every_source_layer(name: str, number: int) -> None:
    case = CASES[name]
    model = case.build(eps=SMALL_EPS if name == "bert" else 1e-3)
    plan = growformer.plan(model, init="noise", **GROWTHS[name][number])
    grown = growformer.grow(model, plan=plan)
    if moves_frequencies(plan):
        put_frequencies(model, grown)
    inputs = tokens(case)
    with torch.no_grad():
        exact = convert(model, torch.float64)(**inputs, output_hidden_states=True).hidden_states
        before = model(**inputs, output_hidden_states=True).hidden_states
        after = grown(**inputs, output_hidden_states=True).hidden_states
    layers = plan.axis_maps["layer"][()].array().tolist()
    assert plan.space_scale("stream", {}).is_one()
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


def test_long_positions_deviate_by_the_predicted_phase() -> None:
    """At 4,096 positions a head_dim that is no doubling moves angles by a float32 rounding, as the plan says."""
    model = CASES["llama"].build()
    grown = growformer.grow(model, head_dim=14)
    buffers = [next(b for n, b in m.named_buffers() if n.endswith("inv_freq")).double() for m in (model, grown)]
    moved = float((buffers[1][: buffers[0].numel()] - buffers[0]).abs().max() * 4096)
    assert moved == pytest.approx(phase_error(10000.0, 8, 14, 4096), abs=4096 * 2**-23)


def test_one_dead_unit_is_noticed() -> None:
    """Negative control: gate and up of one new unit are both zero, so that it never learns."""
    model = CASES["llama"].build()
    plan = growformer.plan(model, intermediate_size=53)
    grown = growformer.grow(model, plan=plan)
    with torch.no_grad():
        for part in (grown.model.layers[1].mlp.gate_proj, grown.model.layers[1].mlp.up_proj):
            part.weight[40].zero_()
            part.bias[40].zero_()
    result = growformer.verify(model, grown, plan=plan, checks=["trainability"])
    assert not result.ok
    assert result.trainability is not None
    assert {r.dead_units for r in result.trainability.dead} == {1}
    assert all("layers.1.mlp" in r.tensor for r in result.trainability.dead)


@pytest.mark.parametrize("at", [[0], [1], [2], [0, 1, 4], "end", "interleave"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "bert", "gpt2 scaled by layer"])
@pytest.mark.parametrize("new_layers", ["copy", "random"])
def test_a_new_layer_at_every_position(name: str, at: list[int] | str, new_layers: str) -> None:
    case = CASES[name]
    model = case.source()
    count = model.config.num_hidden_layers + (len(at) if isinstance(at, list) else 3)  # type: ignore[union-attr]
    plan = growformer.plan(model, init="noise", new_layers=new_layers, new_layers_at=at, num_hidden_layers=count)
    grown = growformer.grow(model, plan=plan)
    assert compare_outputs(model, grown, tokens(case), ["float32"]).ok


def test_sliding_window_layers_keep_their_type() -> None:
    model = CASES["qwen2"].build()
    plan = growformer.plan(model, num_hidden_layers=6, new_layers_at=[0, 2, 5])
    types = plan.target_config["layer_types"]
    layers = plan.axis_maps["layer"][()].array().tolist()
    assert [types[i] for i, at in enumerate(layers) if at >= 0] == model.config.layer_types
    assert model.config.layer_types == ["full_attention", "full_attention", "sliding_attention"]


def test_the_source_is_neither_changed_nor_shared() -> None:
    model = CASES["llama tied"].build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = growformer.plan(model, init="noise", num_hidden_layers=5)
    grown = growformer.grow(model, plan=plan)
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
