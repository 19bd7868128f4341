"""The tensors of a model folder, of which the checks read rows: memory does not depend on the largest tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from growformer.storage.weights import WIDTH, Scratch, Weights
from growformer.verification.regions import Positions, pick, size

_SIGNED = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}


class FolderTensors:
    """Tensors of a folder; see ``tensors.Tensors``.

    Args:
        weights: the folder's, open for reading.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, from the header."""
        return self._weights.entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Return a tensor's dtype, from the header."""
        found: torch.dtype = getattr(torch, self._weights.entries[name].dtype)
        return found

    def place(self, name: str) -> Any:
        """Return the file and the first byte."""
        entry = self._weights.entries.get(name)
        return ("", 0) if entry is None else (str(entry.file), entry.start)

    def reader(self) -> RowReader:
        """Return what reads for one thread."""
        return RowReader(self._weights)


class RowReader:
    """Reads regions of stored tensors; rows of one are read once until the next ``reset``, whatever is taken of them.

    Args:
        weights: the folder's.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._scratch = Scratch()
        self._rows: dict[Any, torch.Tensor] = {}

    def region(self, name: str, region: tuple[Positions, ...]) -> torch.Tensor:
        """Return the values at a region; valid until the next ``reset``.

        Raises:
            SourceError: the file cannot be read, or has become shorter.
        """
        shape = self._weights.entries[name].shape
        # Of the first dimension of which more than one position is wanted come rows, whole.
        cut = 0
        while cut < len(shape) - 1 and size(region[cut]) == 1:
            cut += 1
        key = (name, *(_key(along) for along in region[: cut + 1]))
        if key not in self._rows:
            self._rows[key] = self._read(name, (*region[: cut + 1], *(slice(0, n) for n in shape[cut + 1 :])))
        rows = self._rows[key]
        for dim in range(cut + 1, len(shape)):
            rows = pick(rows, dim, region[dim])
        return rows

    def _read(self, name: str, region: tuple[Positions, ...]) -> torch.Tensor:
        entry = self._weights.entries[name]
        dtype: torch.dtype = getattr(torch, entry.dtype)
        if 0 in entry.shape or any(not size(along) for along in region):
            return torch.empty([size(along) for along in region], dtype=dtype)
        bits = self._weights.region(name, region, self._scratch)
        bits = bits.view(_SIGNED[WIDTH[entry.dtype]])
        return torch.from_numpy(bits).view(dtype)

    def reset(self) -> None:
        """Give the memory of everything that was read back."""
        self._rows.clear()
        self._scratch.reset()


def _key(along: Positions) -> Any:
    return (along.start, along.stop, along.step) if isinstance(along, slice) else along.tobytes()


__all__ = ["FolderTensors", "RowReader"]
