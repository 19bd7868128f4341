"""Where every byte of the output goes, known before the first one is written: shards, and bands of their tensors.

A band is what is made, written and digested at a time: as many whole rows of one stored tensor as fit in 8 MiB. Bands
follow from shape and dtype alone, so that any number of threads or ranks makes the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

from growformer.execute.stored import StoredTensor
from growformer.storage.safetensors_file import header_bytes
from growformer.storage.weights import WIDTH

BAND_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Band:
    """Consecutive bytes of one stored tensor.

    Attributes:
        stored: the tensor.
        bounds: what of it, one slice per dimension.
        start: the first byte in the file.
        num_bytes: how many.
    """

    stored: StoredTensor
    bounds: tuple[slice, ...]
    start: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the output.

    Attributes:
        file: its name.
        tensors: what is in it, in order.
        header: its first bytes.
        num_bytes: its size.
    """

    file: str
    tensors: tuple[StoredTensor, ...]
    header: bytes
    num_bytes: int

    def bands(self) -> Iterator[Band]:
        """Yield its bands in the order of their bytes."""
        start = len(self.header)
        for stored in self.tensors:
            for bounds, num_bytes in bands(stored.shape, WIDTH[stored.dtype]):
                yield Band(stored, bounds, start, num_bytes)
                start += num_bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """All files with weights.

    Attributes:
        shards: the files.
        tensor_bytes: size of all tensors.
    """

    shards: tuple[Shard, ...]
    tensor_bytes: int

    @property
    def num_bytes(self) -> int:
        """Size of all files with weights."""
        return sum(shard.num_bytes for shard in self.shards)


def lay_out(tensors: Iterable[StoredTensor], max_shard_bytes: int) -> Layout:
    """Put tensors into shards in their order; none is larger than ``max_shard_bytes``, unless one tensor is."""
    groups: list[list[StoredTensor]] = []
    room = total = 0
    for stored in tensors:
        size = stored.num_elements * WIDTH[stored.dtype]
        if not groups or size > room:
            groups.append([])
            room = max_shard_bytes
        groups[-1].append(stored)
        room -= size
        total += size
    count = len(groups)
    shards = []
    for number, group in enumerate(groups, start=1):
        file = "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
        header = header_bytes({stored.name: (stored.shape, stored.dtype) for stored in group})
        size = sum(stored.num_elements * WIDTH[stored.dtype] for stored in group)
        shards.append(Shard(file, tuple(group), header, len(header) + size))
    return Layout(tuple(shards), total)


def bands(shape: tuple[int, ...], width: int) -> Iterator[tuple[tuple[slice, ...], int]]:
    """Cut a tensor into runs of bytes of at most ``BAND_BYTES``.

    Yields:
        One slice per dimension, and the number of bytes.
    """
    if 0 in shape:
        return
    cut = 0  # the dimension that is cut; those before it are taken position by position
    while cut < len(shape) - 1 and prod(shape[cut + 1 :]) * width > BAND_BYTES:
        cut += 1
    if not shape:
        yield (), width
        return
    entry = prod(shape[cut + 1 :]) * width
    rows = max(1, BAND_BYTES // entry)
    inner = tuple(slice(0, size) for size in shape[cut + 1 :])
    for outer in product(*(range(size) for size in shape[:cut])):
        for first in range(0, shape[cut], rows):
            last = min(first + rows, shape[cut])
            yield (*(slice(at, at + 1) for at in outer), slice(first, last), *inner), (last - first) * entry


__all__ = ["BAND_BYTES", "Band", "Layout", "Shard", "bands", "lay_out"]
