"""The oracles on a module of our own: packed experts, a gainless norm, carried and shared tensors, nested configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from growformer.architecture import Add, Architecture, Packed, convolution, embedding, linear, parameter, rms_norm
from growformer.verification.live import Live, with_fields
from growformer.verification.oracles import check_declaration, check_equivariance, check_shapes


class GainlessNorm(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + self.eps)


class Layer(nn.Module):
    """The first ``num_dense`` layers have an MLP, the others experts in one tensor each for the way in and out."""

    def __init__(self, text: Mapping[str, Any], dense: bool) -> None:
        super().__init__()
        hidden, inner, experts = text["hidden"], text["inner"], text["experts"]
        self.norm = GainlessNorm(text["eps"])
        self.dense = dense
        if dense:
            self.up, self.down = nn.Linear(hidden, inner, bias=False), nn.Linear(inner, hidden, bias=False)
        else:
            self.router = nn.Linear(hidden, experts, bias=False)
            self.both = nn.Parameter(torch.zeros(experts, hidden, 2 * inner))
            self.back = nn.Parameter(torch.zeros(experts, inner, hidden))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        if self.dense:
            return x + self.down(torch.tanh(self.up(y)))
        gate, up = torch.einsum("bth,ehi->beti", y, self.both).chunk(2, dim=-1)
        each = torch.einsum("beti,eih->beth", torch.tanh(gate) * up, self.back)
        return x + torch.einsum("bte,beth->bth", self.router(y).softmax(-1), each)


class Model(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        text = config["text"]
        self.embed = nn.Embedding(text["vocab"], text["hidden"])
        self.also = self.embed
        self.patches = nn.Conv1d(text["channels"], text["hidden"], text["window"])
        self.token = nn.Parameter(torch.zeros(1, 1, text["hidden"]))
        self.tower = nn.Linear(3, text.get("tower", 3))
        layers = [Layer(text, layer < text["num_dense"]) for layer in range(text["layers"])]
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(text["hidden"], text["vocab"], bias=False)

    def forward(self, ids: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
        extra = self.patches(signal).mean(-1)[:, None] + self.tower(torch.ones(3, dtype=signal.dtype)).sum()
        x = 3 * self.embed(ids) + extra + self.token
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


SPARSE = "layer >= text.num_dense"
OWN = Architecture(
    name="own",
    sizes={
        "layer": "text.layers", "vocab": "text.vocab", "stream": "text.hidden", "mlp": "text.inner",
        "expert": "text.experts", "channels": "text.channels", "window": "text.window",
    },
    arrows={
        "embed": embedding("vocab -> embedded:stream"),
        "patches": convolution("channels -> stream", kernel=("window",)),
        "token": parameter("-> stream", leading=2),
        "layers.{layer}.norm": rms_norm("stream -> normed", eps="text.eps", gain=False),
        "layers.{layer}.up": linear("normed -> mlp", when=f"not ({SPARSE})"),
        "layers.{layer}.down": linear("mlp -> stream", when=f"not ({SPARSE})"),
        "layers.{layer}.router": linear("normed -> router:expert", when=SPARSE),
        "layers.{layer}.{expert}.gate": linear("normed -> expert_mlp:mlp", when=SPARSE),
        "layers.{layer}.{expert}.up": linear("normed -> expert_mlp:mlp", when=SPARSE),
        "layers.{layer}.{expert}.down": linear("expert_mlp:mlp -> stream", when=SPARSE),
        "head": linear("stream -> vocab"),
    },
    adds=(Add(source="embedded", target="stream", factor="3"),),
    packed={
        "layers.{layer}.both": Packed(
            parts=("layers.{layer}.{expert}.gate.weight", "layers.{layer}.{expert}.up.weight"), stack="expert",
            transposed=True,
        ),
        "layers.{layer}.back": Packed(parts=("layers.{layer}.{expert}.down.weight",), stack="expert", transposed=True),
    },
    shared={"also.weight": "embed.weight"},
    carried={r"tower\..*": "no size of the model"},
    fixed={"vocab": "no", "channels": "no", "window": "no", "expert": "no"},
    nested=("text",),
)  # fmt: skip
CONFIG: dict[str, Any] = {
    "text": {
        "layers": 3, "vocab": 11, "hidden": 6, "inner": 7, "experts": 4, "channels": 5, "window": 3, "num_dense": 1,
        "eps": 0.1,
    }
}  # fmt: skip


def make_model(config: Mapping[str, Any]) -> Model:
    torch.manual_seed(0)
    return Model(config).eval()


def make_inputs(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    text = config["text"]
    ids = torch.randint(text["vocab"], (2, 9), generator=generator)
    return {"ids": ids, "signal": torch.randn(2, text["channels"], 8, generator=generator)}


def problems(architecture: Architecture) -> list[str]:
    return check_declaration(architecture, CONFIG, make_model, make_inputs, lookups={"vocab": "ids"})


def test_the_declaration_holds() -> None:
    assert problems(OWN) == []


def _packed(**changes: Any) -> dict[str, Packed]:
    return {**OWN.packed, "layers.{layer}.both": replace(OWN.packed["layers.{layer}.both"], **changes)}


def _arrow(name: str, arrow: Any) -> dict[str, Any]:
    return {**OWN.arrows, name: arrow}


@pytest.mark.parametrize(
    "changes",
    [
        {"packed": _packed(interleaved=True)},
        {"packed": _packed(transposed=False)},
        {"shared": {}},
        {"shared": {**OWN.shared, "head.weight": "embed.weight"}},
        {"carried": {}},
        {"adds": ()},
        {"nested": ()},
        {"arrows": _arrow("token", parameter("-> stream", leading=1))},
        {"arrows": _arrow("patches", convolution("channels -> stream", kernel=("window",), bias=False))},
        {"arrows": _arrow("layers.{layer}.norm", rms_norm("stream -> normed", eps="text.eps"))},
        {"arrows": _arrow("layers.{layer}.router", linear("normed -> router:expert"))},
        {"arrows": _arrow("layers.{layer}.up", linear("normed -> mlp", when="layer < 2"))},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_mistakes_are_seen(changes: dict[str, Any]) -> None:
    assert problems(replace(OWN, **changes)) != []


def test_carried_tensors_may_not_follow_a_size() -> None:
    def wrong(config: Mapping[str, Any]) -> Model:
        return make_model({"text": {**config["text"], "tower": config["text"]["inner"]}})

    found = check_shapes(OWN, CONFIG, wrong)
    assert found == ["shapes with text.inner = 8 instead of 7: tower.bias, tower.weight carried, and not as before"]


def test_a_wrong_epsilon_of_a_gainless_norm_is_named() -> None:
    wrong = replace(
        OWN, arrows=_arrow("layers.{layer}.norm", rms_norm("stream -> normed", eps=1.0, gain=False))
    )  # fmt: skip
    found = check_equivariance(wrong, CONFIG, make_model, make_inputs, lookups={"vocab": "ids"})
    assert any(p.startswith("equivariance: layers.0.norm is no RMSNorm with epsilon 1") for p in found)


def test_packed_weights_are_put_where_the_model_has_them() -> None:
    live = Live(OWN, CONFIG, make_model(CONFIG))
    weights = {}
    for name, info in live.source.tensors.items():
        weights[name] = torch.full(info.shape, float(len(weights)), dtype=torch.float64)
    packed = live._packed(weights)
    assert set(packed) == set(live.tensors) - {"also.weight"}
    assert all(packed[name].shape == live.tensors[name].shape for name in packed)
    both = packed["layers.1.both"]
    for expert in range(4):
        assert (both[expert, :, :7] == weights[f"layers.1.{expert}.gate.weight"][0, 0]).all()
        assert (both[expert, :, 7:] == weights[f"layers.1.{expert}.up.weight"][0, 0]).all()


def test_other_fields_reach_nested_configs_and_lists_follow_depth() -> None:
    family = replace(OWN, layer_lists=("text.kinds",))
    config = {"text": {**CONFIG["text"], "kinds": ["a", "b", "c"]}}
    changed = with_fields(family, config, {"text.layers": 5})
    assert changed["text"]["layers"] == 5
    assert changed["text"]["kinds"] == ["a", "b", "c", "a", "b"]
    assert config["text"]["kinds"] == ["a", "b", "c"]
    assert config["text"]["layers"] == 3
