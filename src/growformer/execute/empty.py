"""Modules whose parameters have no storage yet, while their buffers are what the class computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Put every parameter that a module is given inside this context on the meta device.

    Buffers stay real, since a class computes some of them when it is built (rotary frequencies) and no state dict has
    them. No parameter's values are computed, and no more than one lies in memory at a time, unwritten.
    """
    register = nn.Module.register_parameter

    def empty(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    nn.Module.register_parameter = empty  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


__all__ = ["parameters_on_meta"]
