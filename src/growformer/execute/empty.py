"""Modules whose parameters have no storage yet, while their buffers are what the class computed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

_inside: dict[int, int] = {}
"""Thread -> how many of the contexts below it is in."""
_changes = threading.Lock()
_register: Callable[[nn.Module, str, nn.Parameter | None], None] = nn.Module.register_parameter
"""The method that is replaced while any thread is in such a context."""


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Put every parameter that a module is given inside this context, by this thread, on the meta device.

    Buffers stay real, since a class computes some of them when it is built (rotary frequencies) and no state dict has
    them. No parameter's values are computed, and no more than one lies in memory at a time, unwritten.
    """
    global _register
    me = threading.get_ident()
    with _changes:
        if not _inside:
            _register = nn.Module.register_parameter
            nn.Module.register_parameter = _empty  # type: ignore[assignment, method-assign]
        _inside[me] = _inside.get(me, 0) + 1
    try:
        yield
    finally:
        with _changes:
            _inside[me] -= 1
            if not _inside[me]:
                del _inside[me]
            if not _inside:
                nn.Module.register_parameter = _register  # type: ignore[assignment, method-assign]


def _empty(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
    if param is not None and param.device.type != "meta" and threading.get_ident() in _inside:
        param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
    _register(module, name, param)


__all__ = ["parameters_on_meta"]
