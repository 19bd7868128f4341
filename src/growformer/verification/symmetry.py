"""Units locked in symmetry: those that hold the same values, and get the same gradients, in all that carries them.

Units start in one class, and every tensor that carries them splits the classes in which it tells two apart. What is
left together at the end is equal everywhere. Nearly always the first matrix tells all apart, and no more is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from growformer.verification.live_tensors import LiveTensor
from growformer.verification.units import Carrier, Key, UnitTable, described

EQUAL = 1e-6
"""Up to this, relative to the largest, two units' values and gradients count as identical."""
_SKETCH = 16
"""Random projections that stand for a tensor where every unit has one of its own."""


@dataclass(frozen=True, slots=True)
class Locked:
    """Units that nothing tells apart.

    Attributes:
        units: groups of coordinates that are equal to each other; each has a new one in it.
        where: which axis, in words: ``mlp of layer 1``.
        tensors: the parameters that carry them.
    """

    units: tuple[tuple[int, ...], ...]
    where: str
    tensors: tuple[str, ...]

    def __str__(self) -> str:
        groups = " and ".join(", ".join(map(str, group[:6])) + (", …" if group[6:] else "") for group in self.units[:3])
        more = f" and {len(self.units) - 3} more groups" if self.units[3:] else ""
        return f"{self.where}: {groups}{more}"


class Symmetry:
    """Follows which units are still equal.

    Args:
        table: where units are.
    """

    def __init__(self, table: UnitTable) -> None:
        self.table = table
        self._classes = {key: np.zeros(units.new.shape, dtype=np.int64) for key, units in table.units.items()}
        self._open = set(self._classes)
        self._sketches: dict[tuple[Key, str], dict[int, tuple[tuple[int, ...], torch.Tensor, float]]] = {}
        for key in list(self._open):
            self._close_if_apart(key)

    def wants(self, tensor: LiveTensor) -> bool:
        """Tell whether a tensor carries units that nothing has told apart yet."""
        return any(key in self._open for key, _ in self.table.carriers[tensor.held.canonical])

    def begin(self) -> None:
        """Start another round of comparisons: values, or the gradients of one step."""
        self._sketches.clear()

    def compare(self, tensor: LiveTensor, values: torch.Tensor) -> None:
        """Tell units apart by a declared tensor's values, or by its gradient; it is not kept."""
        for key, carrier in self.table.carriers[tensor.held.canonical]:
            if key not in self._open:
                continue
            if carrier.dim is None:
                self._sketch(key, tensor, carrier, values)
            else:
                largest = _largest(values)
                for classes, positions in zip(self._classes[key], carrier.positions, strict=True):
                    _refine(classes, _rows(values, carrier.dim, positions), largest)
            self._close_if_apart(key)

    def _sketch(self, key: Key, tensor: LiveTensor, carrier: Carrier, values: torch.Tensor) -> None:
        """Note down projections of one unit's own tensor, and compare once those of all units are there."""
        flat = values.reshape(-1)
        drawn = torch.randn(flat.numel(), _SKETCH, generator=torch.Generator().manual_seed(0)).to(flat)
        seen = self._sketches.setdefault((key, tensor.spec.template), {})
        shadow = (flat @ drawn) / math.sqrt(max(flat.numel(), 1))
        seen[carrier.at] = (tuple(values.shape), shadow.cpu(), _largest(values))
        (classes,) = self._classes[key]
        if len(seen) < classes.size:
            return
        del self._sketches[key, tensor.spec.template]
        shapes = [seen[at][0] for at in range(classes.size)]
        known = list(dict.fromkeys(shapes))
        apart = torch.tensor([[float(known.index(shape))] for shape in shapes])
        _refine(classes, apart, 1.0)
        # A projection of differences up to EQUAL is a few times as large at most.
        _refine(classes, torch.stack([seen[at][1] for at in range(classes.size)]), 8 * max(s[2] for s in seen.values()))

    def _close_if_apart(self, key: Key) -> None:
        if all(len(np.unique(classes)) == classes.size for classes in self._classes[key]):
            self._open.discard(key)

    def locked(self) -> Iterator[Locked]:
        """Yield the groups of equal units with a new one among them, but for those that a copied layer has copied."""
        for key in sorted(self._open):
            units = self.table.units[key]
            copied = self.table.copied(key) if units.new.all() else None
            for number, classes in enumerate(self._classes[key]):
                inherited = self._classes[copied][number] if copied is not None else None
                groups = []
                for code in np.unique(classes):
                    members = np.flatnonzero(classes == code)
                    if members.size < 2 or not units.new[number][members].any():
                        continue
                    if _are_one(inherited, members):
                        continue
                    groups.append(tuple(members.tolist()))
                if groups:
                    where = described(units.axis, units.instance, units.contexts[number])
                    yield Locked(tuple(groups), where, tuple(dict.fromkeys(units.tensors)))


def _are_one(classes: npt.NDArray[np.int64] | None, members: npt.NDArray[np.int64]) -> bool:
    return classes is not None and members.max() < classes.size and len(np.unique(classes[members])) == 1


def _rows(values: torch.Tensor, dim: int, positions: npt.NDArray[np.int64]) -> torch.Tensor:
    """Return ``[units, what each has]``."""
    index = torch.from_numpy(positions.reshape(-1)).to(values.device)
    return values.index_select(dim, index).movedim(dim, 0).reshape(positions.shape[0], -1)


def _largest(values: torch.Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _refine(classes: npt.NDArray[np.int64], rows: torch.Tensor, largest: float) -> None:
    """Split classes, in place, into those whose rows agree up to ``EQUAL`` of the largest value."""
    allowed = EQUAL * largest
    drawn = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0)).to(rows)
    shadow = (rows @ drawn).double().cpu().numpy()
    # Rows that agree have projections closer than this: eight standard deviations of a sum of that many differences.
    near = 8 * allowed * math.sqrt(max(rows.shape[1], 1))
    fresh = int(classes.max(initial=0)) + 1
    for code in np.unique(classes):
        members = np.flatnonzero(classes == code)
        if members.size < 2:
            continue
        members = members[np.argsort(shadow[members], kind="stable")]
        runs = np.split(members, np.flatnonzero(~(np.diff(shadow[members]) <= near)) + 1)
        alone = np.array([run[0] for run in runs[1:] if run.size == 1], dtype=np.int64)
        classes[alone] = fresh + np.arange(alone.size)
        fresh += alone.size
        for number, run in enumerate(runs):
            if run.size == 1:
                continue  # the first of all keeps the class that it had
            pending, first = run, number == 0
            while pending.size:
                there = torch.from_numpy(pending).to(rows.device)
                off = (rows.index_select(0, there) - rows[int(pending[0])]).abs()
                same = (off.amax(1) <= allowed).cpu().numpy() if off.shape[1] else np.ones(pending.size, dtype=bool)
                same[0] = True
                if not first:
                    classes[pending[same]] = fresh
                    fresh += 1
                pending, first = pending[~same], False


__all__ = ["EQUAL", "Locked", "Symmetry"]
