"""Tensors that only some layers have, kinds of layers, routers, and fields of configs inside of configs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.verification.records import random_source, record, satisfying
from tests.verification.tiny import CONFIG, TINY

from growformer.architecture import LayerKind, linear
from growformer.verification.conditions import local_conditions
from growformer.verification.constraints import compare_checkpoints
from growformer.verification.recorded import Recorded

SPARSE = "layer >= num_dense"
MIXED = TINY.extend(
    "mixed",
    sizes={"expert": "experts"},
    arrows={
        "{layer}.up": linear("mlp_normed -> mlp", when=f"not ({SPARSE})"),
        "{layer}.down": linear("mlp -> stream", when=f"not ({SPARSE})"),
        "{layer}.router": linear("mlp_normed -> router:expert", when=SPARSE),
        "{layer}.{expert}.up": linear("mlp_normed -> expert_mlp:mlp", when=SPARSE),
        "{layer}.{expert}.down": linear("expert_mlp:mlp -> stream", when=SPARSE),
    },
    kinds=(LayerKind(when=SPARSE, settle={"num_dense": "num_others"}, because="the first layers have no experts"),),
)
MIXED_CONFIG = {**CONFIG, "layers": 3, "experts": 2, "num_dense": 1}


def said(data: dict[str, Any]) -> list[str]:
    return [str(v) for v in local_conditions(data)]


def test_layers_have_the_tensors_of_their_kind() -> None:
    target = {**MIXED_CONFIG, "layers": 5, "num_dense": 2}
    data = record(MIXED, MIXED_CONFIG, target, positions={"layer": [0, -1, 1, 2, -1]})
    assert said(data) == []
    rec = Recorded.read(data)
    names = {spec.name(index) for spec, index in rec.specs()}
    assert {"0.up.weight", "1.up.weight", "2.0.up.weight", "4.1.down.weight", "4.router.weight"} <= names
    assert not {"2.up.weight", "1.0.up.weight", "0.router.weight"} & names
    source = random_source(data)
    grown = satisfying(data, source)
    report = compare_checkpoints(data, source.__getitem__, grown.__getitem__, target_names=grown)
    assert report.ok, report
    assert report.tensors == len(grown) == len(names)


def test_a_source_layer_keeps_its_kind() -> None:
    target = {**MIXED_CONFIG, "layers": 4}
    found = said(record(MIXED, MIXED_CONFIG, target, positions={"layer": [0, 1, -1, 2]}))
    assert found == []
    found = said(record(MIXED, MIXED_CONFIG, target, positions={"layer": [-1, 0, 1, 2]}))
    assert (
        "layer >= num_dense [layer 1]: expected False, as of source layer 0 (the first layers have no experts), "
        "found True" in found
    )
    assert "1.up.weight: expected one, as in what it comes from, found none" in found
    undeclared = replace(MIXED, kinds=())
    found = said(record(undeclared, MIXED_CONFIG, {**target, "num_dense": 1}, positions={"layer": [-1, 0, 1, 2]}))
    assert "1.up.weight: expected one, as in what it comes from, found none" in found


def test_only_settled_fields_may_follow_kinds() -> None:
    target = {**MIXED_CONFIG, "layers": 4, "num_dense": 2}
    positions = {"layer": [-1, 0, 1, 2]}
    assert said(record(MIXED, MIXED_CONFIG, target, positions=positions)) == []
    unsettled = replace(MIXED, kinds=(LayerKind(when=SPARSE, because="the first layers have no experts"),))
    assert said(record(unsettled, MIXED_CONFIG, target, positions=positions)) == ["num_dense: expected 1, found 2"]


def test_a_kind_that_the_source_lacks_is_named() -> None:
    config = {**MIXED_CONFIG, "num_dense": 3}
    found = said(record(MIXED, config, {**config, "layers": 4}))
    assert "{layer}.router.weight: expected none, as in the source, found one in the target" in found


def test_a_router_cannot_grow() -> None:
    target = {**MIXED_CONFIG, "experts": 3}
    for word in ("live", "silent", "copy"):
        found = said(record(MIXED, MIXED_CONFIG, target, new={"router": {"expert": word}}))
        assert any(v.startswith("router along expert: expected no growth") for v in found), word


# Nested configs.

NESTED = replace(
    TINY,
    sizes={axis: f"text.{field}" for axis, field in TINY.sizes.items()},
    arrows={n: replace(a, eps="text.eps") if a.kind == "norm" else a for n, a in TINY.arrows.items()},
    nested=("text",),
)


def test_fields_of_nested_configs_are_compared_one_by_one() -> None:
    inside = {**CONFIG, "activation": "gelu", "attention_dropout": 0.0, "dtype": "float32"}
    config = {"text": inside, "vision": {"hidden": 4}}
    target = {"text": {**inside, "inner": 9}, "vision": {"hidden": 4}}
    new = {"mlp": {"mlp": "live"}}
    assert said(record(NESTED, config, target, new=new)) == []
    target["text"] |= {"attention_dropout": 0.1, "dtype": "bfloat16", "activation": "relu"}
    target["vision"] = {"hidden": 5}
    assert said(record(NESTED, config, target, new=new)) == [
        "text.activation: expected 'gelu', found 'relu'",
        "vision: expected {'hidden': 4}, found {'hidden': 5}",
    ]
