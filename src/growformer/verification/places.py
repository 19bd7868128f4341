"""Where spaces lie in stored tensors, changes of those tensors, and experiments made of such changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from growformer.architecture.declaration import TensorSpec
from growformer.architecture.language import Leaf

Change = Callable[[torch.Tensor], torch.Tensor]
Vector = npt.NDArray[np.float64]
Order = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One space in one dimension of one declared tensor.

    Attributes:
        tensor: canonical name.
        spec: the tensor's template.
        index: values of the template's index axes.
        dim: which dimension.
        number: which of the spaces in that dimension; one may occur twice.
        leaf: the space there, its axes, and where each coordinate lies.
    """

    tensor: str
    spec: TensorSpec
    index: Mapping[str, int]
    dim: int
    number: int
    leaf: Leaf

    @property
    def space(self) -> str:
        """The space's name."""
        return str(self.leaf.space)

    @property
    def reads(self) -> bool:
        """Whether the tensor reads the space; otherwise it writes it."""
        return self.spec.dims[self.dim].role == "read"

    def key(self, index: tuple[str, ...]) -> tuple[int, ...]:
        """Return the values of some index axes."""
        return tuple(self.index[name] for name in index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One change of one tensor."""

    tensor: str
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Changes of weights, and whether the outputs may show them.

    Attributes:
        name: for messages.
        actions: on tensors, applied in order.
        preserves: whether the outputs must stay (or become what ``outputs`` says); otherwise they must change.
        inputs: input's name -> change.
        outputs: size of an output's last dimension -> change that is expected there, where it does not stay.
        frequencies: change of the rotary frequencies; ``torch.neg`` turns every plane the other way.
    """

    name: str
    actions: tuple[Action, ...]
    preserves: bool
    inputs: Mapping[str, Change] = field(default_factory=dict)
    outputs: Mapping[int, Change] = field(default_factory=dict)
    frequencies: Change | None = None


def permute(place: Place, position: int, order: Order) -> Change:
    """Return the permutation of one axis of a place."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        index = np.arange(tensor.shape[place.dim])
        index[place.leaf.positions] = np.take(place.leaf.positions, order, axis=position)
        return tensor.index_select(place.dim, torch.from_numpy(index))

    return change


def scale(place: Place, factor: Vector, offset: int) -> Change:
    """Return the multiplication of a place's coordinates, of gains with what is added to them when they are used."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        whole = np.ones(tensor.shape[place.dim])
        whole[place.leaf.positions] = factor
        shape = [-1 if dim == place.dim else 1 for dim in range(tensor.ndim)]
        return (tensor + offset) * torch.from_numpy(whole).to(tensor.dtype).reshape(shape) - offset

    return change


def shift(place: Place, value: float) -> Change:
    """Return the addition of a constant to all of a place's coordinates."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.index_add(
            place.dim,
            torch.from_numpy(place.leaf.positions.reshape(-1)),
            torch.full_like(tensor, value).narrow(place.dim, 0, place.leaf.positions.size),
        )

    return change


__all__ = ["Action", "Change", "Experiment", "Order", "Place", "Vector", "permute", "scale", "shift"]
