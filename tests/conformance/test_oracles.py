"""Every declared family agrees with its classes, and no wrong declaration does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.conformance.models import CASES, Case, cases_of
from tests.conformance.mutations import Mutation, mutations

from growformer.architecture.declaration import Architecture
from growformer.architecture.registry import architectures
from growformer.errors import ArchitectureError
from growformer.reference import ReferenceConfig, ReferenceTransformer, reference_architecture
from growformer.verification.oracles import check_declaration, check_equivariance, check_shapes, iterate_problems

#: Kind of mistake → why neither oracle can see it. Renaming a space everywhere is no mistake, and not tried.
INVISIBLE = {
    "scale": "no weight shows by what a class multiplies its scores, nor how that depends on a size; outputs of grown "
    "models do",
}


def problems(case: Case, architecture: Architecture | None = None) -> list[str]:
    declared = architecture or case.architecture
    return check_declaration(declared, case.config, case.make_model, case.make_inputs, **case.options)


# Declarations


def test_every_family_and_model_type_has_a_case() -> None:
    assert {case.family for case in CASES} == set(architectures())
    declared = {model_type for architecture in architectures().values() for model_type in architecture.model_types}
    assert {case.config["model_type"] for case in CASES} == declared


@pytest.mark.parametrize("family", architectures())
def test_every_arrow_is_in_a_case(family: str) -> None:
    found = frozenset[str]().union(*(case.arrows for case in cases_of(family)))
    assert set(architectures()[family].arrows) == found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_declaration_holds(case: Case) -> None:
    assert problems(case) == []


def test_token_classifier_reads_the_stream_under_the_name_of_another() -> None:
    """One name, two meanings: declared for sequence classifiers. Both spaces share an axis, so both grow alike.

    That a token classifier is preserved is measured in tests/integration; here, that the oracle sees the difference.
    """
    case = next(case for case in cases_of("bert") if case.name == "sequence-classes")
    found = problems(replace(case, model="BertForTokenClassification"))
    assert any("classifier reads pooled, which nothing writes" in problem for problem in found)
    assert all("pooled" in problem or "stream" in problem for problem in found)


# Wrong declarations


def is_seen(mutation: Mutation, family: str) -> bool:
    try:
        architecture = mutation.make()
    except ArchitectureError:
        return True
    for case in cases_of(family):
        if mutation.arrow is None or mutation.arrow in case.arrows:
            found = iterate_problems(architecture, case.config, case.make_model, case.make_inputs, **case.options)
            if next(found, None) is not None:
                return True
    return False


def mistakes(family: str) -> list[Mutation]:
    architecture = architectures()[family]
    config = {**dict.fromkeys(architecture.inferred, 7), **cases_of(family)[0].config}
    return list(mutations(architecture, architecture.resolve_config(config)))


@pytest.mark.parametrize("family", architectures())
def test_mistakes_are_seen(family: str) -> None:
    # Another eighth of them for each family; test_all_mistakes_are_seen has them all.
    start = list(architectures()).index(family)
    tried = [m for m in mistakes(family)[start % 8 :: 8] if m.kind not in INVISIBLE]
    assert len(tried) > 10
    assert [str(m) for m in tried if not is_seen(m, family)] == []


@pytest.mark.slow
@pytest.mark.parametrize("family", architectures())
def test_all_mistakes_are_seen(family: str) -> None:
    unseen = [m for m in mistakes(family) if not is_seen(m, family)]
    assert [str(m) for m in unseen if m.kind not in INVISIBLE] == []
    assert {m.kind for m in unseen} == set(INVISIBLE)


@pytest.mark.parametrize("family", architectures())
def test_mistakes_are_of_every_kind(family: str) -> None:
    kinds = {m.kind for m in mistakes(family)}
    expected = {"order", "space", "axis", "norm", "bias", "kind", "missing", "size", "attention", "tie", "scale"}
    assert expected <= kinds


# An own architecture

REFERENCE = ReferenceConfig(
    hidden_size=11,
    mlp=(13, 17),
    key=((3, 5), (7, 2, 6)),
    value=((5, 4), (3, 8, 7)),
    input_size=23,
    output_size=19,
    max_positions=31,
    norm_eps=0.1,
)


def make_reference(config: Mapping[str, Any]) -> ReferenceTransformer:
    return ReferenceTransformer(ReferenceConfig.from_dict(config)).eval()


def make_tokens(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    ids = torch.randint(config["input_size"], (2, 9), generator=torch.Generator().manual_seed(0))
    return {"inputs": ids}


REFERENCE_OPTIONS: dict[str, Any] = {
    "lookups": {"input": "inputs"},
    "variants": {  # its counts follow from its lists
        "num_hidden_layers": {
            "num_hidden_layers": 3,
            "num_heads": [2, 3, 1],
            "mlp": [13, 17, 9],
            "key": [[3, 5], [7, 2, 6], [4]],
            "value": [[5, 4], [3, 8, 7], [6]],
        },
        "num_heads": {
            "num_heads": [2, 4],
            "key": [[3, 5], [7, 2, 6, 9]],
            "value": [[5, 4], [3, 8, 7, 2]],
        },
    },
}


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"final_norm": True, "causal": True},
        {"post_branch_norm": True},
        {"post_branch_norm": True, "pre_branch_norm": False},
    ],
    ids=str,
)
def test_own_architecture(flags: dict[str, Any]) -> None:
    config = replace(REFERENCE, **flags).to_dict()
    found = check_declaration(reference_architecture(config), config, make_reference, make_tokens, **REFERENCE_OPTIONS)
    assert found == []


# What the oracles say


LLAMA = cases_of("llama")[0]


def with_arrow(name: str, **changes: Any) -> Architecture:
    architecture = LLAMA.architecture
    return replace(architecture, arrows={**architecture.arrows, name: replace(architecture.arrows[name], **changes)})


def test_shapes_name_the_changed_field() -> None:
    architecture = replace(LLAMA.architecture, sizes={**LLAMA.architecture.sizes, "mlp": "hidden_size + 13"})
    found = check_shapes(architecture, LLAMA.config, LLAMA.make_model)
    assert any(p.startswith("shapes with hidden_size = 36 instead of 24: ") for p in found)
    assert any("model.layers.0.mlp.up_proj.weight has shape [37, 36]; the config predicts [49, 36]" in p for p in found)
    assert any(p.startswith("shapes with intermediate_size = 38 instead of 37: ") for p in found)


def test_shapes_name_a_missing_bias_and_a_wrong_flag() -> None:
    up = "layers.{layer}.mlp.up_proj"
    found = check_shapes(with_arrow("lm_head", bias=True), LLAMA.config, LLAMA.make_model)
    assert found == ["shapes: the tensors do not fit the config (llama):\n  missing lm_head.bias"]
    found = check_shapes(with_arrow(up, bias=True), LLAMA.config, LLAMA.make_model)
    assert [p.split(":")[0] for p in found] == ["shapes with mlp_bias = False"]


def test_shapes_name_a_field_that_cannot_vary() -> None:
    found = check_shapes(
        LLAMA.architecture,
        {**LLAMA.config, "num_attention_heads": 2, "num_key_value_heads": 1},
        LLAMA.make_model,
        variants={"num_key_value_heads": {"num_key_value_heads": 3}},
    )
    assert found == [
        "shapes: no legal value of num_key_value_heads other than 1 is found; num_key_value_heads = 3: the size "
        "'num_attention_heads / num_key_value_heads' is not a whole number (2/3) with num_attention_heads = 2, "
        "num_key_value_heads = 3"
    ]


def test_equivariance_names_axis_spaces_and_tensor() -> None:
    q_proj = LLAMA.architecture.arrows["layers.{layer}.self_attn.q_proj"]
    parts = q_proj.target.parts  # type: ignore[union-attr]
    wrong = with_arrow(
        "layers.{layer}.self_attn.q_proj", target=replace(q_proj.target, parts=(parts[1], parts[0], *parts[2:]))
    )
    assert check_shapes(wrong, LLAMA.config, LLAMA.make_model) == []
    found = check_equivariance(wrong, LLAMA.config, LLAMA.make_model, LLAMA.make_inputs)
    assert [p.rsplit(" by ", 1)[0] for p in found] == [
        "equivariance: permuting group of attended and q in every tensor that carries it: the outputs must not change, "
        "and they do,",
        "equivariance: permuting kv_heads of attended, k, q and v in every tensor that carries it: the outputs must "
        "not change, and they do,",
    ]


def test_equivariance_names_a_parameter_that_is_not_used() -> None:
    case = next(case for case in cases_of("bert") if case.name == "untied")
    found = problems(replace(case, unused=()))
    assert (
        "equivariance: permuting vocab of vocab in cls.predictions.bias alone: the outputs must change, and they do "
        "not (0.0e+00 of the largest)" in found
    )


def test_a_norm_of_another_form_is_named() -> None:
    wrong = with_arrow("norm", centred=True)
    found = check_equivariance(wrong, LLAMA.config, LLAMA.make_model, LLAMA.make_inputs)
    assert any("model.norm is no LayerNorm with epsilon 0.1: it differs by" in p for p in found)
    wrong = with_arrow("norm", eps=0.1)
    found = check_equivariance(wrong, LLAMA.config, LLAMA.make_model, LLAMA.make_inputs)
    assert [p.rsplit(" by ", 1)[0] for p in found] == [
        "equivariance: with every epsilon of the config times 4, model.norm is no RMSNorm with epsilon 0.1: it differs"
    ]


def test_contradictions_are_named() -> None:
    wrong = replace(LLAMA.architecture, attention=(replace(LLAMA.architecture.attention[0], over=("pair",)),))
    found = check_equivariance(wrong, LLAMA.config, LLAMA.make_model, LLAMA.make_inputs)
    assert "equivariance: attention does not sum over freq of q and k, and attended lacks it" in found


def test_the_model_stays_as_it_is() -> None:
    model = LLAMA.make_model(LLAMA.config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_equivariance(LLAMA.architecture, LLAMA.config, LLAMA.make_model, LLAMA.make_inputs)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
