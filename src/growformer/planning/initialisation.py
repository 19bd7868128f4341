"""Fresh values for free blocks: any value preserves the function, these choose which.

A value depends on the seed, the canonical name of its tensor and its coordinates, and on nothing else: not on
shards, threads, the order of work or the size of the tensor. Each is one hash (the finaliser of SplitMix64, a
counter-based generator) turned into a normal number by a table of 65,536 quantiles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from growformer.errors import PlanError, RequestError, did_you_mean
from growformer.planning.blocks import Fill, Index1D, Noise, Region, length, positions

Floats = npt.NDArray[np.float32]
NAMES = ("normal", "copy", "orthogonal", "noise", "zero")
Custom = Callable[[Fill, Floats], Floats]
Drawn = TypeVar("Drawn", bound=np.generic)

CUSTOM = "custom"
COPY_NOISE = 0.1
"""Standard deviation of the noise on copies, as a share of a fresh weight's."""
_GROUPS = 8192
"""Hashes at a time: their arrays fit in the second-level cache."""


@dataclass(frozen=True, slots=True)
class Initialisation:
    """How free blocks are filled.

    Attributes:
        name: ``normal``: weights from N(0, std), biases 0, gains 1. ``copy``: the coordinate that a new one stands
            for, with noise. ``orthogonal``: orthonormal rows or columns of the block, at the size of ``normal``.
            ``noise``: as normal, gains and biases random too (for tests: nothing hides behind an identity).
            ``zero``: all weights zero, which saddles what they meet; only for comparisons.
        seed: any integer.
        std: standard deviation of fresh weights.
        custom: the user's own function of the block and standard normal numbers of its shape; not serialisable.
    """

    name: str = "normal"
    seed: int = 0
    std: float = 0.02
    custom: Custom | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown name."""
        if self.custom is None and self.name not in NAMES:
            raise RequestError(
                f"unknown initialisation {self.name!r}: expected one of {', '.join(NAMES)}"
                f"{did_you_mean(self.name, NAMES)}"
            )

    def pointwise(self, fill: Fill) -> float | Floats | None:
        """Return what a block without a template is filled with, coordinate by coordinate.

        A constant, or the table that gives a coordinate's value for its 16 random bits (see ``draw``). None: the values
        depend on the whole block.
        """
        if self.custom is not None:
            return None
        if self.name == "noise":
            centre = 1 - fill.offset if fill.kind == "gain" else 0
            noisy: Floats = _times(_quantiles(), self.std if fill.kind == "weight" else 0.25) + np.float32(centre)
            return noisy
        if fill.kind == "gain":
            return float(1 - fill.offset)
        if fill.kind == "bias" or self.name == "zero":
            return 0.0
        if self.name == "orthogonal" and len(fill.coordinates) == 2:
            return None
        return _times(_quantiles(), self.std)

    def values(self, fill: Fill) -> Floats:
        """Return fresh values for a block without a template (float32, shape of the block)."""
        made = self.pointwise(fill)
        if isinstance(made, float):
            return np.full(tuple(length(index) for index in fill.coordinates), made, dtype=np.float32)
        if made is not None:
            return draw(self.seed, fill.tensor, fill.coordinates, made)
        normal = standard_normal(self.seed, fill.tensor, fill.coordinates)
        if self.custom is None:
            return self._orthogonal(normal)
        values: Floats = np.ascontiguousarray(self.custom(fill, normal), dtype=np.float32)
        return values

    def copies(self) -> bool:
        """Whether a block with a template starts from it."""
        return self.name == "copy" and self.custom is None

    def copy_noise(self, fill: Fill) -> Floats:
        """Return what is added to a copied block."""
        normal = standard_normal(self.seed, fill.tensor, fill.coordinates)
        return _times(normal, COPY_NOISE * self.std if fill.kind == "weight" else 0)

    def cancelling(self, noise: Noise) -> npt.NDArray[np.float64]:
        """Return noise for one copy, in float64, so that over all copies of a source coordinate it adds up to zero."""
        following = (noise.copy + 1) % noise.copies
        first = standard_normal(self.seed, f"{noise.tensor}#{noise.copy}", noise.coordinates)
        second = standard_normal(self.seed, f"{noise.tensor}#{following}", noise.coordinates)
        difference: npt.NDArray[np.float64] = first.astype(np.float64) - second
        return difference * (COPY_NOISE * self.std)

    def _orthogonal(self, normal: Floats) -> Floats:
        tall = normal if normal.shape[0] >= normal.shape[1] else normal.T
        q, r = np.linalg.qr(tall.astype(np.float64))
        q = q * np.sign(np.diag(r))
        scaled = q * self.std * np.sqrt(tall.shape[0])
        values: Floats = np.ascontiguousarray(scaled if tall is normal else scaled.T, dtype=np.float32)
        return values

    def to_json(self) -> dict[str, Any]:
        """Return plain data; of a function, that there was one."""
        return {"name": CUSTOM if self.custom is not None else self.name, "seed": self.seed, "std": self.std}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Initialisation:
        """Read what ``to_json`` wrote; a function cannot be read back, and says so when it is needed."""
        lost = _lost if data["name"] == CUSTOM else None
        return Initialisation(data["name"], data["seed"], data["std"], custom=lost)

    @property
    def can_regenerate(self) -> bool:
        """Whether the same values can be made again."""
        return self.custom is not _lost


def _lost(fill: Fill, normal: Floats) -> Floats:
    raise PlanError(
        f"{fill.tensor}: the plan was made with a function as initialisation, which a file cannot hold; plan again "
        "with it, or name one of " + ", ".join(NAMES)
    )


def standard_normal(seed: int, name: str, coordinates: Region) -> Floats:
    """Return standard normal numbers for coordinates of a named tensor (float32, the block's shape)."""
    return draw(seed, name, coordinates, _quantiles())


def draw(
    seed: int, name: str, coordinates: Region, table: npt.NDArray[Drawn], out: npt.NDArray[Drawn] | None = None
) -> npt.NDArray[Drawn]:
    """Return the entry of a table of 65,536 that each coordinate of a named tensor draws (the block's shape).

    One hash gives four neighbours along the last dimension, 16 bits each. The work is cut so that it stays in a
    core's cache.

    Args:
        seed: any integer.
        name: canonical name of the tensor.
        coordinates: logical coordinates of the block.
        table: its entries may be of any dtype.
        out: is written into and returned, if given; it may be a view.
    """
    shape = tuple(length(index) for index in coordinates)
    if out is None:
        out = np.empty(shape, dtype=table.dtype)
    if 0 in shape:
        return out
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    leading = coordinates[:-1]
    state = np.full((1,) * len(leading), np.frombuffer(digest, dtype="<u8")[0], dtype=np.uint64)
    for dim, index in enumerate(leading):
        along = _steps(positions(index)).reshape(tuple(-1 if d == dim else 1 for d in range(len(leading))))
        state = state + along
        _mix(state, np.empty_like(state))
    if len(shape) < 3:
        _draw_rows(state.reshape(-1), coordinates[-1], table, out.reshape(-1, shape[-1]) if len(shape) == 1 else out)
        return out
    for outer in np.ndindex(shape[:-2]):
        _draw_rows(state[outer], coordinates[-1], table, out[outer])
    return out


def _draw_rows(rows: npt.NDArray[np.uint64], last: Index1D, table: npt.NDArray[Drawn], out: npt.NDArray[Drawn]) -> None:
    """Fill ``out`` (rows, columns), given the state of every row."""
    if isinstance(last, slice):
        for first in range(last.start - last.start % 4, last.stop, 4 * _GROUPS):
            start, stop = max(first, last.start), min(first + 4 * _GROUPS, last.stop)
            groups = _steps(np.arange(first // 4, (stop + 3) // 4))
            picked = slice(start - first, stop - first)
            _draw_groups(rows, groups, picked, table, out[:, start - last.start : stop - last.start])
        return
    distinct, which = _distinct(last // 4)
    _draw_groups(rows, _steps(distinct), which * 4 + last % 4, table, out)


def _distinct(values: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the different values in order, and which of them each one is; fast where they are in order already."""
    steps = np.diff(values)
    if not (steps >= 0).all():
        return np.unique(values, return_inverse=True)
    is_next = np.concatenate([[True], steps > 0])
    return values[is_next], np.cumsum(is_next) - 1


def _draw_groups(
    rows: npt.NDArray[np.uint64],
    groups: npt.NDArray[np.uint64],
    picked: Index1D,
    table: npt.NDArray[Drawn],
    out: npt.NDArray[Drawn],
) -> None:
    together = min(max(1, _GROUPS // groups.size), rows.size)
    state = np.empty((together, groups.size), dtype="<u8")
    spare = np.empty_like(state)
    index = np.empty((together, length(picked)), dtype=np.intp)
    values = np.empty(index.shape, dtype=table.dtype)
    for start in range(0, rows.size, together):
        count = min(together, rows.size - start)
        np.add(rows[start : start + count, None], groups, out=state[:count])
        _mix(state[:count], spare[:count])
        index[:count] = state[:count].view("<u2")[:, picked]
        np.take(table, index[:count], out=values[:count], mode="wrap")  # "raise" would copy through a buffer
        out[start : start + count] = values[:count]


def _steps(along: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    steps: npt.NDArray[np.uint64] = (along.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return steps


def _mix(z: npt.NDArray[np.uint64], spare: npt.NDArray[np.uint64]) -> None:
    """Apply the finaliser of SplitMix64 in place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None)):
        np.right_shift(z, np.uint64(shift), out=spare)
        np.bitwise_xor(z, spare, out=z)
        if factor is not None:
            np.multiply(z, np.uint64(factor), out=z)


def _times(values: Floats, factor: float) -> Floats:
    scaled: Floats = values * np.float32(factor)
    return scaled


@lru_cache(maxsize=1)
def _quantiles() -> Floats:
    # 32,768 positive quantiles mirrored, scaled to unit variance.
    half = np.array([NormalDist().inv_cdf((i + 0.5) / 65536) for i in range(32768)])
    table = np.concatenate([half, -half[::-1]])
    scaled: Floats = (table / np.sqrt(np.mean(table**2))).astype(np.float32)
    return scaled


__all__ = ["COPY_NOISE", "NAMES", "Initialisation", "draw", "standard_normal"]
