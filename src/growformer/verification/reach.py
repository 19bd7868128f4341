"""What the gradients of a few steps reach: for every region of new values when, how strongly, and which units never."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from growformer.architecture.language import term_axes
from growformer.architecture.packing import Piece
from growformer.verification.held import take
from growformer.verification.live_tensors import LiveTensor, Ranges, select
from growformer.verification.regions import Region, compact, count
from growformer.verification.units import UnitTable

Regions = list[list[Ranges]]
DeadAt = tuple[tuple[int, tuple[int, ...]], ...]
"""Dimension of a declared tensor, and positions along it."""


@dataclass(frozen=True, slots=True)
class Reach:
    """One region of new values.

    Attributes:
        tensor: its parameter.
        region: ranges per dimension of the parameter.
        first_step: the first optimizer step whose gradient reaches it; None if none did.
        dead_units: new coordinates (rows or columns that the source does not have) none of whose entries was reached.
        gradient: root mean square of its gradient at every step.
        source_gradient: that of the source's values in the same tensor; where it has none, the largest of the same
            tensor in other layers. Empty where there is neither.
        ratio: the largest, over steps, of its gradient over the largest of its neighbours'; None without neighbours.
        dead_at: the dead units: dimension of the declared tensor, positions.
        reason: why units are dead, where that can be told.
        at_rest: how many units of an MLP gave nothing on all inputs, as those behind a ReLU may; they are not dead.
    """

    tensor: str
    region: list[Ranges]
    first_step: int | None
    dead_units: int
    gradient: tuple[float, ...] = ()
    source_gradient: tuple[float, ...] = ()
    ratio: float | None = None
    dead_at: DeadAt = ()
    reason: str = ""
    at_rest: int = 0

    @property
    def is_dead(self) -> bool:
        """Whether nothing of it, or not every new coordinate of it, was reached, though it was not at rest."""
        return not self.at_rest and (self.first_step is None or bool(self.dead_units))

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        found: dict[str, Any] = {
            "tensor": self.tensor,
            "region": self.region,
            "first_step": self.first_step,
            "dead_units": self.dead_units,
            "gradient": list(self.gradient),
            "source_gradient": list(self.source_gradient),
            "ratio": self.ratio,
        }
        if self.is_dead:
            found["dead_at"] = [{"dim": dim, "positions": list(at)} for dim, at in self.dead_at]
            found["reason"] = self.reason
        if self.at_rest:
            found["at_rest"] = self.at_rest
        return found

    def __str__(self) -> str:
        if self.first_step is None:
            return f"no gradient reaches {_show(self.region)}{f': {self.reason}' if self.reason else ''}"
        at = "; ".join(
            f"{', '.join(map(str, p[:8]))}{', …' if p[8:] else ''} along dimension {d}" for d, p in self.dead_at
        )
        return f"no gradient reaches {at}{f': {self.reason}' if self.reason else ''}"


@dataclass(slots=True)
class Followed:
    """One tensor whose gradients are looked at; regions are those of the declared tensor."""

    stored: str
    template: str
    piece: Piece | None
    is_new: bool
    new: list[Region]
    ranges: Regions
    kept: list[Region] | None
    tensor: LiveTensor | None = None
    reached: dict[int, torch.Tensor] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    rms: dict[int, dict[int, float]] = field(default_factory=dict)
    source_rms: dict[int, float] = field(default_factory=dict)
    shape: tuple[int, ...] = ()

    @staticmethod
    def of(tensor: LiveTensor) -> Followed:
        """Follow a declared tensor."""
        new = list(tensor.new)
        ranges = [tensor.stored_region(region) for region in new]
        return Followed(
            tensor.held.stored, tensor.spec.template, tensor.held.piece, tensor.is_new, new, ranges,
            list(tensor.kept), tensor,
        )  # fmt: skip

    def see(self, step: int, stored: torch.Tensor) -> None:
        """Note down what a gradient reaches, and how large it is."""
        gradient = take(stored, self.piece)
        self.shape = tuple(gradient.shape)
        inside = 0.0
        for number, region in enumerate(self.new):
            part = select(gradient, region)
            nonzero = (part != 0) & part.isfinite()
            reached = self.reached.get(number)
            self.reached[number] = nonzero if reached is None else reached.logical_or_(nonzero)
            if number not in self.first and bool(nonzero.any()):
                self.first[number] = step
            total = _squares(part, precisely=self.kept is None)
            inside += total
            self.rms.setdefault(number, {})[step] = math.sqrt(total / max(part.numel(), 1))
        if self.kept is None:
            size = gradient.numel() - sum(map(count, self.new))
            total = max(0.0, _squares(gradient, precisely=True) - inside)
        else:
            size = sum(map(count, self.kept))
            total = sum(_squares(select(gradient, region)) for region in self.kept) if size else 0.0
        if size:
            self.source_rms[step] = math.sqrt(total / size)

    def dead_at(self, number: int) -> list[tuple[int, tuple[int, ...]]]:
        """Return the coordinates of a region without any gradient, along dimensions that it does not span.

        A dimension that it spans is not new there: rows of an embedding whose token did not occur are not dead. Vectors
        are judged as a whole: softmax cancels a bias of keys, in any model, so that its gradient is rounding.
        """
        reached = self.reached.get(number)
        if reached is None or reached.ndim < 2:
            return []
        found = []
        for dim, along in enumerate(self.new[number]):
            where = np.arange(along.start, along.stop) if isinstance(along, slice) else along
            if where.size < self.shape[dim]:
                others = [d for d in range(reached.ndim) if d != dim]
                dead = ~reached.any(dim=others)
                if bool(dead.any()):
                    found.append((dim, tuple(where[dead.cpu().numpy()].tolist())))
        return found


def _squares(values: torch.Tensor, *, precisely: bool = False) -> float:
    """Return the sum of squares, in float64 where another one is subtracted from it."""
    dtype = torch.float64 if precisely else None
    return float(torch.linalg.vector_norm(values, dtype=dtype)) ** 2 if values.numel() else 0.0


def followed_regions(regions: Mapping[str, Regions], parameters: Mapping[str, nn.Parameter]) -> list[Followed]:
    """Return what to follow where new regions are known by parameter, and nothing else is."""
    found = []
    for name in parameters:
        given = regions.get(name, [])
        new = [
            tuple(compact(np.concatenate([np.arange(a, b, dtype=np.int64) for a, b in along])) for along in region)
            for region in given
        ]
        found.append(Followed(name, name, None, False, new, [list(region) for region in given], None))
    return found


def reaches(
    judged: list[Followed],
    watched: list[Followed],
    steps: int,
    table: UnitTable | None,
    parameters: Mapping[str, nn.Parameter],
    resting: frozenset[str] = frozenset(),
) -> list[Reach]:
    """Return what was found of every new region.

    Args:
        judged: the tensors whose new regions are meant.
        watched: those whose source values they are compared with.
        steps: how many were taken.
        table: where units are, to say why one is dead.
        parameters: of the trained model.
        resting: axes of units that an activation may keep at zero.
    """
    neighbours: dict[str, dict[int, float]] = {}
    for f in watched:
        if not f.is_new:
            largest = neighbours.setdefault(f.template, {})
            for step, rms in f.source_rms.items():
                largest[step] = max(largest.get(step, 0.0), rms)
    every = range(1, steps + 1)
    found = []
    for f in judged:
        beside = neighbours.get(f.template, {})
        source = f.source_rms or beside
        for number in range(len(f.new)):
            rms_at = f.rms.get(number, {})
            ratios = [rms_at[step] / beside[step] for step in rms_at if beside.get(step)]
            dead_at = tuple(f.dead_at(number))
            reason = _reason(f, dead_at, table, parameters) if dead_at else ""
            at_rest = 0 if reason else _at_rest(f, number, dead_at, resting)
            reach = Reach(
                tensor=f.stored,
                region=f.ranges[number],
                first_step=f.first.get(number),
                dead_units=0 if at_rest else sum(len(at) for _, at in dead_at),
                gradient=tuple(rms_at.get(step, 0.0) for step in every),
                source_gradient=tuple(source.get(step, 0.0) for step in every) if source else (),
                ratio=max(ratios) if ratios else None,
                dead_at=() if at_rest else dead_at,
                reason=reason,
                at_rest=at_rest,
            )
            found.append(reach)
    return found


_FEW = 4
"""Of so many units one may be at rest. More are not chance."""


def _at_rest(f: Followed, number: int, dead_at: DeadAt, resting: frozenset[str]) -> int:
    """Return how many units of a region an activation kept at zero on all inputs; 0 where it is dead otherwise."""
    if f.tensor is None or not resting:
        return 0
    if not dead_at and number not in f.first and len(f.shape) == 1:  # a bias: all of its new units
        along = f.new[number][0]
        positions = range(along.start, along.stop) if isinstance(along, slice) else along.tolist()
        dead_at = ((0, tuple(positions)),)
    found = [len(at) for dim, at in dead_at if {*term_axes(f.tensor.spec.dims[dim].term)} & resting]
    few = all(len(at) * _FEW <= f.shape[dim] for dim, at in dead_at)
    return sum(found) if few and len(found) == len(dead_at) else 0


def _reason(
    f: Followed,
    dead_at: DeadAt,
    table: UnitTable | None,
    parameters: Mapping[str, nn.Parameter],
) -> str:
    """Say where all that carries a dead unit is zero on both sides."""
    if table is None or f.tensor is None:
        return ""
    for dim, position in ((dim, position) for dim, positions in dead_at for position in positions):
        zero = table.zero_around(f.tensor, dim, position, lambda t: t.take(parameters[t.held.stored].detach()))
        if len(zero) > 1:
            return f"{', '.join(zero[:4])} are all zero there, and so both what writes the unit and what reads it"
    return ""


def _some(positions: tuple[int, ...]) -> str:
    return ", ".join(map(str, positions[:8])) + (", …" if positions[8:] else "")


def _show(region: list[Ranges]) -> str:
    parts = [",".join(f"{a}:{b}" for a, b in along[:3]) + (",…" if along[3:] else "") for along in region]
    return f"[{', '.join(parts)}]"


__all__ = ["Followed", "Reach", "Regions", "followed_regions", "reaches"]
