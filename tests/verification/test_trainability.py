"""What new parameters learn in a few steps; every finding has a control: a model in which it must be found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from tests.families.case import Case
from tests.integration.cases import CASES
from tests.verification.support import FAMILIES, grown

import growformer
from growformer.execute.provenance import new_regions
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan
from growformer.verification import run_trainability
from growformer.verification.live_tensors import live_tensors
from growformer.verification.recorded import Recorded
from growformer.verification.regions import spread
from growformer.verification.run_trainability import memory_needed, why_not
from growformer.verification.trainability import TrainabilityReport, check_trainability
from growformer.verification.training_steps import projected, take_steps

_MIXTRAL: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 36, "num_attention_heads": 6, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 3, "pad_token_id": None,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_PERSIMMON: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 36, "num_attention_heads": 3, "num_hidden_layers": 2,
    "hidden_act": "gelu", "qk_layernorm": True, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
MODELS: dict[str, tuple[Case, dict[str, Any]]] = {
    "llama": (
        CASES["llama"],
        {"hidden_size": 36, "intermediate_size": 53, "num_key_value_heads": 4, "num_attention_heads": 12,
         "head_dim": 14, "num_hidden_layers": 5},
    ),
    "llama tied": (CASES["llama tied"], {"hidden_size": 36, "intermediate_size": 41}),
    "gpt2": (CASES["gpt2"], {"hidden_size": 44, "num_attention_heads": 4, "intermediate_size": 101, "n_layer": 3}),
    "mixtral": (
        Case(model_type="mixtral", model="MixtralForCausalLM", config=_MIXTRAL),
        {"hidden_size": 36, "intermediate_size": 52, "num_key_value_heads": 3, "num_attention_heads": 9},
    ),
    "persimmon": (  # its norms of queries and keys have gains over one axis of two
        Case(model_type="persimmon", model="PersimmonForCausalLM", config=_PERSIMMON),
        {"intermediate_size": 53, "num_hidden_layers": 3},
    ),
}  # fmt: skip
Change = Callable[[torch.nn.Module], None]


class Made:
    """A grown model, and its check."""

    def __init__(self, name: str, **options: Any) -> None:
        case, request = MODELS[name]
        self.source = case.source()
        self.plan: Plan = growformer.plan(self.source, **{**request, **options})
        self.model: Any = growformer.grow(self.source, plan=self.plan)
        shape = (2, 64)
        self.inputs = {"input_ids": (torch.arange(128) % 59 + 2).reshape(shape)}

    @property
    def record(self) -> Recorded:
        return Recorded.read(json.loads(self.plan.to_json()))

    def check(self, **options: Any) -> TrainabilityReport:
        if "regions" not in options:
            options["record"] = self.record
        return check_trainability(self.model, self.inputs, **options)


@pytest.fixture(params=MODELS)
def made(request: pytest.FixtureRequest) -> Made:
    return Made(request.param)


@pytest.fixture
def llama() -> Made:
    return Made("llama")


# What is new


@pytest.mark.parametrize("family", FAMILIES)
def test_new_regions_are_those_that_no_source_value_fills(family: str) -> None:
    """Requirements, which know no planner, name the same entries as the plan's blocks, and new layers as a whole."""
    made = grown(family, "all")
    specs = {spec.name(index): (spec, index) for spec, index in made.plan.specs()}
    count = 0
    for tensor in live_tensors(Recorded.read(made.data), made.target.keys()):
        planned = tensor_plan(made.plan, *specs[tensor.held.canonical])
        expected, found = (np.zeros(planned.shape, dtype=bool) for _ in range(2))
        for region in new_regions(planned):
            along = [np.concatenate([np.arange(*r) for r in ranges]) for ranges in region]
            expected[np.ix_(*along)] = True
        for region in tensor.new:
            found[np.ix_(*map(spread, region))] = True
        if tensor.is_new:
            # In a copied layer too, which the plan fills with values of another one; only the affine that a new
            # post-norm layer takes over from the layer before it is the source's.
            assert found.all() or (tensor.spec.part != "weight" or len(planned.shape) == 1), tensor.held
            assert found[expected].all(), tensor.held
        else:
            assert np.array_equal(found, expected), tensor.held
        count += int(found.sum())
    assert count


# The steps


@pytest.mark.parametrize("name", ["llama", "llama tied", "mixtral"])
def test_updates_are_those_of_adamw_bit_by_bit(name: str) -> None:
    made = Made(name)
    plain, ours = copy.deepcopy(made.model).eval(), copy.deepcopy(made.model).eval()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0, foreach=False)
    gradients: dict[str, list[torch.Tensor]] = {}
    for _ in range(3):
        optimizer.zero_grad()
        projected(plain(**made.inputs), 5).backward()
        for n, p in plain.named_parameters():
            gradients.setdefault(n, []).append(p.grad.clone())
        optimizer.step()
    seen: dict[str, list[torch.Tensor]] = {}

    def see(step: int, names: tuple[str, ...], gradient: torch.Tensor) -> None:
        seen.setdefault(names[0], []).append(gradient.clone())

    take_steps(ours, made.inputs, see, steps=3, seed=5, learning_rate=1e-3)
    assert seen.keys() == gradients.keys()
    assert all(torch.equal(a, b) for n in seen for a, b in zip(seen[n], gradients[n], strict=True))
    after = dict(plain.named_parameters())
    assert all(torch.equal(p, after[n]) for n, p in ours.named_parameters())
    assert all(p.grad is None for p in ours.parameters())
    before = dict(made.model.named_parameters())
    assert any(not torch.equal(p, before[n]) for n, p in ours.named_parameters())


def test_a_model_is_not_changed_unless_it_may_be(llama: Made) -> None:
    before = {n: t.clone() for n, t in llama.model.state_dict().items()}
    report = llama.check()
    assert all(torch.equal(t, before[n]) for n, t in llama.model.state_dict().items())
    in_place = llama.check(in_place=True)
    assert in_place.to_json() == report.to_json()
    assert any(not torch.equal(t, before[n]) for n, t in llama.model.state_dict().items())


def test_half_precision_is_trained_in_float32(llama: Made) -> None:
    llama.model.bfloat16()
    assert llama.check().ok
    assert {p.dtype for p in llama.model.parameters()} == {torch.bfloat16}


# What is found


def test_everything_learns(made: Made) -> None:
    report = made.check()
    assert report.ok, report.rows()
    assert all(ok for *_, ok in report.rows())
    assert {r.first_step for r in report.regions} == {1, 2}
    assert sum(report.by_first_step().values()) == len(report.regions)
    for r in report.regions:
        assert r.first_step is not None
        assert all(g == 0 for g in r.gradient[: r.first_step - 1])
        assert r.gradient[r.first_step - 1] > 0
        assert len(r.source_gradient) in (0, report.steps)
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("new_layers", ["copy", "random"])
def test_new_layers_learn(new_layers: str) -> None:
    report = Made("llama", new_layers=new_layers).check()
    assert report.ok, report.rows()


def test_writers_learn_first_and_readers_second() -> None:
    made = Made("llama")
    made.plan = growformer.plan(made.source, intermediate_size=53)
    made.model = growformer.grow(made.source, plan=made.plan)
    steps = {r.tensor.split(".")[-2]: r.first_step for r in made.check().regions}
    assert steps == {"down_proj": 1, "gate_proj": 2, "up_proj": 2}


def test_dead_units_are_named_with_the_reason(llama: Made) -> None:
    layer = llama.model.model.layers[0].mlp
    _zero(layer.gate_proj, 40)
    _zero(layer.up_proj, 40)
    report = llama.check()
    assert not report.ok
    assert report.locked == ()
    assert {r.tensor for r in report.dead} == {
        f"model.layers.0.mlp.{part}.weight" for part in ("gate_proj", "up_proj", "down_proj")
    }
    assert {at for r in report.dead for _, at in r.dead_at} == {(40,)}
    assert all(
        "are all zero there, and so both what writes the unit and what reads it" in r.reason for r in report.dead
    )
    what, result = next((what, found) for _, what, found, ok in report.rows() if not ok and "gate_proj" in what)
    assert what == "dead: model.layers.0.mlp.gate_proj.weight"
    assert result.startswith("no gradient reaches 40 along dimension 0: model.layers.0.mlp.gate_proj.weight, ")
    assert len(report.to_json()["dead"]) == len(report.dead)


def test_experts_to_which_no_token_came_are_not_dead() -> None:
    case = Case(model_type="mixtral", model="MixtralForCausalLM", config={**_MIXTRAL, "num_experts_per_tok": 1})
    source = case.build()
    plan = growformer.plan(source, intermediate_size=52, num_hidden_layers=3)
    model = growformer.grow(source, plan=plan)
    report = run_trainability.run_trainability(model, plan, {"input_ids": torch.tensor([[5, 9]])})
    assert report.ok, report.rows()
    (note,) = [
        note for note in report.notes if note.startswith("not judged, as no token came to these experts at some step: ")
    ]
    assert ".experts." in note
    every = run_trainability.run_trainability(model, plan, {"input_ids": torch.arange(60).reshape(2, 30)})
    assert len(every.regions) > len(report.regions)
    with torch.no_grad():  # an expert of zeros, to which tokens do come, is dead
        packed = model.model.layers[0].mlp.experts
        packed.gate_up_proj[:, 36:52].zero_()
        packed.gate_up_proj[:, 88:].zero_()
    assert not run_trainability.run_trainability(model, plan, {"input_ids": torch.tensor([[5, 9]])}).ok


def test_a_bias_of_zeros_makes_no_unit_dead() -> None:
    """Units of ReLU at rest, whose bias and reader are zero, learn once a token moves them."""
    config = {
        "vocab_size": 61, "hidden_size": 24, "ffn_dim": 36, "num_attention_heads": 3, "num_hidden_layers": 2,
        "word_embed_proj_dim": 24, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    source = Case(model_type="opt", model="OPTForCausalLM", config=config).build()
    plan = growformer.plan(source, ffn_dim=47)
    report = run_trainability.run_trainability(
        growformer.grow(source, plan=plan), plan, {"input_ids": torch.tensor([[5, 9, 11]])}
    )
    assert any(r.at_rest for r in report.regions)
    assert not any(r.reason for r in report.regions)
    assert report.ok, report.rows()


def _zero(module: Any, row: int) -> None:
    with torch.no_grad():
        module.weight[row].zero_()
        if module.bias is not None:
            module.bias[row].zero_()


def _equal_mlp(one: int, other: int, parts: tuple[str, ...] = ("gate_proj", "up_proj")) -> Change:
    def change(model: Any) -> None:
        for part in parts:
            module = getattr(model.model.layers[0].mlp, part)
            module.weight[other] = module.weight[one]
            module.bias[other] = module.bias[one]

    return change


def _equal_heads(parts: tuple[str, ...] = ("q_proj", "k_proj", "v_proj"), one: int = 2, other: int = 3) -> Change:
    """Make two new key-value heads of layer 0 equal, with their three query heads each; what reads them is zero."""

    def change(model: Any) -> None:
        for part in parts:
            module = getattr(model.model.layers[0].self_attn, part)
            size = module.weight.shape[0] // 4
            module.weight[other * size : (other + 1) * size] = module.weight[one * size : (one + 1) * size]
            module.bias[other * size : (other + 1) * size] = module.bias[one * size : (one + 1) * size]

    return change


def _equal_group(model: Any) -> None:
    """Make two query heads of one new key-value head equal."""
    module = model.model.layers[0].self_attn.q_proj
    rows = [slice((6 + head) * 14, (7 + head) * 14) for head in (1, 2)]
    module.weight[rows[1]] = module.weight[rows[0]]
    module.bias[rows[1]] = module.bias[rows[0]]


def _equal_stream(model: Any) -> None:
    """Make the new coordinates 30 and 33 of the stream equal in all that reads them; what writes them is zero."""
    for name, p in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
            p[:, 33] = p[:, 30]
        if name.endswith("norm.weight"):
            p[33] = p[30]
        if name in ("lm_head.weight", "model.embed_tokens.weight"):
            p[:, 33] = p[:, 30]
        if name.endswith(("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias")):
            p[33] = p[30]


LOCKED: dict[str, tuple[Change, str]] = {
    "two new units": (_equal_mlp(38, 40), "mlp of layer 0: 38, 40"),
    "two new heads": (_equal_heads(), "kv_heads of layer 0: 2, 3"),
    "two query heads of a new head": (_equal_group, "group of kv_heads 2, layer 0: 1, 2"),
    "two coordinates of the stream": (_equal_stream, "stream: 30, 33"),
}


@pytest.mark.parametrize("name", LOCKED)
def test_locked_units_are_named(llama: Made, name: str) -> None:
    change, expected = LOCKED[name]
    with torch.no_grad():
        change(llama.model)
    report = llama.check()
    assert [str(found) for found in report.locked] == [expected]
    assert not report.ok
    assert ("trainability", "locked units", f"equal in values and gradients: {expected}", False) in report.rows()
    found = report.to_json()["locked"][0]
    assert [",".join(map(str, group)) for group in found["units"]] == [expected.split(": ")[1].replace(" ", "")]
    assert found["tensor"] in found["tensors"]


@pytest.mark.parametrize(
    "change",
    [
        _equal_mlp(38, 40, ("gate_proj",)),
        _equal_mlp(3, 40),  # the source's unit is read, the new one is not
        _equal_heads(("q_proj", "k_proj")),
        _equal_heads(("v_proj",)),
    ],
)
def test_what_one_tensor_tells_apart_is_not_locked(llama: Made, change: Change) -> None:
    with torch.no_grad():
        change(llama.model)
    assert llama.check().ok


def test_a_new_unit_may_be_locked_to_one_of_the_source(llama: Made) -> None:
    with torch.no_grad():
        _equal_mlp(3, 40)(llama.model)
        down = llama.model.model.layers[0].mlp.down_proj.weight
        down[:, 3] *= 0.5
        down[:, 40] = down[:, 3]
    assert [str(found) for found in llama.check().locked] == ["mlp of layer 0: 3, 40"]


def test_exact_copies_in_equal_shares_are_locked(llama: Made) -> None:
    """Net2Net without noise: the copies of a unit never separate, though the source has all of them."""
    source = llama.source
    config = copy.deepcopy(source.config)
    config.intermediate_size *= 2
    doubled = type(source)(config)
    with torch.no_grad():
        for name, p in doubled.named_parameters():
            old = source.get_parameter(name)
            along = [d for d in range(p.ndim) if p.shape[d] != old.shape[d]]
            twice = torch.cat([old, old], along[0]) if along else old
            p.copy_(twice / 2 if "down_proj.weight" in name else twice)
    found = growformer.verify(
        source, doubled, checks=["constraints", "trainability"], inputs=llama.inputs, record="inferred"
    )
    assert found.constraints is not None
    assert found.constraints.ok
    assert found.trainability is not None
    assert any(locked.where.startswith("mlp of layer 0") for locked in found.trainability.locked)


def test_what_a_copied_layer_has_copied_is_not_its_own() -> None:
    """The source has two equal units; growth is not to blame, but for those that it adds."""
    made = Made("llama")
    source = copy.deepcopy(made.source)
    with torch.no_grad():
        for layer in source.model.layers:
            for part in (layer.mlp.gate_proj, layer.mlp.up_proj):
                part.weight[5], part.bias[5] = part.weight[3].clone(), part.bias[3].clone()
            layer.mlp.down_proj.weight[:, 5] = layer.mlp.down_proj.weight[:, 3].clone()
    made.plan = growformer.plan(source, num_hidden_layers=3)
    made.model = growformer.grow(source, plan=made.plan)
    assert made.check().locked == ()
    new = next(i for i in range(3) if made.record.is_new({"layer": i}))
    mlp = made.model.model.layers[new].mlp
    with torch.no_grad():
        for part in (mlp.gate_proj, mlp.up_proj):
            part.weight[9], part.bias[9] = part.weight[8].clone(), part.bias[8].clone()
    assert [str(found) for found in made.check().locked] == [f"mlp of layer {new}: 8, 9"]


def test_locked_heads_of_fused_weights() -> None:
    made = Made("gpt2", hidden_size=60, num_attention_heads=5)
    size = made.model.config.n_embd // 5
    attention = made.model.transformer.h[0].attn
    with torch.no_grad():
        for third in range(3):
            start = third * made.model.config.n_embd
            rows = [slice(start + head * size, start + (head + 1) * size) for head in (3, 4)]
            attention.c_attn.weight[:, rows[1]] = attention.c_attn.weight[:, rows[0]]
            attention.c_attn.bias[rows[1]] = attention.c_attn.bias[rows[0]]
    assert [str(found) for found in made.check().locked] == ["heads of layer 0: 3, 4"]


def test_locked_units_of_one_expert() -> None:
    made = Made("mixtral")
    experts = made.model.model.layers[1].mlp.experts
    with torch.no_grad():
        for first in (0, 52):  # gate and up lie in one tensor
            experts.gate_up_proj[2, first + 50] = experts.gate_up_proj[2, first + 47]
    report = made.check()
    assert [found.units for found in report.locked] == [((47, 50),)]
    assert "layer 1" in report.locked[0].where
    assert "expert 2" in report.locked[0].where


def test_a_gradient_out_of_scale_is_named(llama: Made) -> None:
    with torch.no_grad():
        for part in ("gate_proj", "up_proj"):
            llama.model.get_parameter(f"model.layers.1.mlp.{part}.weight")[37:].mul_(1000)
    report = llama.check()
    assert not report.ok
    assert "model.layers.1.mlp.down_proj.weight" in {r.tensor for r in report.out_of_scale}
    assert any("times its neighbours'" in result for *_, result, ok in report.rows() if not ok)


def test_a_zeroed_writer_in_front_of_a_norm_is_out_of_scale() -> None:
    """MATHEMATICS 9: why new layers of models with sandwich norms zero the norm's gain instead."""
    made = grown_gemma()
    assert made.check().ok
    new = next(i for i in range(3) if made.record.is_new({"layer": i}))
    layer = made.model.model.layers[new]
    with torch.no_grad():
        for writer, norm in (
            (layer.mlp.down_proj, layer.post_feedforward_layernorm),
            (layer.self_attn.o_proj, layer.post_attention_layernorm),
        ):
            writer.weight.zero_()
            norm.weight.fill_(0.1)
    assert {r.tensor.split(".")[-2] for r in made.check().out_of_scale} >= {"down_proj", "o_proj"}


def grown_gemma() -> Made:
    config = {
        **{k: v for k, v in _MIXTRAL.items() if "expert" not in k}, "query_pre_attn_scalar": 8, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    MODELS["gemma2"] = (
        Case(model_type="gemma2", model="Gemma2ForCausalLM", config=config), {"num_hidden_layers": 3}
    )  # fmt: skip
    return Made("gemma2")


def test_parameters_that_the_class_does_not_train_are_left_out(llama: Made) -> None:
    tensor = "model.layers.0.mlp.gate_proj.weight"
    _zero(llama.model.model.layers[0].mlp.gate_proj, 40)
    _zero(llama.model.model.layers[0].mlp.up_proj, 40)
    llama.model.get_parameter(tensor).requires_grad_(False)
    assert tensor not in {r.tensor for r in llama.check().regions}
    for p in llama.model.parameters():
        p.requires_grad_(False)
    assert tensor in {r.tensor for r in llama.check().dead}  # frozen as a whole: judged as if it were not


def test_what_no_output_comes_from_is_named_and_not_judged() -> None:
    """The head that predicts contacts reads the attention maps in a method of its own."""
    config = {
        "vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 3,
        "pad_token_id": 1, "mask_token_id": 3, "token_dropout": False, "position_embedding_type": "absolute",
    }  # fmt: skip
    MODELS["esm"] = Case(model_type="esm", model="EsmModel", config=config), {"num_hidden_layers": 4}
    made = Made("esm", new_layers="copy")
    report = made.check()
    assert report.ok, report.rows()
    note = "not judged, as no gradient comes to the source's values of them either: contact_head.regression.weight"
    assert report.notes == (note,)
    assert any("contact_head" in t.held.stored for t in live_tensors(made.record, dict(made.model.named_parameters())))
    made.model.encoder.layer.pop(-1)  # a new layer that is not asked, as those of the source are, does count
    made.model.encoder.layer.append(Unasked(made.model.encoder.layer[0]))
    dead = {r.tensor for r in made.check().dead}
    assert "encoder.layer.3.intermediate.dense.weight" in dead
    assert not any("contact_head" in name for name in dead)


def with_resting_units(activation: str, count: int = 3) -> Made:
    """Return a grown OPT, some of whose new units get so negative a bias that no token moves them."""
    config = {
        "vocab_size": 61, "hidden_size": 24, "ffn_dim": 37, "num_attention_heads": 3, "num_hidden_layers": 2,
        "max_position_embeddings": 64, "word_embed_proj_dim": 24, "activation_function": activation, "pad_token_id": 0,
    }  # fmt: skip
    MODELS["opt"] = Case(model_type="opt", model="OPTForCausalLM", config=config), {"intermediate_size": 53}
    made = Made("opt")
    with torch.no_grad():
        made.model.model.decoder.layers[0].fc1.bias[-count:] = -1e4
    return made


def test_units_that_an_activation_keeps_at_zero_are_at_rest() -> None:
    report = with_resting_units("relu").check()
    assert report.ok, report.rows()
    resting = {r.tensor: r.at_rest for r in report.regions if r.at_rest}
    assert resting["model.decoder.layers.0.fc1.weight"] == 3
    assert resting["model.decoder.layers.0.fc2.weight"] == 3
    assert any(
        note.startswith("model.decoder.layers.0.fc1.weight: 3 new of its units gave nothing") for note in report.notes
    )
    assert not with_resting_units("gelu").check().ok  # a unit behind it that gives nothing is no chance
    assert not with_resting_units("relu", count=16).check().ok  # nor are so many


def test_zeros_on_both_sides_are_not_at_rest() -> None:
    made = with_resting_units("relu")
    layer = made.model.model.decoder.layers[0]
    with torch.no_grad():
        layer.fc1.weight[51], layer.fc1.bias[51], layer.fc2.weight[:, 51] = 0, 0, 0
    dead = {r.tensor: r.reason for r in made.check().dead}
    assert "both what writes the unit and what reads it" in dead["model.decoder.layers.0.fc1.weight"]


class Unasked(torch.nn.Module):
    """A layer with weights that gives on what it gets."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        for name, child in copy.deepcopy(layer).named_children():
            self.add_module(name, child)

    def forward(self, states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return states


def test_activations_of_new_coordinates(llama: Made) -> None:
    report = llama.check()
    found = {(a.module, a.step): a for a in report.activations}
    assert {step for _, step in found} == {0, 1, 2}
    stream = "model.norm (input)"
    assert found[stream, 0].new_rms == 0  # what writes the stream's new coordinates is zero
    assert 0 < found[stream, 1].new_rms < found[stream, 2].new_rms < found[stream, 2].source_rms
    new = next(i for i in range(5) if llama.record.is_new({"layer": i}))
    assert (f"model.layers.{new}.mlp.up_proj", 0) not in found  # it has no source coordinates to compare with
    up = next(i for i in range(5) if i != new and not llama.record.is_new({"layer": i}))
    assert found[f"model.layers.{up}.mlp.up_proj", 0].new_rms > 0
    # Against the hidden states that the model itself gives.
    with torch.no_grad():
        states = llama.model.eval()(**llama.inputs, output_hidden_states=True).hidden_states
    at = found["model.layers.1.input_layernorm (input)", 0]
    assert at.source_rms == pytest.approx(float(states[1][..., :24].square().mean().sqrt()), rel=1e-5)
    assert report.rows()[-1][1] == "activations after 2 steps"


# Without a record


def test_regions_alone_are_enough_for_reach(llama: Made) -> None:
    with_record = llama.check()
    regions: dict[str, Any] = {}
    for r in with_record.regions:
        regions.setdefault(r.tensor, []).append(r.region)
    alone = llama.check(regions=regions)
    assert alone.ok
    assert alone.locked == ()
    assert alone.activations == ()
    assert "no record says which are new" in alone.notes[0]
    wanted = {(r.tensor, json.dumps(r.region)): r for r in with_record.regions}
    for r in alone.regions:
        other = wanted[r.tensor, json.dumps(r.region)]
        assert (r.first_step, r.dead_units) == (other.first_step, other.dead_units)
        assert r.gradient == pytest.approx(other.gradient, rel=1e-5)
        assert r.source_gradient == pytest.approx(other.source_gradient, rel=1e-5) or not r.source_gradient
    with pytest.raises(ValueError, match="expected either a record or regions"):
        check_trainability(llama.model, llama.inputs)


# Memory


def test_memory_is_estimated_from_shapes() -> None:
    shapes = [(100, 10), (10,)]
    weights = 4 * 1010
    assert memory_needed(shapes, 0) == 3 * weights + 3 * 4 * 1000
    assert memory_needed(shapes, 0, in_place=True) == 2 * weights + 3 * 4 * 1000
    assert memory_needed(shapes, 0, steps=3, in_place=True) == 3 * weights + 3 * 4 * 1000
    assert memory_needed(shapes, 7) - memory_needed(shapes, 0) == 4 * 2 * 7 * 110


def test_a_note_says_why_it_is_not_run(llama: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not(llama.model, llama.plan, 128) is None
    monkeypatch.setattr(run_trainability, "available_bytes", lambda: 100)
    note = why_not(llama.model, llama.plan, 128)
    assert note is not None
    assert note.startswith("it takes about ")
    assert note.endswith(" of memory, and 0 MB are free")
    found = growformer.verify(llama.source, llama.model, plan=llama.plan)
    assert found.trainability is None
    assert f"trainability was not checked: {note}; --checks trainability does it all the same" in found.all_notes()


def test_verify_reports_it(llama: Made) -> None:
    found = growformer.verify(llama.source, llama.model, plan=llama.plan, checks=["trainability"])
    report: Mapping[str, Any] = found.to_json()["trainability"]
    assert found.ok
    assert {"ok", "steps", "regions", "by_first_step", "reach", "dead", "locked", "activations", "notes"} <= set(report)
    assert report["regions"] == len(report["reach"]) == sum(report["by_first_step"].values())
