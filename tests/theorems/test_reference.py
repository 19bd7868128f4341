"""The reference model is the paper's: its forward pass against torch's own attention and norm, and its config."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.theorems.support import CONFIG, CONFIGS, inputs_for, random_model, source_of
from torch.nn import functional

from growformer.architecture.source import from_config
from growformer.errors import ArchitectureError, SourceError
from growformer.reference import REFERENCE, ReferenceConfig, ReferenceTransformer, reference_architecture
from growformer.reference.model import Layer


def by_torch(model: ReferenceTransformer, inputs: torch.Tensor) -> torch.Tensor:
    """Section 2 of the paper with torch's functions and the concatenated W_O."""
    config, p = model.config, model.state_dict()

    def norm(name: str, y: torch.Tensor) -> torch.Tensor:
        gain = p.get(f"{name}.weight")
        return y if gain is None else functional.rms_norm(y, gain.shape, gain, config.norm_eps)

    one_hot = inputs if inputs.is_floating_point() else functional.one_hot(inputs, config.input_size).double()
    x = one_hot @ p["embedding.weight"] + p["positions.weight"][: inputs.shape[1]]
    for number, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        name = f"layers.{number}"
        y = norm(f"{name}.mha_norm", x)
        heads = []
        for head in range(config.num_heads[number]):
            q, k, v = (y @ p[f"{name}.heads.{head}.{part}.weight"] for part in ("query", "key", "value"))
            heads.append(functional.scaled_dot_product_attention(q, k, v, is_causal=config.causal))
        x = x + norm(f"{name}.mha_post_norm", torch.cat(heads, dim=-1) @ layer.output_weight)
        inner = norm(f"{name}.mlp_norm", x) @ p[f"{name}.mlp.up.weight"] + p[f"{name}.mlp.up.bias"]
        inner = inner.clamp(min=0) if config.activation == "relu" else functional.gelu(inner)
        x = x + norm(f"{name}.mlp_post_norm", inner @ p[f"{name}.mlp.down.weight"] + p[f"{name}.mlp.down.bias"])
    outputs: torch.Tensor = norm("norm", x) @ p["output.weight"]
    return outputs


@pytest.mark.parametrize("variant", CONFIGS)
def test_forward_equals_torch(variant: str) -> None:
    model = random_model(CONFIGS[variant])
    for inputs in inputs_for(model.config):
        with torch.no_grad():
            torch.testing.assert_close(model(inputs), by_torch(model, inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", CONFIGS)
def test_declaration_fits_the_model(variant: str) -> None:
    """``describe`` raises where a tensor is missing, left over, or of another shape."""
    model = ReferenceTransformer(CONFIGS[variant])
    source = source_of(model)
    assert set(source.tensors) == set(model.state_dict())
    config = model.config.to_dict()
    predicted = from_config(reference_architecture(config), config)
    assert {n: t.shape for n, t in predicted.tensors.items()} == {n: t.shape for n, t in source.tensors.items()}


def test_the_declaration_without_norms_refuses_a_model_with_them() -> None:
    config = CONFIGS["norm before and after"].to_dict()
    with pytest.raises(SourceError, match=r"post_branch_norm = True: .*reference_architecture\(config\)"):
        from_config(REFERENCE, config)


def test_concatenated_output_weight() -> None:
    model = random_model(CONFIG)
    layer = model.layers[1]
    assert isinstance(layer, Layer)
    assert layer.output_weight.shape == (3 + 1 + 4, 5)
    assert torch.equal(layer.output_weight[3:4], model.get_parameter("layers.1.heads.1.output.weight"))


def test_fresh_parameters() -> None:
    model = ReferenceTransformer(replace(CONFIG, hidden_size=64, initializer_range=0.1))
    assert abs(model.positions.weight.std().item() - 0.1) < 0.02
    assert torch.equal(model.get_parameter("layers.0.mha_norm.weight"), torch.ones(64))
    assert not model.get_parameter("layers.1.mlp.down.bias").any()


def test_config_round_trip() -> None:
    for config in CONFIGS.values():
        assert ReferenceConfig.from_dict(config.to_dict()) == config
    uniform = ReferenceConfig.uniform(
        hidden_size=8,
        num_hidden_layers=2,
        num_heads=3,
        mlp=5,
        key=2,
        value=4,
        input_size=7,
        output_size=6,
        max_positions=3,
        causal=True,
    )
    assert uniform.num_heads == (3, 3)
    assert uniform.key == ((2, 2, 2),) * 2
    assert uniform.causal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp": [7]}, "mlp, key and value must list as many layers: 1, 2 and 2"),
        (
            {"key": [[3, 2], [4, 1]]},
            r"layer 1: key and value must list as many heads, .* found \[4, 1\] and \[3, 1, 4\]",
        ),
        ({"hidden_size": 0}, "every size must be a positive whole number, found 0"),
        ({"activation": "silu"}, "activation must be relu or gelu, got 'silu'"),
        ({"pre_branch_norm": False}, "one of pre_branch_norm and post_branch_norm must be true"),
        ({"num_heads": [2, 2]}, r"num_heads is \[2, 2\], but the other fields say \[2, 3\]"),
        ({"hidden": 4}, "a reference config has no field 'hidden'; did you mean 'hidden_size'"),
    ],
)
def test_contradictory_configs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        ReferenceConfig.from_dict({**CONFIG.to_dict(), **changes})


def test_a_missing_field() -> None:
    data = CONFIG.to_dict()
    del data["hidden_size"]
    with pytest.raises(ArchitectureError, match=r"not a reference config: .*hidden_size"):
        ReferenceConfig.from_dict(data)


def test_too_many_positions() -> None:
    model = ReferenceTransformer(CONFIG)
    with pytest.raises(ValueError, match="10 positions, but only 9 have an embedding"):
        model(torch.zeros((1, 10), dtype=torch.long))
