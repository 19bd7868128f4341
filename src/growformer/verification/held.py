"""Where declared tensors are stored: under which name, and in which part of a tensor that holds several."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from growformer.architecture.declaration import Architecture, TensorSpec
from growformer.architecture.packing import Piece, packed_shape, pieces
from growformer.architecture.source import spelled

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Held:
    """Where one declared tensor is stored.

    Attributes:
        stored: name of the stored tensor.
        canonical: name of the declared one.
        piece: where it lies there, if that holds others as well.
        shape: of the stored tensor, if so.
    """

    stored: str
    canonical: str
    piece: Piece | None = None
    shape: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.stored if self.piece is None else f"{self.stored} (its part {self.canonical})"


class Named(Protocol):
    """What stored names follow from."""

    @property
    def architecture(self) -> Architecture:
        """The declaration."""

    @property
    def prefix(self) -> str:
        """What stands in front of the base model's names."""

    @property
    def spelling(self) -> Mapping[str, str]:
        """Templates that are spelled in another way."""

    @property
    def packed(self) -> tuple[str, ...]:
        """Templates of stored tensors that hold several declared ones."""


@dataclass(frozen=True, slots=True)
class LiveNames:
    """What the names in a live model follow from; see ``Named``."""

    architecture: Architecture
    prefix: str
    spelling: Mapping[str, str]
    packed: tuple[str, ...]


def held_tensor(named: Named, spec: TensorSpec, index: Mapping[str, int]) -> Held:
    """Return where a tensor is stored that is not packed with others."""
    return Held(spelled(named.architecture, named, spec.template, index), spec.name(index))


def parts_of(named: Named, config: Mapping[str, Any]) -> Iterator[tuple[str, Held]]:
    """Yield every declared tensor that is packed with others under a resolved config: canonical name, where it is."""
    architecture = named.architecture
    for template in named.packed:
        packed = architecture.packed[template]
        first = architecture.tensors[packed.parts[0]]
        for outer in architecture.instances(tuple(re.findall(r"\{(\w+)\}", template)), config):
            if not architecture.exists(first, config, {**dict.fromkeys(first.index, 0), **outer}):
                continue
            stored = spelled(architecture, named, template, outer)
            shape = packed_shape(architecture, packed, config, outer)
            for spec, index, piece in pieces(architecture, packed, config, outer):
                canonical = spec.name(index)
                yield canonical, Held(stored, canonical, piece, shape)


class Shelf:
    """Reads declared tensors out of stored ones; the stored tensor read last is kept, as the next may lie in it too.

    Args:
        read: stored name -> tensor.
    """

    def __init__(self, read: Callable[[str], torch.Tensor]) -> None:
        self._read = read
        self._latest: tuple[str, torch.Tensor] | None = None

    def tensor(self, held: Held) -> torch.Tensor:
        """Return a declared tensor, on the CPU.

        Raises:
            KeyError, SourceError: there is none.
            ShapeError: what holds it has another shape than its config says.
        """
        if held.piece is None:
            return self._read(held.stored).detach().cpu()
        if self._latest is None or self._latest[0] != held.stored:
            self._latest = None
            self._latest = held.stored, self._read(held.stored).detach().cpu()
        whole = self._latest[1]
        if tuple(whole.shape) != held.shape:
            raise ShapeError(held.shape, tuple(whole.shape))
        return take(whole, held.piece)


class ShapeError(Exception):
    """A stored tensor that holds several has another shape than its config says."""

    def __init__(self, expected: tuple[int, ...], found: tuple[int, ...]) -> None:
        super().__init__(f"the shape {list(found)} instead of {list(expected)}")
        self.expected, self.found = expected, found


def take(stored: torch.Tensor, piece: Piece | None) -> torch.Tensor:
    """Return a declared tensor out of the stored one that holds it (a view)."""
    if piece is None:
        return stored
    part = (stored if piece.at is None else stored[piece.at])[piece.slices]
    return part.T if piece.transposed else part


def undo(piece: Piece | None, values: torch.Tensor) -> torch.Tensor:
    """Return values at a stored region that lies inside a declared tensor as that tensor's (a view)."""
    if piece is None:
        return values
    values = values if piece.at is None else values[0]
    return values.T if piece.transposed else values


def ranges_inside(region: list[list[list[int]]], piece: Piece | None) -> list[list[list[int]]]:
    """Return a region of a declared tensor, as ranges per dimension, as one of the stored tensor that holds it."""
    if piece is None:
        return region
    dims = region[::-1] if piece.transposed else list(region)
    if piece.step == 1:
        dims[piece.dim] = [[piece.start + first, piece.start + end] for first, end in dims[piece.dim]]
    else:
        along = [piece.start + at * piece.step for first, end in dims[piece.dim] for at in range(first, end)]
        dims[piece.dim] = [[at, at + 1] for at in along]
    return dims if piece.at is None else [[[piece.at, piece.at + 1]], *dims]


__all__ = [
    "Held",
    "LiveNames",
    "Named",
    "ShapeError",
    "Shelf",
    "held_tensor",
    "parts_of",
    "ranges_inside",
    "take",
    "undo",
]
