"""How far two results are from a third: over everything, position by position, and what rounding alone can explain.

Errors are Frobenius norms relative to the reference's; a position's error is relative to the root mean square of the
reference's positions, so that the mean square over positions is the square of the error over everything. Whether one
position is off is judged by the largest error that the source has among its neighbours, see ``fluctuation``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

MAX_BINS = 64
"""Into how many parts the positions are divided."""
FALSE_ALARM = 1e-5
"""Probability that rounding alone puts any position of a comparison over its limit."""
FLOOR = 1e-13
"""Where the source computes its float64 result exactly, any deviation within this is the order of a sum."""

_ROWS = 256
"""From how many positions the number of independent directions of rounding errors is read off."""
_CHUNK = 1 << 24
"""How many values are compared at a time, to bound the memory that float64 copies of them take."""


@dataclass(frozen=True, slots=True)
class PositionErrors:
    """Errors over the positions ``start`` to ``stop`` of all sequences.

    Attributes:
        start, stop: the positions.
        source_error, grown_error: root mean square of the positions' errors.
        source_largest, grown_largest: the largest of them.
    """

    start: int
    stop: int
    source_error: float
    grown_error: float
    source_largest: float
    grown_largest: float

    @property
    def ratio(self) -> float:
        """The grown model's largest error relative to the source's."""
        return self.grown_largest / max(self.source_largest, FLOOR)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return plain(self)


@dataclass(frozen=True, slots=True)
class Worst:
    """The position at which the grown model is furthest off, compared with the source around it.

    Attributes:
        sequence, position: where.
        token: its id; None where the input is no tokens.
        text: what the token stands for, where there is a tokenizer.
        output: the name of the output.
        source_error, grown_error: both models' errors there.
    """

    sequence: int
    position: int
    token: int | None
    text: str | None
    output: str
    source_error: float
    grown_error: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return plain(self)


@dataclass(frozen=True, slots=True)
class OutputErrors:
    """One output of both models.

    Attributes:
        name: of the output.
        source_error, grown_error: over everything.
        largest: largest difference between the models, relative to the source's largest value.
        same: share of positions at which both have their largest value at the same coordinate.
        by_position: at most ``MAX_BINS`` parts; none where the output has no positions.
        position_factor: what rounding alone can make of the ratio of two positions' errors.
        worst: (sequence, position, the source's error, the grown model's) of the position furthest off.
    """

    name: str
    source_error: float
    grown_error: float
    largest: float
    same: float
    by_position: tuple[PositionErrors, ...] = ()
    position_factor: float = 1.0
    worst: tuple[int, int, float, float] | None = None

    @property
    def ratio(self) -> float:
        """The grown model's error relative to the source's."""
        return self.grown_error / max(self.source_error, FLOOR)

    @property
    def position_ratio(self) -> float:
        """The largest ratio of any part of the positions; NaN counts as the largest."""
        ratios = [part.ratio for part in self.by_position]
        return math.nan if any(map(math.isnan, ratios)) else max(ratios, default=0.0)


def plain(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON can hold them: null for what is no finite number."""
    found = {name: getattr(record, name) for name in record.__slots__}
    return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in found.items()}


def fluctuation(directions: float, count: int) -> float:
    """Return the factor by which, of ``count`` pairs of rounding errors, one may exceed the other by chance.

    If both errors of a pair are vectors with ``directions`` independent components of the same variance, the square of
    their ratio has the F distribution with that many degrees of freedom, however large the errors at that position
    are. With a = directions / 2 and b = F / (1 + F), which is Beta(a, a) distributed, the probability that b exceeds
    1 - e is at most ``e^a / (a B(a, a))`` for a >= 1 (and ``2^(1 - a)`` times that below). The factor is that at which
    this bound, for any of the ``count`` pairs, is ``FALSE_ALARM``.
    """
    a = max(directions, 1.0) / 2
    log_beta = 2 * math.lgamma(a) - math.lgamma(2 * a)
    log_tail = math.log(FALSE_ALARM / max(count, 1)) + math.log(a) + log_beta - max(0.0, 1 - a) * math.log(2)
    rest = min(math.exp(log_tail / a), 0.5)
    return math.sqrt((1 - rest) / rest)


def errors_of(
    name: str,
    reference: Sequence[torch.Tensor],
    own: Sequence[torch.Tensor],
    other: Sequence[torch.Tensor],
    *,
    typical: bool = False,
) -> OutputErrors:
    """Compare one output of several batches.

    Args:
        name: of the output.
        reference: per batch, what the source gives in float64: ``(sequence, position, value)``, or ``(sequence,
            value)`` without positions.
        own: what the source gives in some dtype, of the same shapes.
        other: what the grown model gives in that dtype, likewise.
        typical: take the position in the middle for all, and judge none alone: where rounding sends tokens to other
            experts, those are off by what an expert gives.
    """
    norm = math.sqrt(sum(_sum_of_squares(r) for r in reference)) or 1.0
    squares: list[tuple[torch.Tensor, torch.Tensor]] = []
    directions: list[torch.Tensor] = []
    largest, peak, same, rows = 0.0, 0.0, 0, 0
    for y, mine, its in zip(reference, own, other, strict=True):
        found = _squares(y, mine, its)
        squares.append((found.own, found.other))
        largest, peak = _larger(largest, found.largest), max(peak, found.peak)
        same, rows = same + found.same, rows + found.own.numel()
        directions.append(found.sample)
    source_error, grown_error = (
        math.sqrt(sum(float(pair[which].sum()) for pair in squares)) / norm for which in (0, 1)
    )
    if typical:
        source_error, grown_error = (
            _middle(torch.cat([pair[which].reshape(-1) for pair in squares])) / norm for which in (0, 1)
        )
    figures = OutputErrors(name, source_error, grown_error, largest / (peak or 1.0), same / max(rows, 1))
    if typical or reference[0].ndim < 3:
        return figures
    per_position = norm / math.sqrt(rows)
    together = [(own_.sqrt() / per_position, other_.sqrt() / per_position) for own_, other_ in squares]
    parts, worst = _by_position(together)
    return OutputErrors(
        name, source_error, grown_error, figures.largest, figures.same, parts,
        fluctuation(_independent(torch.cat(directions)), rows), worst,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Squares:
    """Squared errors per row of both models, a sample of the source's errors, and figures of the batch."""

    own: torch.Tensor
    other: torch.Tensor
    sample: torch.Tensor
    largest: float
    peak: float
    same: int


def _squares(y: torch.Tensor, mine: torch.Tensor, its: torch.Tensor) -> _Squares:
    shape, width = y.shape[:-1], y.shape[-1]
    rows = (y.reshape(-1, width), mine.reshape(-1, width), its.reshape(-1, width))
    count = rows[0].shape[0]
    step = max(1, _CHUNK // max(width, 1))
    picked = torch.linspace(0, count - 1, min(count, _ROWS)).long()
    own, other, sample = [], [], []
    largest, peak, same = 0.0, 0.0, 0
    for start in range(0, count, step):
        exact, source, grown = (part[start : start + step].double() for part in rows)
        off = _minus(source, exact)
        own.append(off.square().sum(-1))
        other.append(_minus(grown, exact).square().sum(-1))
        here = picked[(picked >= start) & (picked < start + step)] - start
        sample.append(off[here])
        if off.numel():
            largest = _larger(largest, float(_minus(grown, source).abs().max()))
            peak = max(peak, float(source.abs().nan_to_num(0, 0, 0).max()))
            same += int((source.argmax(-1) == grown.argmax(-1)).sum())
    return _Squares(
        torch.cat(own).reshape(shape), torch.cat(other).reshape(shape), torch.cat(sample), largest, peak, same
    )


def _minus(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a difference in which equal infinities are equal."""
    return torch.where(a == b, 0.0, a - b)


def _larger(a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def _middle(squares: torch.Tensor) -> float:
    """Return the error over everything, were it everywhere what it is at the position in the middle."""
    if not bool(squares.isfinite().all()):
        return math.inf
    return math.sqrt(float(squares.median()) * squares.numel())


def _sum_of_squares(tensor: torch.Tensor) -> float:
    flat = tensor.reshape(-1)
    parts = (flat[start : start + _CHUNK].double() for start in range(0, flat.numel(), _CHUNK))
    return sum(float(torch.where(part.isinf(), 0.0, part).square().sum()) for part in parts)


def _independent(errors: torch.Tensor) -> float:
    """Return in how many independent directions rounding errors point: 1 over the mean squared cosine of two of them.

    Args:
        errors: ``(position, value)``.
    """
    norms = errors.norm(dim=-1)
    directions = errors[norms > 0] / norms[norms > 0, None]
    count = directions.shape[0]
    if count < 2:
        return 1.0
    cosines = (directions @ directions.T).square()
    mean = float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))
    return float(errors.shape[-1]) if mean <= 1 / errors.shape[-1] else 1 / mean


def _by_position(
    errors: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[tuple[PositionErrors, ...], tuple[int, int, float, float]]:
    """Return the errors of parts of the positions, and where the grown model is furthest off.

    Args:
        errors: per batch, both models' errors of shape ``(sequence, position)``.
    """
    length = max(own.shape[1] for own, _ in errors)
    bins = min(length, MAX_BINS)
    parts, worst, furthest = [], (0, 0, 0.0, 0.0), -1.0
    for index in range(bins):
        start, stop = index * length // bins, (index + 1) * length // bins
        own, other = (torch.cat([pair[which][:, start:stop].reshape(-1) for pair in errors]) for which in (0, 1))
        part = PositionErrors(start, stop, _rms(own), _rms(other), float(own.max()), float(other.max()))
        parts.append(part)
        if not part.ratio <= furthest:
            furthest = math.inf if math.isnan(part.ratio) else part.ratio
            worst = _furthest(errors, start, stop)
    return tuple(parts), worst


def _rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())


def _furthest(
    errors: Sequence[tuple[torch.Tensor, torch.Tensor]], start: int, stop: int
) -> tuple[int, int, float, float]:
    """Return the sequence and position of the grown model's largest error between two positions, and both errors."""
    first, found, largest = 0, (0, start, 0.0, 0.0), -1.0
    for own, other in errors:
        here = other[:, start:stop].nan_to_num(math.inf)
        if here.numel() and float(here.max()) > largest:
            largest = float(here.max())
            row, column = divmod(int(here.argmax()), here.shape[1])
            at = (row, start + column)
            found = (first + row, start + column, float(own[at]), float(other[at]))
        first += own.shape[0]
    return found


Decode = Callable[[int], str]
"""Token -> its text."""

__all__ = [
    "FALSE_ALARM", "FLOOR", "MAX_BINS", "Decode", "OutputErrors", "PositionErrors", "Worst", "errors_of",
    "fluctuation", "plain",
]  # fmt: skip
