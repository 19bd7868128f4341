"""Where every coordinate of a grown axis comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from growformer.architecture.declaration import MAX_COORDINATES, Architecture
from growformer.errors import PlanError

Indices = npt.NDArray[np.int64]
NEW = -1


@dataclass(frozen=True, slots=True)
class AxisMap:
    """Target coordinate -> source coordinate, or new.

    Attributes:
        source_size: size of the axis in the source (0: the whole axis is new).
        runs: ``(first source coordinate, count)`` in target order; the first is -1 for a run of new coordinates.
    """

    source_size: int
    runs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Refuse a map that only a record from somewhere else can hold."""
        if sum(abs(count) for _, count in self.runs) > MAX_COORDINATES:
            raise PlanError(f"an axis map of more than {MAX_COORDINATES:,} coordinates; no axis of a model has as many")

    @property
    def target_size(self) -> int:
        """Size of the axis in the target."""
        return sum(count for _, count in self.runs)

    @property
    def copies(self) -> int:
        """How often every source coordinate appears.

        Raises:
            PlanError: not equally often; no preserving reader exists for such a map.
        """
        found = self.array()
        counts = np.bincount(found[found >= 0], minlength=self.source_size) if self.source_size else np.array([1])
        if counts.min() != counts.max() or counts.min() == 0:
            raise PlanError(f"an axis map must use every source coordinate equally often, found {counts.tolist()}")
        return int(counts[0])

    def array(self) -> Indices:
        """Return the map as an integer array of the target's size, -1 where new."""
        return _array(self)

    def after(self, first: AxisMap) -> AxisMap:
        """Return the map of two growth steps: ``first`` from the source, then this one."""
        if first.target_size != self.source_size:
            raise PlanError(
                f"cannot compose axis maps: the first ends at size {first.target_size}, "
                f"the second starts from {self.source_size}"
            )
        second, mid = self.array(), first.array()
        return AxisMap.from_array(first.source_size, np.where(second >= 0, mid[np.maximum(second, 0)], NEW))

    @staticmethod
    def append(source_size: int, target_size: int) -> AxisMap:
        """New coordinates come after the source's."""
        runs = [(0, source_size), (NEW, target_size - source_size)]
        return AxisMap(source_size, tuple(run for run in runs if run[1]))

    @staticmethod
    def tile(source_size: int, target_size: int) -> AxisMap:
        """The whole axis repeated; the target is a whole multiple."""
        return AxisMap(source_size, ((0, source_size),) * (target_size // source_size))

    @staticmethod
    def from_array(source_size: int, source: Indices) -> AxisMap:
        """Read a map from an array of source coordinates, -1 where new."""
        runs: list[tuple[int, int]] = []
        for value in source.tolist():
            if runs and value != NEW and runs[-1][0] != NEW and value == runs[-1][0] + runs[-1][1]:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            elif runs and value == NEW and runs[-1][0] == NEW:
                runs[-1] = (NEW, runs[-1][1] + 1)
            else:
                runs.append((value, 1))
        return AxisMap(source_size, tuple(runs))


Positions = Mapping[str, Mapping[tuple[int, ...], tuple[int, ...]]]
"""Index axis -> instance of the axes around it -> for every target position a source position, or -1."""


def origin_of(architecture: Architecture, positions: Positions, index: Mapping[str, int]) -> dict[str, int] | None:
    """Return the source instance that a target instance leads to; None where one of its axes leads to none."""
    found: dict[str, int] = {}
    for axis in architecture.sizes:
        if axis in index:
            key = tuple(index[name] for name in architecture.size_index(axis))
            at = positions[axis][key][index[axis]]
            if at == NEW:
                return None
            found[axis] = at
    return found


@lru_cache(maxsize=4096)
def _array(axis_map: AxisMap) -> Indices:
    parts = [
        np.full(count, NEW, dtype=np.int64) if first == NEW else np.arange(first, first + count, dtype=np.int64)
        for first, count in axis_map.runs
    ]
    found = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    found.setflags(write=False)
    return found
