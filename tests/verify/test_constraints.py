"""The constraints check agrees with the planner, sees every disturbance, and is right about what is free.

``MODELS`` are tiny models of every registered family (random tensors of the shapes that its declaration predicts), and
of the reference transformer; new families join by themselves. Whether the check's own derivation preserves the
function is tested against the classes of ``transformers``: all that it calls free is filled at random, and outputs
must stay.
"""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import growformer.verify
from growformer.architecture import Architecture, rms_norm
from growformer.architecture.declaration import spaces_in
from growformer.architecture.exact import Root, names_in
from growformer.architecture.language import leaves, parse_arrow
from growformer.architecture.registry import architectures
from growformer.architecture.source import describe, from_config, stored_name
from growformer.errors import PlanError, RequestError
from growformer.execute.state_dict import grow_state_dict
from growformer.plan.blocks import Affine, Block, Constant, Fill
from growformer.plan.plan import Plan
from growformer.plan.planner import make_plan
from growformer.reference import ReferenceConfig
from growformer.reference.architecture import reference_architecture
from growformer.verify.conditions import local_conditions
from growformer.verify.constraints import ConstraintsReport, compare_checkpoints
from growformer.verify.plan_check import check, check_plan, check_tensor
from growformer.verify.recorded import Recorded
from growformer.verify.regions import count, spread
from growformer.verify.requirements import Free, MeanOf, Requirement, Scaled, Value, requirements

SIZES = {"hidden": 24, "mlp": 20, "heads": 4, "kv_heads": 2, "key": 8, "value": 8, "layers": 2}
GROWTHS = ("mlp", "heads", "kv_heads", "key", "value", "hidden", "layers", "all")


@dataclass(frozen=True)
class Grown:
    """A tiny model and what became of it."""

    plan: Plan
    source: dict[str, torch.Tensor]
    target: dict[str, torch.Tensor]

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.plan.to_json())

    def compare(
        self, target: dict[str, torch.Tensor] | None = None, data: dict[str, Any] | None = None, **options: Any
    ) -> ConstraintsReport:
        grown = self.target if target is None else target
        plan = self.plan
        return compare_checkpoints(
            self.data if data is None else data,
            lambda name: self.source[plan.source.tensors[name].stored],
            lambda name: grown[stored_name(plan.architecture, plan.source.prefix, name)],
            **options,
        )


# Tiny models.


def _config(architecture: Architecture, tied: bool) -> dict[str, Any]:
    config: dict[str, Any] = {"model_type": architecture.name, "architectures": ["SomethingForCausalLM"]}
    for axis in architecture.fixed:
        config.update({n: 7 for n in names_in(architecture.sizes[axis]) if n not in architecture.inferred})
    config.update({field: SIZES[role] for role, field in architecture.roles.items()})
    for arrow in architecture.arrows.values():
        config.update({flag: True for flag in (arrow.bias, arrow.when) if isinstance(flag, str)})
        if isinstance(arrow.eps, str):
            config[arrow.eps] = 0.01
    config.update({name: ["one", "other"] for name in architecture.layer_lists})
    config.update({rotary.parameters: {"rope_type": "default", "rope_theta": 1e4} for rotary in architecture.rotary})
    if architecture.tie_field:
        config[architecture.tie_field] = tied
    return config


def _request(architecture: Architecture, growth: str) -> dict[str, Any]:
    roles = architecture.roles
    bigger = {"mlp": 23, "hidden": 48, "layers": 4}
    if "kv_heads" in roles:
        bigger |= {"heads": 8, "kv_heads": 3, "key": 12, "value": 12}
    else:
        bigger |= {"heads": 6, "key": 12, "value": 12}
    coupled = "key" not in roles and {"heads": {"hidden": 48, "heads": 8}, "key": {"hidden": 48, "heads": 4}}
    if growth == "all":
        wanted = {**bigger, "heads": 12 if "kv_heads" in roles else 8}
    elif coupled and growth in coupled:
        wanted = dict(coupled[growth])
    elif growth == "kv_heads":
        wanted = {"kv_heads": 3, "heads": 6}
    else:
        wanted = {growth: bigger[growth]}
    if growth != "all" and growth not in roles and not (coupled and growth in coupled):
        pytest.skip(f"{architecture.name} has no {growth} of its own")
    return {roles[role]: size for role, size in wanted.items() if role in roles}


def _reference(growth: str) -> tuple[Architecture, dict[str, Any], dict[str, Any]]:
    config = ReferenceConfig(
        hidden_size=12, mlp=(5, 7), key=((3, 4), (2, 5, 3)), value=((2, 3), (4, 5, 6)), input_size=11, output_size=13,
        max_positions=9, norm_eps=1e-2, post_branch_norm=True, final_norm=True,
    ).to_dict()  # fmt: skip
    requests: dict[str, dict[str, Any]] = {
        "mlp": {"mlp": [6, 8]},
        "heads": {"num_heads": [3, 3], "key": [[3, 4, 5], [2, 5, 3]], "value": [[2, 3, 6], [4, 5, 6]]},
        "key": {"key": [[3, 6], [2, 5, 4]]},
        "value": {"value": [[3, 4], [4, 6, 6]]},
        "hidden": {"hidden_size": 17},
        "layers": {"num_hidden_layers": 4},
    }
    if growth == "kv_heads":
        pytest.skip("the reference has no groups of heads")
    if growth == "all":
        heads = {"num_heads": [3, 3], "key": [[3, 6, 5], [2, 5, 4]], "value": [[3, 4, 6], [4, 6, 6]]}
        requests["all"] = {**requests["mlp"], **heads, **requests["hidden"]}
    return reference_architecture(config), config, requests[growth]


@lru_cache(maxsize=64)
def grown(family: str, growth: str, dtype: torch.dtype = torch.float32, new_layers: str = "copy") -> Grown:
    name, _, variant = family.partition(" ")
    if name == "reference":
        architecture, config, request = _reference(growth)
    else:
        architecture = architectures()[name]
        config, request = _config(architecture, variant == "tied"), _request(architecture, growth)
    sizes = architecture.resolve_config({**config, **dict.fromkeys(architecture.inferred, 3)})
    prefix = f"{architecture.prefix}." if architecture.prefix else ""
    generator = torch.Generator().manual_seed(0)
    source: dict[str, torch.Tensor] = {}
    for spec in architecture.tensors.values():
        if not architecture.exists(spec, sizes) or (variant == "tied" and spec.template in architecture.ties):
            continue
        for index in architecture.instances(spec.index, sizes):
            shape = [leaves(d.term, lambda axis, i=index: architecture.size(axis, sizes, i))[0] for d in spec.dims]
            values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            source[stored_name(architecture, prefix, spec.name(index))] = values
    shapes = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in source.items()}
    info = describe(architecture, config, shapes)
    try:
        plan = make_plan(architecture, info, request, init="noise", new_layers=new_layers)
    except RequestError as error:
        pytest.skip(f"refused: {error}")
    return Grown(plan, source, grow_state_dict(plan, source))


def _families() -> list[str]:
    found = []
    for name, architecture in architectures().items():
        found += [name, f"{name} tied"] if architecture.ties else [name]
    return [*found, "reference"]


MODELS = pytest.mark.parametrize("family", _families())


# The planner and the check agree.


@MODELS
@pytest.mark.parametrize("growth", GROWTHS)
def test_a_plan_and_its_checkpoint_meet_the_constraints(family: str, growth: str) -> None:
    made = grown(family, growth)
    assert check(made.plan) == []
    report = made.compare(target_names=made.target)
    assert report.ok, report
    assert report.tensors == len(made.target)
    assert report.checked + report.free == sum(t.numel() for t in made.target.values())
    assert report.checked > 0
    assert report.free > 0


@MODELS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_every_dtype_has_its_own_rounding(family: str, dtype: torch.dtype) -> None:
    assert grown(family, "all", dtype).compare().ok


@MODELS
def test_new_layers_may_be_random(family: str) -> None:
    made = grown(family, "layers", new_layers="random")
    assert check(made.plan) == []
    assert made.compare().ok


def test_a_checkpoint_in_another_dtype_is_rounded_once() -> None:
    made = grown("llama", "all", torch.float64)
    lower = grow_state_dict(made.plan, made.source, dtype=torch.bfloat16)
    assert made.compare(lower).ok


def test_free_values_are_compared_with_the_initialisation_where_it_is_given() -> None:
    made = grown("gpt2", "all")

    def regenerate(name: str, region: Any) -> torch.Tensor:
        whole = made.target[stored_name(made.plan.architecture, made.plan.source.prefix, name)]
        return whole[np.ix_(*map(spread, region))]

    report = made.compare(regenerate=regenerate)
    assert report.ok
    assert report.free == 0 < report.regenerated
    name, region = next(iter(_free(made)))
    target = {**made.target, name: made.target[name].clone()}
    target[name][_entry(region)] += 1
    assert made.compare(target).ok
    assert {v.where for v in made.compare(target, regenerate=regenerate).violations} == {name}


# Every disturbance is seen, and named.


def _needed(made: Grown) -> Iterator[tuple[str, list[Requirement]]]:
    rec = Recorded.read(made.data)
    for spec, index in rec.specs():
        found = requirements(rec, spec.template, index)
        yield found.stored, [r for use in found.uses for r in use]


def _free(made: Grown) -> Iterator[tuple[str, Any]]:
    rec = Recorded.read(made.data)
    for spec, index in rec.specs():
        found = requirements(rec, spec.template, index)
        yield from ((found.stored, region) for region, _ in found.free_regions())


def _entry(region: Any, seed: int = 0) -> tuple[int, ...]:
    random = np.random.default_rng(seed)
    return tuple(int(random.choice(spread(along))) for along in region)


def _disturb(tensor: torch.Tensor, requirement: Requirement, seed: int) -> torch.Tensor:
    """Change one entry by the least that the check must see."""
    changed = tensor.clone()
    at = _entry(requirement.copies[seed % len(requirement.copies)], seed)
    value, must = changed[at].clone(), requirement.must
    up = torch.tensor(float("inf"), dtype=tensor.dtype)
    if value == 0:
        changed[at] = 1e-30
    elif len(requirement.copies) > 1:
        changed[at] = value * 1.001
    elif (isinstance(must, Scaled) and must.is_copy) or (isinstance(must, Value) and must.is_exact):
        changed[at] = torch.nextafter(value, up)
    else:
        for _ in range(4):
            value = torch.nextafter(value, up)
        changed[at] = value
    assert not torch.equal(changed, tensor)
    return changed


@MODELS
def test_one_changed_entry_is_found_in_every_kind_of_block(family: str) -> None:
    made = grown(family, "all")
    constrained = {n: [r for r in found if not isinstance(r.must, Free)] for n, found in _needed(made)}
    kinds = set()
    for seed in range(max(map(len, constrained.values()))):
        disturbed = {n: found[seed] for n, found in constrained.items() if seed < len(found)}
        target = {**made.target, **{n: _disturb(made.target[n], r, seed) for n, r in disturbed.items()}}
        report = made.compare(target)
        assert {v.where for v in report.violations} == set(disturbed)
        assert all(v.deviation for v in report.violations)
        kinds |= {v.kind for v in report.violations}
    assert {"copy", "zero"} <= kinds


@MODELS
def test_a_changed_sign_is_found(family: str) -> None:
    made = grown(family, "all")
    signs = {n: -t for n, t in made.target.items() if t.abs().sum() > 0}
    fresh = {n for n, found in _needed(made) if all(isinstance(r.must, Free) for r in found)}
    found = {v.where for v in made.compare({**made.target, **signs}).violations}
    assert found == set(signs) - fresh


@MODELS
def test_free_entries_may_be_anything_finite(family: str) -> None:
    made = grown(family, "all")
    target = {name: tensor.clone() for name, tensor in made.target.items()}
    regions = list(_free(made))
    for name, region in regions:
        target[name][np.ix_(*map(spread, region))] = torch.randn([spread(a).size for a in region]) + 3
    assert made.compare(target).ok
    name, region = regions[0]
    target[name][_entry(region)] = float("inf")
    report = made.compare(target)
    assert [(v.kind, v.where) for v in report.violations] == [("free", name)]


def test_a_new_gain_of_zero_is_dead() -> None:
    made = grown("llama", "hidden")
    target = {**made.target, "model.norm.weight": made.target["model.norm.weight"].clone()}
    target["model.norm.weight"][-1] = 0
    report = made.compare(target)
    assert [(v.kind, v.where, v.region) for v in report.violations] == [("dead", "model.norm.weight", "[24:48]")]


def test_missing_tensors_and_others_are_named() -> None:
    made = grown("llama", "mlp")
    target = {name: tensor for name, tensor in made.target.items() if name != "model.norm.weight"}
    target["extra"] = target["model.embed_tokens.weight"]
    target["lm_head.weight"] = target["lm_head.weight"][:-1]
    report = made.compare(target, target_names=target)
    assert {(v.kind, v.where) for v in report.violations} == {
        ("missing", "model.norm.weight"),
        ("left over", "extra"),
        ("shape", "lm_head.weight"),
    }


def test_a_report_says_what_was_found() -> None:
    made = grown("llama", "mlp")
    report = made.compare()
    assert str(report) == (
        f"all constraints hold ({report.tensors} tensors, {report.checked:,} values constrained, {report.free:,} free "
        "and unchecked)"
    )
    target = {**made.target, "model.norm.weight": made.target["model.norm.weight"].clone()}
    target["model.norm.weight"][3] = 5.0
    report = made.compare(target)
    assert not report.ok
    assert "constraints do NOT hold" in str(report)
    assert "model.norm.weight[0:24]: expected source norm.weight[0:24], " in str(report)
    assert "at [3], found 5.0 (largest deviation " in str(report)
    assert json.loads(json.dumps(report.to_json()))["violations"][0]["where"] == "model.norm.weight"


# A record that contradicts preservation is refused.

KINDS = ("live", "silent", "mean", "copy", "split")


@MODELS
def test_no_other_word_for_a_grown_space_is_accepted(family: str) -> None:
    """Most words contradict others; silent queries of new heads would do, but not with these blocks."""
    made = grown(family, "all")
    tensors = list(made.plan.tensors())
    rec = Recorded.read(made.data)
    used = {s for a in rec.arrows.values() for s in _spaces(a)}
    used |= {s for c in rec.architecture.attention for s in (c.query, c.key, c.value, c.output)}
    tried = 0
    for space, state in made.data["spaces"].items():
        for axis, kind in state["new"].items():
            for other in set(KINDS) - {kind}:
                if space in used:
                    data = made.data
                    data["spaces"][space]["new"][axis] = other
                    found = local_conditions(data) or check_plan(data, tensors)
                    assert found, f"{space} along {axis}: {kind} -> {other}"
                    tried += 1
    assert tried


def _spaces(arrow: Any) -> set[str]:
    return {*spaces_in(arrow.source), *spaces_in(arrow.target)}


@MODELS
def test_another_scale_does_not_fit_the_blocks(family: str) -> None:
    made = grown(family, "all")
    rec = Recorded.read(made.data)
    tensors = list(made.plan.tensors())
    carries = {s for a in rec.arrows.values() for s in _spaces(a)}
    for space in carries:
        data = made.data
        index = next(rec.sources(rec.architecture.spaces[space].index))
        others = [s for s in data["spaces"][space]["scales"] if s["index"] != list(index.values())]
        now = rec.scale(space, index) * Fraction(3, 2)
        data["spaces"][space]["scales"] = [*others, {"index": list(index.values()), "scale": str(now)}]
        assert check_plan(data, tensors), space


@MODELS
def test_another_place_for_coordinates_does_not_fit_the_blocks(family: str) -> None:
    made = grown(family, "all")
    tensors = list(made.plan.tensors())
    for axis, maps in made.data["axis_maps"].items():
        for at, one in enumerate(maps):
            whole = [
                p for first, n in one["runs"] for p in ([-1] * n if first == -1 else list(range(first, first + n)))
            ]
            kept = [i for i, origin in enumerate(whole) if origin >= 0]
            if len(kept) < 2 or _is_new(made, axis, one["index"]):
                continue
            for changed in (_swapped(whole, kept), [*whole, -1], whole[:-1], [whole[kept[1]], *whole[1:]]):
                data = made.data
                data["axis_maps"][axis][at]["runs"] = [[origin, 1] for origin in changed]
                assert check_plan(data, tensors), f"{axis}: {whole} -> {changed}"


def _swapped(whole: list[int], kept: list[int]) -> list[int]:
    changed = list(whole)
    changed[kept[0]], changed[kept[1]] = changed[kept[1]], changed[kept[0]]
    return changed


def _is_new(made: Grown, axis: str, index: list[int]) -> bool:
    names = made.plan.architecture.size_index(axis)
    return made.plan.is_new(dict(zip(names, index, strict=True)))


def _first(data: dict[str, Any], **changes: Any) -> list[str]:
    """Return what is said about a record whose target config is changed."""
    data = copy.deepcopy(data)
    data["target_config"].update(changes)
    return [str(v) for v in local_conditions(data)]


def test_the_target_config_must_be_the_grown_one() -> None:
    made = grown("qwen3", "all")
    config = made.plan.target_config
    assert _first(made.data) == []
    wrong = _first(made.data, rms_norm_eps=0.01)
    assert "model" not in wrong[0]
    assert wrong[0] == (
        "layers.0.input_layernorm: expected rms_norm_eps = 0.005, as the mean square is 1/2 of the source's, "
        "found 0.01 (largest deviation 0.005)"
    )
    rope = config["rope_parameters"]
    wrong = _first(made.data, rope_parameters={**rope, "rope_theta": 1e4})
    assert wrong == [
        "rope_parameters.rope_theta: expected 1000000.0 = theta^(3/2), so that every frequency stays, found 10000.0"
    ]
    assert "rope_parameters.rope_type" in _first(made.data, rope_parameters={**rope, "rope_type": "dynamic"})[0]
    lists = _first(made.data, layer_types=config["layer_types"][::-1])
    assert lists[0] == f"layer_types[0]: expected 'one' of source layer 0, found {config['layer_types'][-1]!r}"
    assert "layer_types: expected 4 entries, one per layer, found 3 entries" in _first(
        made.data, layer_types=["one"] * 3
    )
    assert _first(made.data, hidden_act="relu") == ["hidden_act: expected None, found 'relu'"]
    assert _first(made.data, intermediate_size=24) == [
        "mlp: expected 24 target coordinates, as the config says, found 23"
    ]
    assert _first(made.data, transformers_version="6") == []


def test_a_scale_of_scores_by_depth_follows_the_layer() -> None:
    made = grown("gpt2", "layers")
    data = made.data
    for config in (data["source"]["config"], data["target_config"]):
        config["scale_attn_by_inverse_layer_idx"] = True
    assert [str(v) for v in local_conditions(data)] == [
        "attention q . k scores[layer 2]: expected scores times 1, found times 2/3"
    ]


def test_both_sides_inert_is_reported() -> None:
    made = grown("llama", "all")
    for space, axis in (("normed", "stream"), ("attended", "value")):
        data = made.data
        was = data["spaces"][space]["new"][axis]
        data["spaces"][space]["new"][axis] = "live" if was == "silent" else "silent"
        if space == "attended":
            data["spaces"]["v"]["new"][axis] = "silent"
            data["spaces"]["attended"]["new"][axis] = "live"
        assert {v.kind for v in local_conditions(data)} == {"dead"}
    data = made.data
    data["spaces"]["q"]["new"]["freq"] = "silent"
    assert [(v.kind, v.where) for v in local_conditions(data)] == [("dead", "attention q . k along freq")]


def test_a_tie_needs_the_same_factor_on_both_uses() -> None:
    made = grown("llama tied", "hidden")
    data = made.data
    data["spaces"]["final"]["scales"] = [{"index": [], "scale": "1/2"}]
    assert [str(v) for v in local_conditions(data)] == [
        "embed_tokens.weight: expected times 2 for what lm_head.weight reads, found times 1 for what it writes itself"
    ]


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(PlanError, match="not a record of a growth: KeyError: 'architecture'"):
        local_conditions({})


# Blocks of a plan.


def test_blocks_that_overlap_or_leave_gaps_are_found() -> None:
    made = grown("llama", "all")
    name = "layers.0.mlp.down_proj.weight"
    found = made.plan.tensor(name)
    for blocks, expected in (
        (found.blocks[1:], "values in blocks"),
        ((*found.blocks, found.blocks[0]), "expected one block, found two"),
        ((*found.blocks, Block((slice(0, 99), slice(0, 1)), Constant(0.0))), "a region inside of the tensor"),
    ):
        tensors = [replace(t, blocks=blocks) if t.name == name else t for t in made.plan.tensors()]
        (violation,) = check_plan(made.data, tensors)
        assert violation.where == f"model.{name}"
        assert expected in str(violation)


@MODELS
def test_every_block_is_held_against_what_must_be_there(family: str) -> None:
    made = grown(family, "all")
    tried = set()
    rec = Recorded.read(made.data)
    for tensor in made.plan.tensors():
        needed = requirements(rec, tensor.template, dict(tensor.index))
        if all(isinstance(r.must, Free) for use in needed.uses for r in use):
            continue
        for at, block in enumerate(tensor.blocks):
            value = block.value
            if isinstance(value, Affine):
                others: list[Any] = [replace(value, scale=value.scale * Root.sqrt(Fraction(5, 4))), Constant(0.0)]
            elif isinstance(value, Constant):
                fresh = Fill(tensor.name, block.region, "weight")
                others = [Constant(value.value + 1.0), fresh]
            else:
                continue
            tried.add(type(value))
            for other in others[at % 2 :][:1]:
                blocks = (*tensor.blocks[:at], replace(block, value=other), *tensor.blocks[at + 1 :])
                kinds = {v.kind for v in check_tensor(needed, replace(tensor, blocks=blocks))}
                assert kinds == {"block"}, (tensor.name, block, other)
    assert tried == {Affine, Constant}


def test_means_are_taken_over_what_a_layer_norm_averages() -> None:
    """A LayerNorm on keys averages over each head apart, though all heads lie in one dimension."""
    llama = architectures()["llama"]
    norm = replace(rms_norm("k_raw -> k", over="(pair freq)", eps="rms_norm_eps"), centred=True, bias=True)
    key = replace(llama.arrows["layers.{layer}.self_attn.k_proj"], bias=False)
    source, target = parse_arrow("normed -> k_raw:(kv_heads pair freq)")
    family = llama.extend(
        "keys",
        model_types=("keys",),
        arrows={
            "layers.{layer}.self_attn.k_proj": replace(key, source=source, target=target),
            "layers.{layer}.self_attn.k_norm": norm,
        },
    )
    rec = Recorded.read(_record(family, "key"))
    found = requirements(rec, "layers.{layer}.self_attn.k_proj.weight", {"layer": 0})
    means = [r for r in found.uses[0] if isinstance(r.must, MeanOf)]
    assert [spread(r.must.region[0]).tolist() for r in means] == [list(range(8)), list(range(8, 16))]
    assert [spread(r.copies[0][0]).tolist() for r in means] == [[4, 5, 10, 11], [16, 17, 22, 23]]
    assert all(r.must.scale == Root.sqrt(Fraction(3, 2)) for r in means)


def _record(family: Architecture, growth: str) -> dict[str, Any]:
    """Return the record of a growth whose blocks are not looked at."""
    config = {**_config(family, False), "attention_bias": False}
    plan = make_plan(family, from_config(family, config), _request(family, growth))
    return json.loads(plan.to_json())


def test_a_branch_that_is_added_without_a_weight_is_silenced_in_new_layers() -> None:
    llama = architectures()["llama"]
    source, target = parse_arrow("mlp -> branch:stream")
    down = replace(llama.arrows["layers.{layer}.mlp.down_proj"], source=source, target=target)
    family = replace(
        llama.extend("branch", model_types=("branch",), arrows={"layers.{layer}.mlp.down_proj": down}),
        adds=(("branch", "stream"),),
    )
    rec = Recorded.read(_record(family, "layers"))
    new = next(i for i in rec.instances(("layer",)) if rec.is_new(i))
    (use,) = requirements(rec, "layers.{layer}.mlp.down_proj.weight", new).uses
    assert [(type(r.must), float(r.must)) for r in use] == [(Value, 0.0)]


# What is called free is free.


def _fill_at_random(made: Grown, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return the target with other free values, and with noise on copies that leaves their sums."""
    rec = Recorded.read(made.data)
    target = {name: tensor.clone() for name, tensor in made.target.items()}
    for spec, index in rec.specs():
        found = requirements(rec, spec.template, index)
        tensor = target[found.stored]
        for region, _ in found.free_regions():
            where = np.ix_(*map(spread, region))
            tensor[where] = torch.randn(tensor[where].shape, generator=generator, dtype=tensor.dtype)
        for requirement in found.uses[0] if len(found.uses) == 1 else ():
            if len(requirement.copies) > 1:
                first, second = (np.ix_(*map(spread, region)) for region in requirement.copies[:2])
                noise = torch.randn(tensor[first].shape, generator=generator, dtype=tensor.dtype)
                tensor[first] += noise
                tensor[second] -= noise
    return target


CLASSES = {
    "llama": (
        "LlamaForCausalLM",
        {"attention_bias": True, "mlp_bias": True, "head_dim": 8, "num_key_value_heads": 2},
        {
            "hidden_size": 48,
            "intermediate_size": 23,
            "num_attention_heads": 12,
            "num_key_value_heads": 3,
            "head_dim": 16,
        },
    ),
    "llama tied": (
        "LlamaForCausalLM",
        {"tie_word_embeddings": True, "head_dim": 8, "num_key_value_heads": 2},
        {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 12},
    ),
    "qwen3": (
        "Qwen3ForCausalLM",
        {"attention_bias": True, "head_dim": 8, "num_key_value_heads": 2},
        {
            "hidden_size": 48,
            "intermediate_size": 23,
            "num_attention_heads": 12,
            "num_key_value_heads": 3,
            "head_dim": 12,
        },
    ),
    "gpt2": ("GPT2LMHeadModel", {}, {"n_embd": 36, "n_inner": 100, "n_head": 4}),
    "bert": ("BertForMaskedLM", {}, {"hidden_size": 48, "num_attention_heads": 8, "intermediate_size": 23}),
    "bert key": ("BertForMaskedLM", {}, {"hidden_size": 48, "num_attention_heads": 4}),
}


@pytest.mark.parametrize("model", CLASSES)
def test_outputs_do_not_depend_on_what_is_free(model: str) -> None:
    family = model.split()[0]
    class_name, options, request = CLASSES[model]
    names = {"hidden": 24, "mlp": 20, "heads": 4, "layers": 2}
    architecture = architectures()[family]
    sizes = {architecture.roles[role]: size for role, size in names.items()}
    model_class = getattr(transformers, class_name)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = model_class.config_class(vocab_size=50, **sizes, **options, **special)
    generator = torch.Generator().manual_seed(0)
    source = model_class(config).eval().double()
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            gain = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64) + gain)
    state = source.state_dict()
    plain = {**json.loads(source.config.to_json_string(use_diff=False)), "architectures": [class_name]}
    tied = {head for head in architecture.ties if plain.get(str(architecture.tie_field))}
    prefix = f"{architecture.prefix}."
    aliases = {h: stored_name(architecture, prefix, architecture.ties[h]) for h in tied if h in state}
    shapes = {name: (tuple(t.shape), "float64") for name, t in state.items()}
    info = describe(architecture, plain, shapes, aliases=aliases)
    plan = make_plan(architecture, info, {**request, architecture.roles["layers"]: 4}, init="noise")
    assert check(plan) == []
    made = Grown(plan, dict(state), grow_state_dict(plan, state))
    target = _fill_at_random(made, generator)
    assert made.compare(target).ok
    larger = model_class(model_class.config_class.from_dict(dict(plan.target_config))).eval().double()
    missing, unexpected = larger.load_state_dict(target, strict=False)
    assert not unexpected
    assert set(missing) <= set(aliases)
    larger.tie_weights()
    ids = torch.randint(0, 50, (2, 9), generator=generator)
    with torch.no_grad():
        before, after = source(ids).logits, larger(ids).logits
        # Norms and softmax run in float32 in these classes.
        assert (after - before).abs().max() < 2e-5 * before.abs().max()
        # And the random fill was not idle.
        changed = sum(int((target[n] != made.target[n]).sum()) for n in target)
        assert changed > 1000


# Independence.


@pytest.mark.parametrize(
    "module", ["recorded", "regions", "dimensions", "conditions", "config_conditions", "requirements", "constraints"]
)
def test_the_check_imports_neither_planner_nor_executors(module: str) -> None:
    path = Path(growformer.verify.__path__[0]) / f"{module}.py"
    allowed = {"growformer.errors"} | {
        f"growformer.verify.{name}"
        for name in ("recorded", "regions", "dimensions", "conditions", "config_conditions", "requirements")
    }
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.startswith("growformer"):
                assert name in allowed or name.startswith("growformer.architecture."), name


def test_requirements_cover_every_tensor_once() -> None:
    for family in ("llama", "gpt2", "bert"):
        made = grown(family, "all")
        rec = Recorded.read(made.data)
        for spec, index in rec.specs():
            found = requirements(rec, spec.template, index)
            for use in found.uses:
                assert sum(count(region) for r in use for region in r.copies) == made.target[found.stored].numel()
