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
from typing import Any

import numpy as np
import numpy.typing as npt

from growformer.errors import PlanError, RequestError, did_you_mean
from growformer.planning.blocks import Fill, Noise, positions

Floats = npt.NDArray[np.float32]
NAMES = ("normal", "copy", "orthogonal", "noise", "zero")
Custom = Callable[[Fill, Floats], Floats]

CUSTOM = "custom"
COPY_NOISE = 0.1
"""Standard deviation of the noise on copies, as a share of a fresh weight's."""


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

    def values(self, fill: Fill) -> Floats:
        """Return fresh values for a block without a template (float32, shape of the block)."""
        normal = standard_normal(self.seed, fill.tensor, fill.coordinates)
        if self.custom is not None:
            values: Floats = np.ascontiguousarray(self.custom(fill, normal), dtype=np.float32)
            return values
        if self.name == "noise":
            centre = 1 - fill.offset if fill.kind == "gain" else 0
            noisy: Floats = _times(normal, self.std if fill.kind == "weight" else 0.25) + np.float32(centre)
            return noisy
        if fill.kind == "gain":
            return np.full(normal.shape, 1 - fill.offset, dtype=np.float32)
        if fill.kind == "bias" or self.name == "zero":
            return np.zeros(normal.shape, dtype=np.float32)
        if self.name == "orthogonal" and normal.ndim == 2:
            return self._orthogonal(normal)
        return _times(normal, self.std)

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


def standard_normal(seed: int, name: str, coordinates: tuple[slice | npt.NDArray[np.int64], ...]) -> Floats:
    """Return standard normal numbers for coordinates of a named tensor (float32, the block's shape).

    One hash gives four neighbours along the last dimension, 16 bits each.
    """
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    state = np.full((1,) * len(coordinates), np.frombuffer(digest, dtype="<u8")[0], dtype=np.uint64)
    last = positions(coordinates[-1])
    first_group = int(last.min(initial=0)) // 4
    groups = np.arange(first_group, int(last.max(initial=0)) // 4 + 1, dtype=np.uint64)
    for dim, index in enumerate(coordinates):
        shape = tuple(-1 if d == dim else 1 for d in range(len(coordinates)))
        along = groups if dim == len(coordinates) - 1 else positions(index).astype(np.uint64)
        state = _mix(state + (along.reshape(shape) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    lanes = np.ascontiguousarray(state, dtype="<u8").view("<u2")
    offset = last - 4 * first_group
    picked = (
        lanes[..., int(offset[0]) : int(offset[-1]) + 1] if isinstance(coordinates[-1], slice) else lanes[..., offset]
    )
    values: Floats = _quantiles()[picked]
    return values


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


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


__all__ = ["COPY_NOISE", "NAMES", "Initialisation", "standard_normal"]
