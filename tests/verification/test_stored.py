"""Windows, dimensions of size one, carried tensors, spaces that occur twice, and tensors stored together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.verification.records import kinds_of, random_source, record, satisfying, shapes
from tests.verification.tiny import CONFIG, STREAM, TINY, wider

from growformer.architecture import Architecture, Packed, convolution, embedding, linear, parameter
from growformer.architecture.packing import packed_shape, pieces
from growformer.architecture.source import specialised
from growformer.verification.conditions import local_conditions
from growformer.verification.constraints import ConstraintsReport, compare_checkpoints
from growformer.verification.held import Held, ShapeError, Shelf, ranges_inside, take
from growformer.verification.recorded import Recorded
from growformer.verification.requirements import Scaled, requirements


def compare(data: dict[str, Any], source: Any, target: Any) -> ConstraintsReport:
    return compare_checkpoints(data, source.__getitem__, target.__getitem__, target_names=target)


def made(data: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    assert local_conditions(data) == []
    source = random_source(data)
    target = satisfying(data, source)
    assert compare(data, source, target).ok, compare(data, source, target)
    return source, target


# Windows and dimensions of size one.

VISION = TINY.extend(
    "vision",
    sizes={"channels": "channels", "patch": "patch", "places": "places"},
    arrows={
        "patches": convolution("channels -> stream", kernel=("patch", "patch")),
        "places": embedding("places -> stream", leading=1, bare=True),
        "token": parameter("-> stream", leading=2),
    },
    fixed={"channels": "no", "places": "no"},
)
VISION_CONFIG = {**CONFIG, "channels": 3, "patch": 2, "places": 4}


def test_convolutions_and_tables_with_leading_dimensions_are_compared() -> None:
    data = record(VISION, VISION_CONFIG, wider(VISION_CONFIG, 9), new=STREAM, epsilons={"eps": "2/3"})
    source, target = made(data)
    assert target["patches.weight"].shape == (9, 3, 2, 2)
    assert torch.equal(target["patches.weight"][:6], source["patches.weight"])
    assert not target["patches.weight"][6:].any()
    assert target["places"].shape == (1, 4, 9)
    assert target["token"].shape == (1, 1, 9)
    for name, at in (("patches.weight", (0, 1, 1, 0)), ("places", (0, 3, 8)), ("token", (0, 0, 2))):
        changed = {**target, name: target[name].clone()}
        changed[name][at] += 1
        assert [v.where for v in compare(data, source, changed).violations] == [name]


def test_a_window_does_not_grow() -> None:
    found = local_conditions(record(VISION, VISION_CONFIG, {**VISION_CONFIG, "patch": 3}))
    assert [str(v) for v in found] == ["patch: expected no change (it is the window of a convolution), found a change"]


# Carried tensors.


def test_carried_tensors_stay_bit_for_bit() -> None:
    family = replace(TINY, carried={r"tower\..*": "another model"})
    stored = {**shapes(family, CONFIG), "tower.0.weight": ((3, 4, 2), "float32"), "tower.0.bias": ((4,), "float32")}
    family = specialised(family, stored)
    data = record(family, CONFIG, wider(CONFIG, 9), new=STREAM, epsilons={"eps": "2/3"}, tensors=stored)
    source, target = made(data)
    assert torch.equal(target["tower.0.weight"], source["tower.0.weight"])
    target["tower.0.weight"][2, 3, 1] += 1e-9
    del target["tower.0.bias"]
    found = compare(data, source, target).violations
    assert {(v.kind, v.where) for v in found} == {("copy", "tower.0.weight"), ("missing", "tower.0.bias")}


# A space that occurs twice.


def test_the_halves_of_a_gated_layer_grow_alike() -> None:
    family = TINY.extend("gated", arrows={"{layer}.up": linear("mlp_normed -> [mlp:mlp mlp:mlp]", bias=True)})
    data = record(family, CONFIG, {**CONFIG, "inner": 9}, new={"mlp": {"mlp": "live"}})
    source, target = made(data)
    for name in ("0.up.weight", "0.up.bias"):
        assert torch.equal(target[name][:7], source[name][:7])
        assert torch.equal(target[name][9:16], source[name][7:])


# Tensors stored together.

PART = "experts.{expert}"
EXPERTS = TINY.extend(
    "experts",
    sizes={"expert": "experts"},
    arrows={
        "{layer}.up": None,
        "{layer}.down": None,
        "{layer}.experts.{expert}.gate": linear("mlp_normed -> mlp", bias=True),
        "{layer}.experts.{expert}.up": linear("mlp_normed -> mlp", bias=True),
        "{layer}.experts.{expert}.down": linear("mlp -> stream"),
    },
    fixed={"expert": "no"},
)
EXPERTS_CONFIG = {**CONFIG, "experts": 3}
BOTH = tuple(f"{{layer}}.experts.{{expert}}.{name}.weight" for name in ("gate", "up"))
BIASES = tuple(f"{{layer}}.experts.{{expert}}.{name}.bias" for name in ("gate", "up"))


def together(**how: bool) -> Architecture:
    return replace(
        EXPERTS,
        packed={
            "{layer}.experts.both": Packed(parts=BOTH, stack="expert", **how),
            "{layer}.experts.both_bias": Packed(parts=BIASES, stack="expert", **how),
            "{layer}.experts.down": Packed(parts=("{layer}.experts.{expert}.down.weight",), stack="expert", **how),
        },
    )


def stored_shapes(family: Architecture, config: dict[str, Any]) -> dict[str, Any]:
    resolved = family.resolve_config(config)
    inside = {part for packed in family.packed.values() for part in packed.parts}
    found = {
        spec.name(index): (family.shape(spec, resolved, index), "float32")
        for spec in family.tensors.values()
        for index in family.instances_of(spec, resolved)
        if spec.template not in inside
    }
    for template, packed in family.packed.items():
        for layer in range(config["layers"]):
            index = {"layer": layer}
            found[template.format(**index)] = (packed_shape(family, packed, resolved, index), "float32")
    return found


GROWN = {**wider(EXPERTS_CONFIG, 9), "inner": 10, "layers": 3}
NEW = {**STREAM, "mlp": {"mlp": "live"}}


@pytest.mark.parametrize("how", [{}, {"transposed": True}, {"interleaved": True, "transposed": True}], ids=str)
def test_declared_tensors_are_read_out_of_stored_ones(how: dict[str, bool]) -> None:
    family = together(**how)
    options: dict[str, Any] = {"new": NEW, "epsilons": {"eps": "2/3"}}
    data = record(family, EXPERTS_CONFIG, GROWN, tensors=stored_shapes(family, EXPERTS_CONFIG), **options)
    source, target = made(data)
    expected = stored_shapes(family, GROWN)
    assert {name: tuple(t.shape) for name, t in target.items()} == {name: s for name, (s, _) in expected.items()}
    # The same growth, every tensor stored by itself.
    apart = record(EXPERTS, EXPERTS_CONFIG, GROWN, **options)
    single = {}
    for config, tensors in ((EXPERTS_CONFIG, source), (GROWN, target)):
        for template, packed in family.packed.items():
            for layer in range(config["layers"]):
                whole = tensors[template.format(layer=layer)]
                for spec, index, piece in pieces(family, packed, family.resolve_config(config), {"layer": layer}):
                    single[spec.name(index), config["layers"]] = take(whole, piece)
    before = {**source, **{name: t for (name, layers), t in single.items() if layers == 2}}
    after = {**target, **{name: t for (name, layers), t in single.items() if layers == 3}}
    packed_names = {template.format(layer=layer) for template in family.packed for layer in range(3)}
    after = {name: tensor for name, tensor in after.items() if name not in packed_names}
    assert compare(apart, before, after).ok
    changed = {**target, "1.experts.both": target["1.experts.both"].clone()}
    spec = family.tensors[BOTH[1]]
    held = Recorded.read(data).target_held(spec, {"layer": 1, "expert": 2})
    part = take(changed[held.stored], held.piece)
    part[3, 2] += 1
    (violation,) = compare(data, source, changed).violations
    assert violation.where == "1.experts.both (its part 1.experts.2.up.weight)"
    assert violation.kind == "copy"
    assert "at [3, 2]" in violation.expected


def test_a_stored_tensor_of_another_shape_is_named() -> None:
    family = together()
    data = record(family, EXPERTS_CONFIG, EXPERTS_CONFIG, tensors=stored_shapes(family, EXPERTS_CONFIG))
    source, target = made(data)
    target["0.experts.both"] = torch.cat([target["0.experts.both"], target["0.experts.both"][:1]])
    found = compare(data, source, target).violations
    assert kinds_of(found) == {"shape"}
    assert str(found[0]) == ("0.experts.both (its part 0.experts.0.gate.weight): expected [3, 14, 6], found [4, 14, 6]")
    del target["0.experts.both"]
    assert kinds_of(compare(data, source, target).violations) == {"missing"}


def test_a_stored_tensor_is_read_once_for_parts_that_follow_each_other() -> None:
    read: list[str] = []

    def tensor(name: str) -> torch.Tensor:
        read.append(name)
        return torch.zeros(2, 4)

    shelf = Shelf(tensor)
    piece = next(iter(pieces(*_one_piece())))[2]
    for _ in range(3):
        shelf.tensor(Held("a", "part", piece, (2, 4)))
    assert read == ["a"]
    with pytest.raises(ShapeError, match=r"the shape \[2, 4\] instead of \[3, 4\]"):
        shelf.tensor(Held("a", "part", piece, (3, 4)))
    assert read == ["a"]


def _one_piece() -> tuple[Any, ...]:
    family = TINY.extend("two", arrows={"a": linear("vocab -> x:mlp"), "b": linear("vocab -> y:mlp")})
    family = replace(family, packed={"ab": Packed(parts=("a.weight", "b.weight"))})
    return family, family.packed["ab"], family.resolve_config({**CONFIG, "inner": 1, "vocab": 4}), {}


def test_ranges_are_those_of_the_part() -> None:
    family = together(interleaved=True, transposed=True)
    resolved = family.resolve_config(EXPERTS_CONFIG)
    _, _, piece = list(pieces(family, family.packed["{layer}.experts.both"], resolved, {"layer": 0}))[3]
    assert ranges_inside([[[0, 2]], [[1, 3]]], piece) == [[[1, 2]], [[1, 3]], [[1, 2], [3, 4]]]
    _, _, piece = list(pieces(together(), together().packed["{layer}.experts.both"], resolved, {"layer": 0}))[3]
    assert ranges_inside([[[0, 2]], [[1, 3]]], piece) == [[[1, 2]], [[7, 9]], [[1, 3]]]
    assert ranges_inside([[[0, 2]]], None) == [[[0, 2]]]


# Names.


def test_tensors_are_named_as_the_source_spells_them() -> None:
    family = replace(TINY, prefix="model", heads=("head",), renames=((r"\.mixer\.", "."),))
    stored = {
        ("head.weight" if name == "head.weight" else f"model.{name}").replace(".up.", ".mixer.up."): entry
        for name, entry in shapes(family, CONFIG).items()
    }
    data = record(family, CONFIG, {**CONFIG, "inner": 9}, new={"mlp": {"mlp": "live"}}, tensors=stored)
    source, target = made(data)
    assert set(target) == set(stored)
    target["model.1.mixer.up.weight"][0, 0] += 1
    del target["model.0.mixer.up.weight"]
    found = compare(data, source, target).violations
    assert {v.where for v in found} == {"model.1.mixer.up.weight", "model.0.mixer.up.weight"}


def test_what_is_found_once_for_like_instances_is_right_for_each() -> None:
    """Sizes that differ per layer are no like instances."""
    family = replace(TINY, sizes={**TINY.sizes, "mlp": "inner[layer]"})
    config = {**CONFIG, "inner": [4, 7]}
    data = record(family, config, {**config, "inner": [6, 7]}, new={"mlp": {"mlp": "live"}})
    made(data)
    rec = Recorded.read(data)
    for layer, count in ((0, 2), (1, 1)):
        (use,) = requirements(rec, "{layer}.up.weight", {"layer": layer}).uses
        assert len(use) == count
        assert isinstance(use[0].must, Scaled)
        assert use[0].must.tensor == f"{layer}.up.weight"
