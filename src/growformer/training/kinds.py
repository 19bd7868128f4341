"""What depends on the kind of an optimizer, which is known by its class and by those that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_ADAM = ("Adam", "AdamW")
_NORMALISED = (*_ADAM, "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Muon")
_DECOUPLED = ("AdamW", "Muon")


def kinds_of(optimizer: torch.optim.Optimizer) -> frozenset[str]:
    """Return the names of an optimizer's class and of those that it comes from."""
    return frozenset(kind.__name__ for kind in type(optimizer).__mro__)


def is_normalised(kinds: frozenset[str]) -> bool:
    """Tell whether an optimizer's update does not depend on the size of gradients."""
    return not kinds.isdisjoint(_NORMALISED)


def betas_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the betas by which an optimizer corrects its bias as Adam does; None: it does not."""
    if kinds_of(optimizer).isdisjoint(_ADAM) or "betas" not in group:
        return None
    return float(group["betas"][0]), float(group["betas"][1])


def decay_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> float:
    """Return the share of a weight that decoupled decay takes away in a step; 0: its decay is in the gradient."""
    decoupled = group.get("decoupled_weight_decay", not kinds_of(optimizer).isdisjoint(_DECOUPLED))
    return float(group["lr"]) * float(group.get("weight_decay", 0.0)) if decoupled else 0.0


__all__ = ["betas_of", "decay_of", "is_normalised", "kinds_of"]
