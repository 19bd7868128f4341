"""Declarations: what is refused, what is derived, and that defaults are those of the classes."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from typing import Any

import pytest

from growformer.architecture.declaration import (
    Alibi,
    Architecture,
    Arrow,
    Attention,
    Coupling,
    LayerKind,
    Multiple,
    Packed,
    Rotary,
    embedding,
    layer_norm,
    linear,
    linear_transposed,
    parameter,
    rms_norm,
    space_of,
    spaces_in,
)
from growformer.architecture.language import Axis, leaves, parse_term
from growformer.architecture.registry import architectures
from growformer.architecture.serialise import architecture_from_json, architecture_to_json
from growformer.errors import ArchitectureError

SIZES = {
    "layer": "num_layers",
    "vocab": "vocab_size",
    "stream": "hidden_size",
    "mlp": "inner_size[layer]",
    "heads": "num_heads",
    "key": "hidden_size / num_heads",
}
ARROWS = {
    "embed": embedding("vocab -> stream"),
    "{layer}.norm": rms_norm("stream -> normed", eps="eps"),
    "{layer}.qkv": linear_transposed("normed -> [q:(heads key) k:(heads key) v:(heads key)]", bias=True),
    "{layer}.out": linear("attended:(heads key) -> stream", bias="out_bias"),
    "{layer}.mlp_norm": layer_norm("stream -> mlp_normed", eps=1e-5),
    "{layer}.up": linear("mlp_normed -> mlp", when="has_mlp"),
    "{layer}.down": linear("mlp -> stream", when="has_mlp"),
    "final_norm": layer_norm("stream -> final", eps="eps", bias=False),
    "bias": parameter("-> vocab"),
    "head": linear("final -> vocab", optional=True),
}
ATTENTION = Attention(query="q", key="k", value="v", output="attended", over=("key",), scale="1 / sqrt(key)")
CONFIG = {
    "num_layers": 2,
    "vocab_size": 11,
    "hidden_size": 6,
    "inner_size": [7, 5],
    "num_heads": 3,
    "out_bias": False,
    "has_mlp": True,
    "eps": 1e-6,
}


def toy(**changes: Any) -> Architecture:
    return Architecture(**{"name": "toy", "sizes": SIZES, "arrows": ARROWS, "attention": (ATTENTION,), **changes})


def toy_with(**arrows: Arrow) -> Architecture:
    return toy(arrows={**ARROWS, **arrows})


# What is derived


def test_spaces_have_axes_and_the_indices_they_are_local_to() -> None:
    spaces = toy().spaces
    assert spaces["stream"].axes == ("stream",)
    assert spaces["stream"].index == ()
    assert spaces["normed"].axes == ("stream",)
    assert spaces["normed"].index == ("layer",)
    assert spaces["attended"].axes == ("heads", "key")
    assert set(spaces) == {
        "vocab", "stream", "normed", "q", "k", "v", "attended", "mlp_normed", "mlp", "final",
    }  # fmt: skip


def test_tensors_are_stored_as_their_kind_says() -> None:
    tensors = toy().tensors
    roles = {
        name: [(dim.role, space_of(dim.term)) for dim in tensors[name].dims] for name in tensors if "qkv" not in name
    }
    assert roles["embed.weight"] == [("read", "vocab"), ("write", "stream")]
    assert roles["{layer}.out.weight"] == [("write", "stream"), ("read", "attended")]
    assert roles["{layer}.out.bias"] == [("write", "stream")]
    assert roles["{layer}.norm.weight"] == [("gain", "normed")]
    assert roles["{layer}.mlp_norm.bias"] == [("offset", "mlp_normed")]
    assert roles["bias"] == [("write", "vocab")]
    assert "final_norm.bias" not in tensors
    assert "{layer}.norm.bias" not in tensors
    fused = tensors["{layer}.qkv.weight"]
    assert [dim.role for dim in fused.dims] == ["read", "write"]
    assert list(spaces_in(fused.dims[1].term)) == ["q", "k", "v"]
    assert tensors["{layer}.qkv.bias"].dims == (fused.dims[1],)
    assert fused.index == ("layer",)
    assert fused.name({"layer": 3}) == "3.qkv.weight"


def test_a_named_space_is_spelled_out() -> None:
    architecture = toy_with(**{"{layer}.gate": linear("attended -> gate:(heads key)")})
    assert str(architecture.tensors["{layer}.gate.weight"].dims[1].term) == "attended:(heads key)"
    assert str(architecture.expand(Axis("normed"))) == "normed:stream"
    assert str(architecture.expand(Axis("mlp"))) == "mlp:mlp"
    assert str(architecture.expand(Axis("-"))) == "-"


def test_sizes_may_depend_on_an_index() -> None:
    architecture = toy()
    config = architecture.resolve_config(CONFIG)
    assert [architecture.size("mlp", config, {"layer": layer}) for layer in (0, 1)] == [7, 5]
    assert architecture.size("key", config) == 2
    assert architecture.size_index("mlp") == ("layer",)
    assert architecture.index_axes == ("layer",)
    assert list(architecture.instances(("layer",), config)) == [{"layer": 0}, {"layer": 1}]
    assert list(architecture.instances((), config)) == [{}]
    dim = architecture.tensors["{layer}.up.weight"].dims[0]
    assert leaves(dim.term, lambda axis: architecture.size(axis, config, {"layer": 1}))[0] == 5


def test_nested_indices() -> None:
    architecture = Architecture(
        name="nested",
        sizes={"layer": "2", "head": "num_heads[layer]", "stream": "hidden_size", "key": "key[layer][head]"},
        arrows={"{layer}.{head}.query": linear("stream -> q:key"), "embed": parameter("-> stream")},
    )
    config = {"num_heads": [1, 2], "hidden_size": 3, "key": [[4], [5, 6]]}
    found = list(architecture.instances(("layer", "head"), config))
    assert found == [{"layer": 0, "head": 0}, {"layer": 1, "head": 0}, {"layer": 1, "head": 1}]
    assert [architecture.size("key", config, index) for index in found] == [4, 5, 6]
    assert architecture.spaces["q"].index == ("layer", "head")


def test_existence_follows_the_config() -> None:
    architecture = toy()
    bias, up = architecture.tensors["{layer}.out.bias"], architecture.tensors["{layer}.up.weight"]
    assert not architecture.exists(bias, CONFIG)
    assert architecture.exists(bias, {**CONFIG, "out_bias": True})
    assert architecture.exists(up, CONFIG)
    assert not architecture.exists(up, {**CONFIG, "has_mlp": False})
    assert architecture.exists(architecture.tensors["{layer}.qkv.bias"], CONFIG)


def test_size_fields_follow_defaults_and_leave_out_what_is_fixed() -> None:
    architecture = toy(
        fixed={"vocab": "why"}, defaults={"num_heads": "hidden_size / head_dim"}, sizes={**SIZES, "labels": "labels"},
        inferred=("labels",),
    )  # fmt: skip
    assert architecture.size_fields() == ("num_layers", "hidden_size", "inner_size", "num_heads", "head_dim")


def test_resolve_config_fills_in_defaults_in_order() -> None:
    architecture = toy(
        defaults={"head_dim": "hidden_size / num_heads", "half": "head_dim / 4", "inner_size": [4], "flag": False},
        inferred=("labels",),
    )
    config = {"hidden_size": 6, "num_heads": 3, "inner_size": None}
    resolved = architecture.resolve_config(config)
    assert resolved["head_dim"] == 2
    assert isinstance(resolved["head_dim"], int)
    assert resolved["half"] == 0.5
    assert resolved["inner_size"] == [4]
    assert resolved["flag"] is False
    assert resolved["labels"] == 1
    assert config == {"hidden_size": 6, "num_heads": 3, "inner_size": None}
    assert architecture.resolve_config({**config, "head_dim": 5})["head_dim"] == 5


# What is refused


def refused(message: str, **changes: Any) -> None:
    with pytest.raises(ArchitectureError, match=re.escape(message)):
        toy(**changes)


@pytest.mark.parametrize(
    ("arrow", "message"),
    [
        (linear("normed -> x:(heads kye)"), "toy: the term 'x:(heads kye)' names 'kye', which is not declared"),
        (linear("normed -> x:kye"), "toy: the term 'x:kye' names 'kye', which is not declared; did you mean 'key'?"),
        (linear("normed -> x:normed"), "toy: the term 'x:normed' names 'normed', which is not declared"),
        (linear("normedd -> mlp"), "toy: {layer}.new names 'normedd', which is not declared; did you mean 'normed'?"),
        (linear("normed -> (heads key)"), "the term '(heads key)' names no space; write name:(heads key)"),
        (linear("normed -> q:(heads mlp)"), "toy: {layer}.new gives the space 'q' the axes ('heads', 'mlp'); before"),
        (linear("normed -> q:heads"), "toy: {layer}.new gives the space 'q' the axes ('heads',); before they were"),
        (rms_norm("nowhere -> nothing", eps=0.1), "toy: nothing spells out the space read by the norm nowhere ->"),
        (rms_norm("mlp -> normed", eps=0.1), "toy: the norm mlp -> normed gives the space 'normed' the axes ('mlp',)"),
        (rms_norm("[a:mlp b:mlp] -> normed", eps=0.1), "expected one space in '[a:mlp b:mlp]', found ['a', 'b']"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_wrong_arrows_are_refused(arrow: Arrow, message: str) -> None:
    refused(message, arrows={**ARROWS, "{layer}.new": arrow})


def test_a_norm_over_an_unknown_axis_is_refused() -> None:
    norm = rms_norm("q -> q_normed", eps="eps", over="kye")
    refused("unknown axis or space 'kye'; did you mean 'key'?", arrows={**ARROWS, "{layer}.q_norm": norm})


def test_an_unknown_index_is_refused() -> None:
    refused(
        "toy: the name '{layr}.new.weight' names 'layr', which is not declared; did you mean 'layer'?",
        arrows={**ARROWS, "{layr}.new": linear("final -> vocab")},
    )
    refused("toy: the size of 'mlp' names 'layr', which is not", sizes={**SIZES, "mlp": "inner_size[layr]"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": (replace(ATTENTION, query="qq"),)}, "toy: attention names 'qq', which is not declared"),
        ({"attention": (replace(ATTENTION, over=("kye",)),)}, "toy: attention over names 'kye', which is not declared"),
        ({"rotary": (Rotary(frequency="freq"),)}, "toy: rotary names 'freq', which is not declared"),
        ({"adds": (("stream", "strem"),)}, "toy: adds names 'strem', which is not declared; did you mean 'stream'?"),
        ({"fixed": {"vocabulary": "why"}}, "toy: fixed names 'vocabulary', which is not declared; did you mean"),
        ({"ties": {"head.weight": "embd.weight"}}, "toy: ties names 'embd.weight', which is not declared; did"),
        ({"sizes": {**SIZES, "mlp": "inner_size +"}}, "in the expression 'inner_size +': not an expression"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_unknown_names_are_refused(changes: dict[str, Any], message: str) -> None:
    refused(message, **changes)


def test_a_tensor_has_one_declaration() -> None:
    refused(
        "toy: '{layer}.up' and '{layer}.up.bias' both declare the tensor '{layer}.up.bias'",
        arrows={
            **ARROWS, "{layer}.up": linear("mlp_normed -> mlp", bias=True), "{layer}.up.bias": parameter("-> mlp"),
        },
    )  # fmt: skip


def test_attention_does_not_sum_over_what_alibi_tells_apart() -> None:
    alibi = (Alibi(heads="heads", slopes="1 / 2"),)
    toy(alibi=alibi)
    refused(
        "toy: attention sums over 'heads', each of which has scores with biases of its own",
        attention=(replace(ATTENTION, over=("heads", "key")),),
        alibi=alibi,
    )


def test_experts_that_are_stored_as_one_read_one_vector() -> None:
    sizes = {**SIZES, "expert": "num_experts"}

    def pieces(source: str) -> dict[str, Arrow]:
        return {
            **ARROWS,
            "{layer}.gates.{expert}": linear("mlp_normed -> gated:mlp"),
            "{layer}.ups.{expert}": linear(f"{source} -> raised:mlp"),
        }

    parts = ("{layer}.gates.{expert}.weight", "{layer}.ups.{expert}.weight")
    packed = {"{layer}.gates_and_ups": Packed(parts=parts, stack="expert")}
    toy(sizes=sizes, arrows=pieces("mlp_normed"), packed=packed)
    refused(
        "toy: packed '{layer}.gates_and_ups' is one matrix for each expert, which reads one vector; its parts read "
        "mlp_normed ({layer}.gates.{expert}.weight), normed ({layer}.ups.{expert}.weight)",
        sizes=sizes, arrows=pieces("normed"), packed=packed,
    )  # fmt: skip


def test_a_parameter_reads_nothing_and_a_matrix_reads_something() -> None:
    with pytest.raises(ArchitectureError, match="a parameter arrow must not read a space: 'a -> b'"):
        parameter("a -> b")
    with pytest.raises(ArchitectureError, match="a linear arrow must read a space: '-> b'"):
        linear("-> b")


# Variants of a family


def test_extend_merges_tables_and_replaces_the_rest() -> None:
    base = toy(model_types=("toy",), defaults={"eps": 1e-6, "out_bias": False}, fixed={"vocab": "why"})
    gate = linear("mlp_normed -> mlp")
    other = base.extend(
        "other",
        model_types=("other", "another"),
        arrows={"{layer}.gate": gate, "bias": None, "head": linear("final -> vocab", bias=True)},
        defaults={"eps": 1e-5, "num_layers": None},
    )
    assert other.name == "other"
    assert other.model_types == ("other", "another")
    assert set(other.arrows) == set(base.arrows) - {"bias"} | {"{layer}.gate"}
    assert other.arrows["{layer}.gate"] is gate
    assert other.arrows["head"].bias is True
    assert other.defaults == {"eps": 1e-5, "out_bias": False, "num_layers": None}
    assert other.fixed == base.fixed
    assert base.defaults == {"eps": 1e-6, "out_bias": False}
    assert "{layer}.gate" not in base.arrows
    assert "{layer}.gate.weight" in other.tensors  # nothing is cached from the base


# As JSON


def as_json(architecture: Architecture) -> Architecture:
    return architecture_from_json(json.loads(json.dumps(architecture_to_json(architecture))))


@pytest.mark.parametrize("family", architectures())
def test_every_family_survives_json(family: str) -> None:
    architecture = architectures()[family]
    found = as_json(architecture)
    assert found == architecture
    assert found.tensors == architecture.tensors
    for name, arrow in architecture.arrows.items():
        assert hash(found.arrows[name]) == hash(arrow)


def test_every_field_survives_json() -> None:
    norm = rms_norm("q -> q_normed", eps="eps", over="key", offset=1, when="has_norm")
    architecture = toy(
        arrows={**ARROWS, "{layer}.q_norm": norm},
        model_types=("toy", "toys"),
        adds=(("stream", "stream"),),
        activated=("stream",),
        outputs=("stream",),
        rotary=(Rotary(frequency="key", parameters="rope"),),
        ties={"head.weight": "embed.weight"},
        tie_field="tied",
        defaults={"eps": 1e-6, "list": [1, 2]},
        constants={"flag": (False, "why")},
        inferred=("labels",),
        coupled=(Coupling(field="num_heads", keeps="key", formula="hidden_size / keep", because="so"),),
        multiples=(Multiple(field="hidden_size", of="num_heads", because="so"),),
        fixed={"vocab": "why"},
        layer_lists=("layer_types",),
        layer_rules={"layer_types": "'b' if sliding and layer >= start else 'a'"},
        kinds=(LayerKind(when="layer >= start", settle={"start": "num_others"}, because="so"),),
        nested=("text_config",),
        computed={"{layer}.q_norm": "why"},
        layer_numbers={"out_indices": "{}"},
        overriding={"text_config_dict": "text_config"},
        variant="not sliding",
        alibi=(Alibi(heads="heads", slopes="bloom"),),
        shared={"encoder.embed.weight": "embed.weight"},
        follows={"width": "hidden_size"},
        active={"layer": "1"},
        beyond={"layer": ("num_more", "why")},
        carried={"stem": "why"},
        packed={"all": Packed(parts=("embed.weight",), transposed=True)},
        aliases={"intermediate_size": "inner_size"},
        roles={"hidden": "hidden_size"},
        prefix="model",
        heads=("head",),
        renames=(("a", "b"),),
        ignored={"x": "why"},
        std="std",
    )
    defaults = toy()
    same = [f.name for f in fields(Architecture) if getattr(architecture, f.name) == getattr(defaults, f.name)]
    assert same == ["name", "sizes", "attention"]  # every other field is tried here
    assert as_json(architecture) == architecture
    assert as_json(architecture).arrows["{layer}.q_norm"].over == parse_term("key")
