"""The transformations as requests: config fields, subsets, and every refusal with its message."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.theorems.support import CONFIG

from growformer.architecture.declaration import Architecture
from growformer.architecture.families.llama import LLAMA
from growformer.errors import RequestError
from growformer.planning.transformations import (
    AttentionExpansion,
    HeadAddition,
    HeadsExpansion,
    HiddenDimensionExpansion,
    LayerAddition,
    MLPExpansion,
    Transformation,
    merge,
)
from growformer.reference import REFERENCE

OWN = CONFIG.to_dict()
STOCK = {
    "model_type": "llama",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}


@pytest.mark.parametrize(
    ("transformation", "expected"),
    [
        (MLPExpansion(intermediate_size=13), {"mlp": [13, 13]}),
        (MLPExpansion(intermediate_size=9, layers=(0,)), {"mlp": [9, 11]}),
        (
            HeadAddition(num_attention_heads=4),
            {"num_heads": [4, 4], "key": [[3, 2, 3, 2], [4, 1, 3, 3]], "value": [[2, 5, 2, 5], [3, 1, 4, 4]]},
        ),
        (
            HeadAddition(num_attention_heads=3, layers=(0,), key_dim=7, value_dim=1),
            {"num_heads": [3, 3], "key": [[3, 2, 7], [4, 1, 3]], "value": [[2, 5, 1], [3, 1, 4]]},
        ),
        (HeadsExpansion(value_dim=6, layers=(1,), heads=(0, 2)), {"value": [[2, 5], [6, 1, 6]]}),
        (HeadsExpansion(head_dim=6, heads=(1,)), {"value": [[2, 6], [3, 6, 4]]}),
        (AttentionExpansion(key_dim=5, layers=(1,), heads=(1,)), {"key": [[3, 2], [4, 5, 3]]}),
        (HiddenDimensionExpansion(hidden_size=8), {"hidden_size": 8}),
        (LayerAddition(num_hidden_layers=4), {"num_hidden_layers": 4}),
        (LayerAddition(positions=(0, 1)), {"num_hidden_layers": 4}),
    ],
)
def test_per_layer_and_head(transformation: Transformation, expected: dict[str, Any]) -> None:
    assert transformation.request(REFERENCE, OWN) == expected
    assert CONFIG.to_dict() == OWN, "the source's lists must not change"


@pytest.mark.parametrize(
    ("transformation", "expected"),
    [
        (MLPExpansion(intermediate_size=48), {"intermediate_size": 48}),
        (
            HeadAddition(num_attention_heads=9, num_key_value_heads=3),
            {"num_attention_heads": 9, "num_key_value_heads": 3},
        ),
        (HeadsExpansion(head_dim=8), {"head_dim": 8}),
        (AttentionExpansion(key_dim=8), {"head_dim": 8}),
        (HiddenDimensionExpansion(hidden_size=36), {"hidden_size": 36}),
        (LayerAddition(num_hidden_layers=3, positions="end"), {"num_hidden_layers": 3}),
    ],
)
def test_stock_models_have_one_value_for_all(transformation: Transformation, expected: dict[str, Any]) -> None:
    assert transformation.request(LLAMA, STOCK) == expected


def test_several_in_one_request() -> None:
    request, options = merge(
        [
            MLPExpansion(intermediate_size=9, layers=(0,)),
            LayerAddition(positions=(0, 2), new_layers="random"),
            HeadAddition(num_attention_heads=3, layers=(0,)),
            AttentionExpansion(key_dim=6, layers=(0,), heads=(0,)),
            MLPExpansion(intermediate_size=12, layers=(1,)),
        ],
        REFERENCE,
        OWN,
    )
    # Target layers 0 and 2 are new and have the sizes of source layer 0. The new head copies source head 1.
    assert request == {
        "num_hidden_layers": 4,
        "mlp": [9, 9, 9, 12],
        "num_heads": [3, 3, 3, 3],
        "key": [[6, 2, 2], [6, 2, 2], [6, 2, 2], [4, 1, 3]],
        "value": [[2, 5, 5], [2, 5, 5], [2, 5, 5], [3, 1, 4]],
    }
    assert options == {"new_layers_at": (0, 2), "new_layers": "random"}
    assert merge([], REFERENCE, OWN) == ({}, {})


def test_the_same_thing_twice_is_said_once() -> None:
    twice = [HeadsExpansion(head_dim=8), AttentionExpansion(key_dim=8), HeadsExpansion(value_dim=8)]
    assert merge(twice, LLAMA, STOCK) == ({"head_dim": 8}, {})
    assert LayerAddition(num_hidden_layers=3).options() == {"new_layers_at": "interleave", "new_layers": "copy"}
    assert MLPExpansion(intermediate_size=8).options() == {}


@pytest.mark.parametrize(
    ("architecture", "config", "transformations", "message"),
    [
        (
            LLAMA,
            STOCK,
            [MLPExpansion(intermediate_size=48, layers=(0,))],
            "cannot grow intermediate_size in layers [0] only: the config of llama has one value for all layers "
            "(intermediate_size = 40); leave layers out to grow it everywhere",
        ),
        (
            LLAMA,
            STOCK,
            [AttentionExpansion(key_dim=8, heads=(1, 2))],
            "cannot grow head_dim in heads [1, 2] only: the config of llama has one value for all heads "
            "(head_dim = 4); leave heads out to grow it everywhere",
        ),
        (
            LLAMA,
            STOCK,
            [HeadAddition(num_attention_heads=9, key_dim=8)],
            "HeadAddition: new heads cannot have a width of queries and keys of their own: the config of llama has one "
            "head_dim for all heads; leave key_dim out",
        ),
        (
            LLAMA,
            STOCK,
            [HeadsExpansion(head_dim=8), AttentionExpansion(key_dim=12)],
            "head_dim is asked for twice: 8 and 12",
        ),
        (
            REFERENCE,
            OWN,
            [HeadAddition(num_key_value_heads=2)],
            "reference has no config field for the number of key-value heads; sizes that it has: hidden_size, mlp, "
            "num_heads, key, value, num_hidden_layers",
        ),
        (
            REFERENCE,
            OWN,
            [MLPExpansion(intermediate_size=9)],
            "cannot grow mlp of layer 1 11 -> 9: smaller than the source; growth never removes anything. Nearest: 11",
        ),
        (
            REFERENCE,
            OWN,
            [HeadsExpansion(value_dim=2, layers=(1,), heads=(2,))],
            "cannot grow value of layer 1, head 2 4 -> 2: smaller than the source; growth never removes anything. "
            "Nearest: 4",
        ),
        (
            REFERENCE,
            OWN,
            [MLPExpansion(intermediate_size=13), MLPExpansion(intermediate_size=17, layers=(1,))],
            "mlp of layer 1 is asked for twice: 13 and 17",
        ),
        (
            REFERENCE,
            OWN,
            [
                HeadAddition(num_attention_heads=4, key_dim=3),
                HeadAddition(num_attention_heads=4, layers=(1,), key_dim=5),
            ],
            "key of the new heads of layer 1 is asked for twice: 3 and 5",
        ),
        (
            REFERENCE,
            OWN,
            [LayerAddition(num_hidden_layers=3), LayerAddition(positions=(0,))],
            "new_layers_at is asked for twice: 'interleave' and (0,)",
        ),
        (
            REFERENCE,
            OWN,
            [LayerAddition(num_hidden_layers=3, positions=(0, 1))],
            "LayerAddition: 2 positions lead from 2 to 4 layers, but num_hidden_layers = 3",
        ),
        (
            REFERENCE,
            OWN,
            [LayerAddition(positions=(0, 7)), MLPExpansion(intermediate_size=13)],
            "new_layers_at = [0, 7]: expected 2 different positions from 0 to 3, as the model grows from 2 to 4 layers",
        ),
        (REFERENCE, OWN, [LayerAddition()], "LayerAddition: give num_hidden_layers, or a list of positions"),
        (
            REFERENCE,
            OWN,
            [HeadAddition()],
            "HeadAddition: give num_attention_heads, num_key_value_heads or both",
        ),
        (
            REFERENCE,
            OWN,
            [HeadsExpansion(value_dim=7, head_dim=8)],
            "HeadsExpansion: give value_dim or head_dim, got 7 and 8",
        ),
        (
            REFERENCE,
            OWN,
            [MLPExpansion(intermediate_size=13, layers=(2,))],
            "layers = [2]: expected different numbers from 0 to 1, as in the source",
        ),
        (
            REFERENCE,
            OWN,
            [AttentionExpansion(key_dim=5, heads=(2,))],
            "heads of layer 0 = [2]: expected different numbers from 0 to 1, as in the source",
        ),
        (
            REFERENCE,
            OWN,
            [HiddenDimensionExpansion(hidden_size=7.5)],  # type: ignore[arg-type]
            "hidden_size must be a whole number, got 7.5",
        ),
        (
            REFERENCE,
            OWN,
            [HeadAddition(num_attention_heads=4, value_dim=0)],
            "value of new heads must be at least 1, got 0",
        ),
    ],
)
def test_refusals(
    architecture: Architecture, config: dict[str, Any], transformations: list[Transformation], message: str
) -> None:
    with pytest.raises(RequestError, match=f"^{re.escape(message)}$"):
        merge(transformations, architecture, config)
