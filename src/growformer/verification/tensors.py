"""How the checks read tensors: whole ones of a live model, or only the rows that a band needs, of a folder."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from growformer.verification.regions import Positions

Read = Callable[[str], "torch.Tensor"]
"""Stored name -> tensor."""


class Reader(Protocol):
    """Reads for one thread."""

    def region(self, name: str, region: tuple[Positions, ...]) -> torch.Tensor:
        """Return the values at a region of a stored tensor, on the CPU; valid until the next ``reset``."""

    def reset(self) -> None:
        """Give the memory of everything that was read back."""


@runtime_checkable
class Tensors(Protocol):
    """The stored tensors of a checkpoint or of a live model; threads may share it."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape.

        Raises:
            KeyError, SourceError: there is none.
        """

    def dtype(self, name: str) -> torch.dtype:
        """Return a tensor's dtype."""

    def place(self, name: str) -> Any:
        """Return a key by which tensors are read in the order in which they lie."""

    def reader(self) -> Reader:
        """Return what reads for one thread."""


class Whole:
    """Tensors that a function gives as a whole, as a live model does; the one that was read last is kept.

    Args:
        read: stored name -> tensor, which is not changed. KeyError or SourceError where there is none.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._latest: tuple[str, torch.Tensor] | None = None
        self._lock = Lock()

    def _whole(self, name: str) -> torch.Tensor:
        with self._lock:
            if self._latest is None or self._latest[0] != name:
                self._latest = None
                self._latest = name, self._read(name).detach().cpu()
            return self._latest[1]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return tuple(self._whole(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        """Return a tensor's dtype."""
        return self._whole(name).dtype

    def place(self, name: str) -> Any:
        """Return the same for all: they are read in the order in which they are asked for."""
        return 0

    def reader(self) -> Reader:
        """Return this: nothing belongs to a thread."""
        return self

    def region(self, name: str, region: tuple[Positions, ...]) -> torch.Tensor:
        """Return the values at a region: a view where it is of slices alone."""
        from growformer.verification.regions import select

        return select(self._whole(name), region)

    def reset(self) -> None:
        """Do nothing: the memory is the tensor's own."""


def as_tensors(given: Read | Tensors) -> Tensors:
    """Return tensors of a function that reads them, or as they are."""
    return given if isinstance(given, Tensors) else Whole(given)


__all__ = ["Read", "Reader", "Tensors", "Whole", "as_tensors"]
