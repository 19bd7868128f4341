"""Compares the values of one region with what they must be: bit by bit where that is due, else up to rounding.

All is compared by bits first, a cache-sized chunk at a time; only where bits differ is it asked by how much, in
float64. ``ulps`` says how many units in the last place of its dtype a value may be off; 0 stops at the bits, but for
copies that must add up, each of which has been rounded with its noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from growformer.verification.regions import Region, spread
from growformer.verification.requirements import MeanOf, Scaled, Value

ROUNDING = 2.0**-53
SPAN = 256
"""How many values a mean adds up as a tree before it goes on in sequence."""
_CHUNK = 1 << 16
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(slots=True)
class Worst:
    """The largest deviation so far."""

    count: int = 0
    deviation: float = 0.0
    expected: float = 0.0
    found: float = 0.0
    at: tuple[int, ...] = ()

    def add(self, bad: torch.Tensor, found: torch.Tensor, expected: torch.Tensor, region: Region) -> None:
        """Count the entries that are bad, and keep the worst of them.

        Args:
            bad: which are, in the region's shape.
            found: values of that shape.
            expected: likewise, or one for all.
            region: positions in the tensor.
        """
        found, expected = found.double(), expected.double().expand(found.shape)
        off = torch.where(bad, (found - expected).abs().nan_to_num(math.inf, math.inf, math.inf), -1.0)
        flat = int(off.argmax())
        if not self.count or float(off.flatten()[flat]) > self.deviation:
            self.deviation = float(off.flatten()[flat])
            self.expected, self.found = float(expected.flatten()[flat]), float(found.flatten()[flat])
            where = np.unravel_index(flat, tuple(bad.shape))
            self.at = tuple(int(spread(along)[i]) for along, i in zip(region, where, strict=True))
        self.count += int(bad.sum())

    def merge(self, other: Worst) -> None:
        """Take in what another part of the same region has; of equal deviations the earlier one stays."""
        if other.count and (not self.count or other.deviation > self.deviation):
            self.deviation, self.expected, self.found = other.deviation, other.expected, other.found
            self.at = other.at
        self.count += other.count


def compare_copy(found: torch.Tensor, source: torch.Tensor, region: Region, worst: Worst) -> None:
    """Compare with the source's values, bit by bit, after one rounding where the dtypes differ."""
    if found.dtype == source.dtype and same_bits(found, source):
        return
    for rows in _chunks(found):
        expected = source[rows].to(found.dtype)
        if not same_bits(found[rows], expected):
            worst.add(bits(found[rows]) != bits(expected), found[rows], expected, _at(region, rows))


def compare_scaled(
    found: torch.Tensor, source: torch.Tensor, must: Scaled, region: Region, worst: Worst, *, ulps: int
) -> None:
    """Compare with ``scale * x + (scale - 1) * offset``, computed in float64 and rounded once.

    A value may be off by ``ulps`` units in the last place of its dtype: whoever rounds a factor first, or multiplies in
    float32, is not wrong.
    """
    scale, shift = float(must.scale), (float(must.scale) - 1.0) * must.offset
    for rows in _chunks(found):
        here = found[rows]
        wanted = source[rows].double() * scale + shift
        expected = wanted.to(here.dtype)
        if same_bits(here, expected):
            continue
        bad = _differ(here, expected)
        if ulps:
            # A rounded factor, one product, and with an offset two sums, in whichever order.
            slack = 4 * ROUNDING * (scale * (source[rows].double().abs() + must.offset) + must.offset)
            bad &= ~((here.double() - wanted).abs() <= ulps * unit(wanted, here.dtype) + slack)
        if bad.any():
            worst.add(bad, here, wanted, _at(region, rows))


def compare_mean(
    found: torch.Tensor,
    mean: tuple[torch.Tensor, torch.Tensor],
    dim: int,
    region: Region,
    worst: Worst,
    *,
    ulps: int,
) -> None:
    """Compare with a mean along a dimension; see ``mean_of``. Unless ``ulps`` is 0, in any order of its sum."""
    wanted, slack = (values.unsqueeze(dim).expand(found.shape) for values in mean)
    for rows in _chunks(found):
        here, expected = found[rows], wanted[rows].to(found.dtype)
        if same_bits(here, expected):
            continue
        bad = _differ(here, expected)
        if ulps:
            bad &= ~((here.double() - wanted[rows]).abs() <= ulps * unit(wanted[rows], here.dtype) + slack[rows])
        if bad.any():
            worst.add(bad, here, wanted[rows], _at(region, rows))


def compare_value(found: torch.Tensor, must: Value, region: Region, worst: Worst, *, ulps: int) -> None:
    """Compare with a constant. A zero may be negative, unless ``ulps`` is 0."""
    value = torch.tensor(float(must), dtype=torch.float64)
    if float(must) == 0 and is_all_zero_bits(found):
        return
    for rows in _chunks(found):
        here = found[rows]
        expected = value.to(here.dtype)
        bad = bits(here) != bits(expected)
        if not bad.any():
            continue
        if ulps:
            off = (here.double() - value).abs()
            bad &= ~(off <= (0 if must.is_exact else ulps * unit(value, here.dtype)))
        if bad.any():
            worst.add(bad, here, value, _at(region, rows))


def compare_sum(
    copies: Sequence[torch.Tensor],
    expected: Callable[[Any], tuple[torch.Tensor, torch.Tensor]],
    region: Region,
    worst: Worst,
    *,
    ulps: int,
) -> None:
    """Compare the sum of copies, each of which has been rounded on its own: a unit of the largest for each.

    Where ``ulps`` is 0, half a unit of each: no more can come of rounding every copy once.

    Args:
        copies: of equal shape.
        expected: gives what some rows must add up to, in float64, and how far another order may be from it.
        region: where the first copy stands.
        worst: takes what is wrong.
        ulps: see above.
    """
    for rows in _chunks(copies[0]):
        parts = [copy[rows].double() for copy in copies]
        total, largest = parts[0], parts[0].abs()
        for part in parts[1:]:
            total, largest = total + part, torch.maximum(largest, part.abs())
        wanted, slack = expected(rows)
        wanted = wanted.expand_as(total)
        # Every copy has been rounded once, by half a unit in its last place, and in float64 its sum with noise too.
        dtype = copies[0].dtype
        if not ulps:
            halves = torch.stack([unit(part, dtype) for part in parts]).sum(dim=0) / 2
            allowed = halves * (1 + 2.0**-12) + slack + 4 * len(copies) * ROUNDING * largest  # by way of float32
        else:
            allowed = ulps * len(copies) * torch.where(largest > 0, unit(largest, dtype), 0) + slack
        good = ((total - wanted).abs() <= allowed) | (total == wanted.to(dtype).double())
        good |= total.isnan() & wanted.isnan()
        if not good.all():
            worst.add(~good, total, wanted, _at(region, rows))


def expected_sum(
    must: Scaled | MeanOf | Value, source: torch.Tensor | None, mean: tuple[torch.Tensor, torch.Tensor] | None
) -> Callable[[Any], tuple[torch.Tensor, torch.Tensor]]:
    """Return what gives the float64 values of some rows that copies must add up to, and the slack of their order."""

    def expected(rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(must, Scaled):
            assert source is not None
            values = source[rows].double()
            wanted = float(must.scale) * (values + must.offset) - must.offset
            return wanted, 4 * ROUNDING * (float(must.scale) * (values.abs() + must.offset) + must.offset)
        if isinstance(must, MeanOf):
            assert mean is not None
            wanted, slack = (values.unsqueeze(must.dim) for values in mean)
            return (wanted, slack) if must.dim == 0 else (wanted[rows], slack[rows])
        return torch.tensor(float(must), dtype=torch.float64), torch.zeros((), dtype=torch.float64)

    return expected


def mean_of(parts: Iterator[torch.Tensor], dim: int, number: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a mean along a dimension times a factor, in float64, and how far another order of the sum may be from it.

    The order: neighbours are added in pairs, their sums again, until ``SPAN`` values are one; the spans in sequence.

    Args:
        parts: the values, ``SPAN`` times some along the dimension at a time.
        dim: the dimension.
        number: how many there are along it.
        scale: the factor.
    """
    total: torch.Tensor | None = None
    sizes: torch.Tensor | None = None
    for part in parts:
        for span in torch.split(part.movedim(dim, 0), SPAN):
            rows = span.double()
            size = rows.abs().sum(dim=0)
            while rows.shape[0] > 1:
                even = rows.shape[0] // 2 * 2
                pairs = rows[:even:2] + rows[1:even:2]
                rows = pairs if even == rows.shape[0] else torch.cat([pairs, rows[-1:]])
            total = rows[0] if total is None else total + rows[0]
            sizes = size if sizes is None else sizes + size
    assert total is not None
    assert sizes is not None
    # Summing n values in any order errs by at most n - 1 roundings of the sum of their sizes.
    return total / number * scale, (number + 4) * ROUNDING * (sizes / number * abs(scale))


def compare_free(
    found: torch.Tensor, expected: torch.Tensor | None, region: Region, infinite: Worst, different: Worst
) -> None:
    """Look for values that would overflow, and for those that are not what an initialisation gives."""
    if not is_bounded(found):
        bound = largest_free(found.dtype)
        for rows in _chunks(found):
            bad = ~(found[rows].float().abs() <= bound)
            if bad.any():
                infinite.add(bad, found[rows], torch.zeros(()), _at(region, rows))
    if expected is not None and not same_bits(found, expected):
        for rows in _chunks(found):
            bad = bits(found[rows]) != bits(expected[rows])
            if bad.any():
                different.add(bad, found[rows], expected[rows], _at(region, rows))


# Bits.


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bits of values, as integers of their width."""
    return tensor.view(_BITS[tensor.element_size()])


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Tell whether two tensors of one dtype and shape hold the same bits."""
    one, other = _words(first, second)
    return np.array_equal(one, other)


def is_all_zero_bits(tensor: torch.Tensor) -> bool:
    """Tell whether all bits are zero."""
    (words,) = _words(tensor)
    return not words.any()


def is_bounded(tensor: torch.Tensor) -> bool:
    """Tell whether no value is past the bound of its dtype, nor none at all; whole numbers are bounded."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # formats of which some have no infinity
        return bool(tensor.float().isfinite().all())
    bound = largest_free(tensor.dtype)
    low, high = torch.aminmax(tensor)  # a NaN is both
    return -bound <= float(low) and float(high) <= bound


def largest_free(dtype: torch.dtype) -> float:
    """Return how large a free value may be, orders of magnitude above any that was trained.

    What nothing reads is multiplied by zero, and infinity times zero is no number. The most that free values meet is
    the product of two sums over a width (a query with a key, a gate with what it gates), and the square of that in a
    norm. With weights up to 2^30, inputs up to 2^10 and widths up to 2^14 that is 2^108, and float32 ends at 2^128.
    """
    return 2.0**12 if dtype == torch.float16 else 2.0**30


def _words(*tensors: torch.Tensor) -> tuple[npt.NDArray[np.generic], ...]:
    """Return bits as integers as wide as the last dimension allows for all: fewer of them are compared faster."""
    views = [bits(tensor) for tensor in tensors]
    width = views[0].element_size()
    for wider in (8, 4):
        many = wider // width
        if many > 1 and all(_fits(view, many) for view in views):
            return tuple(view.view(_BITS[wider]).numpy() for view in views)
    return tuple(view.numpy() for view in views)


def _fits(view: torch.Tensor, many: int) -> bool:
    if not view.ndim or view.stride(-1) != 1 or view.shape[-1] % many or view.storage_offset() % many:
        return False
    return all(stride % many == 0 for stride in view.stride()[:-1])


def _differ(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Return where bits differ; what is no number has no bits of its own."""
    return (bits(found) != bits(expected)) & ~(found.isnan() & expected.isnan())


def _chunks(tensor: torch.Tensor) -> Iterator[Any]:
    """Yield indices of runs of rows whose float64 stay in the cache."""
    if not tensor.ndim:
        yield ...
        return
    rows = tensor.shape[0]
    step = max(1, _CHUNK * rows // max(1, tensor.numel()))
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))


def _at(region: Region, rows: Any) -> Region:
    """Return the positions of some rows of a region."""
    return (spread(region[0])[rows], *region[1:]) if region else ()


def unit(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return one unit in the last place of each value in a dtype (float64)."""
    info = torch.finfo(dtype)
    exponent = torch.where(values == 0, -math.inf, torch.frexp(values.abs()).exponent.double() - 1)
    return torch.clamp(torch.exp2(exponent) * info.eps, min=info.smallest_normal * info.eps)


__all__ = [
    "Worst", "compare_copy", "compare_free", "compare_mean", "compare_scaled", "compare_sum", "compare_value",
    "expected_sum", "mean_of", "unit",
]  # fmt: skip
