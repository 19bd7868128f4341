"""Where declared tensors are stored: under which name, and in which part of a tensor that holds several."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from growformer.architecture.declaration import Architecture, TensorSpec
from growformer.architecture.packing import Piece, packed_shape, pieces
from growformer.architecture.source import spelled


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


def take(stored: torch.Tensor, piece: Piece | None) -> torch.Tensor:
    """Return a declared tensor out of the stored one that holds it (a view)."""
    if piece is None:
        return stored
    part = (stored if piece.at is None else stored[piece.at])[piece.slices]
    return part.T if piece.transposed else part


__all__ = ["Held", "Named", "held_tensor", "parts_of", "take"]
