"""The ways to get to the large model: from scratch, by growth, and by what growth is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import growformer
from growformer import UpdateRules

Grown = tuple[nn.Module, torch.optim.Optimizer]
Grow = Callable[[nn.Module, torch.optim.Optimizer, dict[str, Any]], Grown]
"""(model, optimizer, the sizes that change) -> both, grown."""

WRITERS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
"""What a layer adds to the residual stream with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to train.

    Attributes:
        says: what it is, for tables and pictures.
        grow: None: the model has its last size from the start.
        matched: stop where the FLOPs of the grown arms are spent, with a schedule of its own that ends there.
    """

    says: str
    grow: Grow | None = None
    matched: bool = False


def preserving(**options: Any) -> Grow:
    """Grow by growformer: nothing that the model computes changes."""

    def grow(model: nn.Module, optimizer: torch.optim.Optimizer, sizes: dict[str, Any]) -> Grown:
        own = options if "num_hidden_layers" in sizes else {k: v for k, v in options.items() if "layers" not in k}
        grown: Grown = growformer.grow(model, optimizer=optimizer, **own, **sizes)
        return grown

    return grow


def stacked(model: nn.Module, optimizer: torch.optim.Optimizer, sizes: dict[str, Any]) -> Grown:
    """Stack whole copies of the model in depth, with what they add live and the optimizer's state; else preserve."""
    if "num_hidden_layers" not in sizes:
        return preserving()(model, optimizer, sizes)
    before = model.config.num_hidden_layers
    grown, optimizer = preserving(updates=FROM_ZERO, new_layers_at="end")(model, optimizer, sizes)
    layers = grown.model.layers
    with torch.no_grad():
        for number in range(before, len(layers)):
            for name in WRITERS:
                ours, copied = (layer.get_parameter(name) for layer in (layers[number], layers[number % before]))
                ours.copy_(copied)
                optimizer.state[ours] = {slot: value.clone() for slot, value in optimizer.state[copied].items()}
    return grown, optimizer


def split(model: nn.Module, optimizer: torch.optim.Optimizer, sizes: dict[str, Any], noise: float = 0.01) -> Grown:
    """Duplicate every coordinate in width, readers halved, with noise that cancels, as in Net2Net and HyperCloning.

    For twice the width exactly; the optimizer's state is duplicated as well. In depth, copies fade in.
    """
    if "hidden_size" not in sizes:
        return preserving(updates=FADING, new_layers_at="end")(model, optimizer, sizes)
    wrong = [name for name, size in sizes.items() if size != 2 * getattr(model.config, name)]
    if wrong:
        raise SystemExit(f"split doubles, and {', '.join(wrong)} is to become another multiple; leave the arm out")
    config = type(model.config)(**{**model.config.to_dict(), **sizes})
    grown = type(model)(config).to(next(model.parameters()).device)
    numbers = torch.Generator().manual_seed(0)
    before, states = dict(model.named_parameters()), {p: dict(s) for p, s in optimizer.state.items()}
    made: dict[nn.Parameter, nn.Parameter] = {}
    optimizer.state.clear()
    with torch.no_grad():
        for name, parameter in grown.named_parameters():
            source = before[name]
            is_table, is_head = name == "model.embed_tokens.weight", name == "lm_head.weight"
            tiles = (2,) if source.ndim == 1 else (1 if is_table or is_head else 2, 2)
            parameter.copy_(source.repeat(tiles))
            if source.ndim == 2 and not is_table:  # it reads two copies of what it read
                half = source.shape[1]
                some = torch.randn(parameter[:, :half].shape, generator=numbers).to(parameter.device)
                some *= noise * source.std()
                parameter.mul_(0.5).add_(torch.cat([some, -some], dim=1))
            slope = 1.0 if is_head else 0.5  # each of two copies gets half of the gradient
            optimizer.state[parameter] = {
                slot: value if value.ndim == 0 else value.repeat(tiles) * slope ** (2 if slot == "exp_avg_sq" else 1)
                for slot, value in states[source].items()
            }
            made[source] = parameter
    for group in optimizer.param_groups:
        group["params"] = [made[p] for p in group["params"]]
    return grown, optimizer


FADING = UpdateRules(fade_in=50)
FROM_ZERO = UpdateRules(fade_in=0)
NAIVE = UpdateRules(fade_in=0, bias_correction=False)

ARMS: dict[str, Arm] = {
    "scratch": Arm(says="from scratch"),
    "matched": Arm(says="from scratch, stopped and decayed at the grown arms' FLOPs", matched=True),
    "grown": Arm(says="grown, copies fade in", grow=preserving(updates=FADING, new_layers_at="end")),
    "zeroed": Arm(
        says="grown, copies learn to write from zero", grow=preserving(updates=FROM_ZERO, new_layers_at="end")
    ),
    "naive": Arm(says="the same, step count inherited", grow=preserving(updates=NAIVE, new_layers_at="end")),
    "stacked": Arm(says="plain stacking in depth (not preserving)", grow=stacked),
    "split": Arm(says="as grown, but width by duplicates", grow=split),
    "zero": Arm(says="both sides zero (control)", grow=preserving(updates=FROM_ZERO, init="zero", new_layers="random")),
}
