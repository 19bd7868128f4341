"""The optimizers of one model, one or several: taken as a list, and what they hold of its parameters, by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from growformer.errors import RequestError
from growformer.execute.module import plain_name


def listed(optimizers: Optimizer | Iterable[Optimizer]) -> list[Optimizer]:
    """Return one optimizer, or any iterable of them, as a list.

    Raises:
        RequestError: there is none, or something else among them.
    """
    if isinstance(optimizers, Optimizer):
        return [optimizers]
    given: Any = optimizers
    found = list(given) if isinstance(given, Iterable) else [given]
    if not found:
        raise RequestError("optimizer = none at all: expected a torch.optim.Optimizer, or several; or leave it out")
    for each in found:
        if not isinstance(each, Optimizer):
            raise RequestError(
                f"optimizer = {type(given).__name__}: expected a torch.optim.Optimizer or several, as in "
                f"[muon, adamw], found {type(each).__name__}"
            )
    return found


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return a model's parameters by the names that they have without what wraps the model, tied ones once."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    return {plain_name(name): parameter for name, parameter in inner.named_parameters()}


def left_out(optimizers: Sequence[Optimizer], model: nn.Module) -> list[str]:
    """Return the names of parameters that require gradients and are in none of the optimizers; tied ones count once."""
    held = {parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]}
    return [name for name, p in parameters_of(model).items() if p.requires_grad and p not in held]


def warn_of_left_out(optimizers: Sequence[Optimizer], model: nn.Module, *, stacklevel: int) -> None:
    """Warn of parameters that require gradients and would have no optimizer after a growth.

    An optimizer that is not handed over goes on with the source model, without an error: nothing else would say that
    half of the grown model has stopped learning.

    Args:
        optimizers: of the model.
        model: the source.
        stacklevel: of the call that is at fault, counted from here.
    """
    names = left_out(optimizers, model)
    if names:
        warnings.warn(
            f"{len(names)} parameters that learn are in none of the optimizers, such as {names[0]}: pass all "
            "optimizers of the model, as in optimizer=[muon, adamw]; one that is left out goes on with the source "
            "model. Of what is not to learn, turn requires_grad off",
            stacklevel=stacklevel,
        )


__all__ = ["left_out", "listed", "parameters_of", "warn_of_left_out"]
