"""What the oracles say of wrong declarations, and that they take an own architecture; the families are tested apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.families.case import Case, all_cases
from tests.families.checks import check_oracles

from growformer.architecture.declaration import Architecture, linear
from growformer.architecture.language import parse_term
from growformer.reference import ReferenceConfig, ReferenceTransformer, reference_architecture
from growformer.verification.oracles import check_declaration, check_equivariance, check_shapes

CASES = {str(case): case for case in all_cases()}

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


LLAMA = Case(
    model_type="llama",
    model="LlamaForCausalLM",
    config={
        "vocab_size": 53, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 12,
        "num_key_value_heads": 3, "head_dim": 14, "rms_norm_eps": 0.1, "tie_word_embeddings": False,
        "attention_bias": True, "mlp_bias": True,
    },
)  # fmt: skip


def with_arrow(name: str, **changes: Any) -> Architecture:
    architecture = LLAMA.architecture
    return replace(architecture, arrows={**architecture.arrows, name: replace(architecture.arrows[name], **changes)})


def test_shapes_name_the_changed_field() -> None:
    architecture = replace(LLAMA.architecture, sizes={**LLAMA.architecture.sizes, "mlp": "hidden_size + 13"})
    found = check_shapes(architecture, LLAMA.oracle_config, LLAMA.make_model)
    assert any(p.startswith("shapes with hidden_size = 36 instead of 24: ") for p in found)
    assert any("model.layers.0.mlp.up_proj.weight has shape [37, 36]; the config predicts [49, 36]" in p for p in found)
    assert any(p.startswith("shapes with intermediate_size = 38 instead of 37: ") for p in found)


def test_shapes_name_a_missing_bias_and_a_wrong_flag() -> None:
    up = "layers.{layer}.mlp.up_proj"
    found = check_shapes(with_arrow("lm_head", bias=True), LLAMA.oracle_config, LLAMA.make_model)
    assert found == ["shapes: the tensors do not fit the config (llama):\n  missing lm_head.bias"]
    found = check_shapes(with_arrow(up, bias=True), LLAMA.oracle_config, LLAMA.make_model)
    assert [p.split(":")[0] for p in found] == ["shapes with mlp_bias = False"]


def test_shapes_name_a_field_that_cannot_vary() -> None:
    found = check_shapes(
        LLAMA.architecture,
        {**LLAMA.oracle_config, "num_attention_heads": 2, "num_key_value_heads": 1},
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
    assert check_shapes(wrong, LLAMA.oracle_config, LLAMA.make_model) == []
    found = check_equivariance(wrong, LLAMA.oracle_config, LLAMA.make_model, LLAMA.oracle_inputs)
    assert [p.rsplit(" by ", 1)[0] for p in found] == [
        "equivariance: permuting group of attended and q in every tensor that carries it: the outputs must not change, "
        "and they do,",
        "equivariance: permuting kv_heads of attended, k, q and v in every tensor that carries it: the outputs must "
        "not change, and they do,",
    ]


def test_equivariance_names_a_parameter_that_is_not_used() -> None:
    found = check_oracles(replace(CASES["bert-untied"], unused=()))
    assert (
        "equivariance: permuting vocab of vocab in cls.predictions.bias alone: the outputs must change, and they do "
        "not (0.0e+00 of the largest)" in found
    )


def test_a_norm_of_another_form_is_named() -> None:
    wrong = with_arrow("norm", centred=True)
    found = check_equivariance(wrong, LLAMA.oracle_config, LLAMA.make_model, LLAMA.oracle_inputs)
    assert any("model.norm is no LayerNorm with epsilon 0.1: it differs by" in p for p in found)
    wrong = with_arrow("norm", eps=0.1)
    found = check_equivariance(wrong, LLAMA.oracle_config, LLAMA.make_model, LLAMA.oracle_inputs)
    assert [p.rsplit(" by ", 1)[0] for p in found] == [
        "equivariance: with every epsilon of the config times 4, model.norm is no RMSNorm with epsilon 0.1: it differs"
    ]


def test_contradictions_are_named() -> None:
    wrong = replace(LLAMA.architecture, attention=(replace(LLAMA.architecture.attention[0], over=("pair",)),))
    found = check_equivariance(wrong, LLAMA.oracle_config, LLAMA.make_model, LLAMA.oracle_inputs)
    assert "equivariance: attention does not sum over freq of q and k, and attended lacks it" in found


def test_the_model_stays_as_it_is() -> None:
    model = LLAMA.make_model(LLAMA.oracle_config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_equivariance(LLAMA.architecture, LLAMA.oracle_config, LLAMA.make_model, LLAMA.oracle_inputs)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


# What follows a change through a model


@pytest.mark.parametrize(
    ("name", "side", "space", "said"),
    [
        (
            "encoder.layers.{layer}.layer_norm2",
            "source",
            "embedded",
            "encoder.layers.0.self_attn.out_proj writes stream, but encoder.layers.{layer}.layer_norm2, which reads "
            "embedded, notices a change of it",
        ),
        (
            "embeddings.class_embedding",
            "target",
            "stream",
            "embeddings.class_embedding writes stream, but pre_layrnorm, which reads embedded, notices a change of it",
        ),
    ],
)
def test_a_space_that_a_norm_joins_with_the_right_one_is_named(name: str, side: str, space: str, said: str) -> None:
    case = CASES["clip_vision_model-CLIPVisionModel"]
    arrow = case.architecture.arrows[name]
    named = parse_term(f"{space}:stream" if side == "target" and name.startswith("emb") else space)
    changed: dict[str, Any] = {side: named}
    wrong = replace(case.architecture, arrows={**case.architecture.arrows, name: replace(arrow, **changed)})
    found = check_equivariance(
        wrong, case.oracle_config, case.make_model, case.oracle_inputs, lookups={}, ordered=("channels", "positions")
    )
    assert f"equivariance: {said}" in found


def test_a_space_that_is_written_and_never_read_is_named() -> None:
    case = CASES["dinov3_vit-DINOv3ViTModel"]
    arrow = replace(case.architecture.arrows["norm"], target=parse_term("mlp_branch"))
    wrong = replace(case.architecture, arrows={**case.architecture.arrows, "norm": arrow})
    options = {k: v for k, v in case.options.items() if k != "variants"}
    found = check_equivariance(wrong, case.oracle_config, case.make_model, case.oracle_inputs, **options)
    assert "equivariance: norm writes mlp_branch, but nothing that reads this notices a change of it" in found


def test_another_space_that_a_weight_enters_is_named() -> None:
    case = CASES["mt5-MT5ForConditionalGeneration"]
    name = "encoder.block.{encoder_layer}.layer.0.SelfAttention.o"
    arrow = replace(case.architecture.arrows[name], target=parse_term("embedded:stream"))
    wrong = replace(case.architecture, arrows={**case.architecture.arrows, name: arrow})
    options = {k: v for k, v in case.options.items() if k != "variants"}
    found = check_equivariance(wrong, case.oracle_config, case.make_model, case.oracle_inputs, **options)
    assert found == [
        "equivariance: encoder.block.0.layer.0.SelfAttention.o writes embedded, which enters decoder_stream, but "
        "nothing that reads decoder_stream notices a change of it"
    ]


def test_what_a_layer_scale_multiplies_is_named() -> None:
    case = CASES["beit-BeitModel"]
    name = "embeddings.mask_token"
    arrow = replace(case.architecture.arrows[name], target=parse_term("mlp_branch"))
    wrong = replace(case.architecture, arrows={**case.architecture.arrows, name: arrow})
    options = {k: v for k, v in case.options.items() if k != "variants"}
    found = check_equivariance(wrong, case.oracle_config, case.make_model, case.oracle_inputs, **options)
    assert any(p.startswith("equivariance: scaling what is written to mlp_branch: the outputs must not") for p in found)


def test_what_packed_experts_read_is_named() -> None:
    case = CASES["mixtral-MixtralForCausalLM"]
    arrows = dict(case.architecture.arrows)
    for part in ("gate", "up"):
        arrows[f"layers.{{layer}}.mlp.experts.{{expert}}.{part}_proj"] = linear("normed -> expert_mlp")
    found = equivariance(case, replace(case.architecture, arrows=arrows))
    assert any(
        p.startswith(
            "equivariance: layers.0.post_attention_layernorm writes mlp_normed, but layers.{layer}.mlp.experts"
        )
        and p.endswith("which reads normed, notices a change of it")
        for p in found
    )


def test_what_a_norm_without_gain_writes_is_named() -> None:
    case = CASES["nanochat-NanoChatForCausalLM"]
    name = "layers.{layer}.self_attn.q_proj"
    arrow = replace(case.architecture.arrows[name], source=parse_term("mlp_normed"))
    found = equivariance(case, replace(case.architecture, arrows={**case.architecture.arrows, name: arrow}))
    assert (
        "equivariance: layers.0.input_layernorm writes normed, but layers.{layer}.self_attn.q_proj, which reads "
        "mlp_normed, notices a change of it" in found
    )


def test_an_epsilon_that_no_norm_is_declared_to_take_from_the_config_is_named() -> None:
    arrows = {
        name: replace(arrow, eps=0.1) if arrow.kind == "norm" else arrow
        for name, arrow in LLAMA.architecture.arrows.items()
    }
    found = equivariance(LLAMA, replace(LLAMA.architecture, arrows=arrows))
    assert any(
        "with every epsilon of the config times 4, model.norm is no RMSNorm with epsilon 0.1" in p for p in found
    )


def equivariance(case: Case, wrong: Architecture) -> list[str]:
    options = {k: v for k, v in case.options.items() if k != "variants"}
    return check_equivariance(wrong, case.oracle_config, case.make_model, case.oracle_inputs, **options)
