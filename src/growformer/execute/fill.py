"""Makes the bytes of one band of a stored tensor: the interpreter of blocks that writes checkpoints, in numpy.

It gives the same bits as ``values.materialise``, which every live executor uses, but reads of the source only the rows
that a band needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from growformer.architecture.packing import Piece, declared_bounds, stored_region
from growformer.errors import PlanError
from growformer.execute.layout import Band
from growformer.execute.numbers import SPAN, OrderedSum, decode, encode
from growformer.execute.stored import Part
from growformer.planning.blocks import (
    Affine,
    Block,
    Constant,
    Fill,
    Index1D,
    Mean,
    Noise,
    Region,
    Sum,
    TensorPlan,
    Value,
    compact,
    found_in,
    length,
    positions,
    restrict,
    shifted,
)
from growformer.planning.initialisation import draw
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan
from growformer.storage.weights import WIDTH, Scratch, Weights

Bits = npt.NDArray[Any]
_AT_ONCE = 1 << 16
"""Values that are computed at a time, so that their float64 stay in the cache."""


@dataclass(slots=True)
class _Made:
    """A declared tensor's plan, and what its bands share: values that depend on more than a band."""

    tensor: TensorPlan
    dtype: str
    lock: Lock = field(default_factory=Lock)
    shared: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what ``make`` gives, made once for all threads."""
        with self.lock:
            if key not in self.shared:
                self.shared[key] = make()
            return self.shared[key]


class BandFiller:
    """Makes bands of one plan's target from the weights of its source; threads may share it.

    Args:
        plan: what becomes of each tensor.
        weights: the source's.
    """

    def __init__(self, plan: Plan, weights: Weights) -> None:
        self.plan = plan
        self.weights = weights
        self._made: dict[str, _Made] = {}
        self._lock = Lock()
        self._table = lru_cache(maxsize=64)(self._encoded_table)
        self._scaled = lru_cache(maxsize=64)(_scaled_table)

    def fill(self, band: Band, out: Bits, scratch: Scratch) -> None:
        """Write the bits of a band.

        Args:
            band: which.
            out: unsigned integers of the dtype's width, in the band's shape; every one is written.
            scratch: of the thread.
        """
        for part in band.stored.parts:
            piece = part[2]
            bounds = declared_bounds(piece, band.bounds)
            if bounds is None:
                continue
            made = self._of(part, band.stored.dtype)
            for number, block in enumerate(made.tensor.blocks):
                inside = restrict(block, bounds)
                if inside is not None:
                    scratch.reset()
                    self._write(made, number, inside, piece, band, out, scratch)

    def values(self, part: Part, dtype: str, region: Region, scratch: Scratch) -> Bits:
        """Return the bits of any region of a declared tensor, whatever bands it would be written in.

        Args:
            part: the declared tensor.
            dtype: of the result.
            region: which of its coordinates, in any order.
            scratch: of the thread.
        """
        out = np.empty(tuple(map(length, region)), dtype=f"u{WIDTH[dtype]}")
        made = self._of(part, dtype)
        for number, block in enumerate(made.tensor.blocks):
            inside = restrict(block, region)
            if inside is None:
                continue
            scratch.reset()
            into = [compact(found_in(*pair)) for pair in zip(region, inside.region, strict=True)]
            if all(isinstance(index, slice) for index in into):
                place: tuple[Any, ...] = (*into, Ellipsis)
                self._fill(made, number, inside.value, out[place], scratch)
                continue
            values = np.empty(tuple(map(length, into)), dtype=out.dtype)
            self._fill(made, number, inside.value, values, scratch)
            out[np.ix_(*map(positions, into))] = values
        return out

    def _of(self, part: Part, dtype: str) -> _Made:
        spec, index, _ = part
        name = spec.name(index)
        with self._lock:
            found = self._made.get(name)
        if found is not None:
            return found
        made = _Made(tensor_plan(self.plan, spec, index), dtype)
        with self._lock:
            while len(self._made) >= 16:  # bands come in order: what is used next is what came last
                del self._made[next(iter(self._made))]
            return self._made.setdefault(name, made)

    # One block inside one band.

    def _write(
        self, made: _Made, number: int, block: Block, piece: Piece | None, band: Band, out: Bits, scratch: Scratch
    ) -> None:
        place = stored_region(piece, block.region)
        into = tuple(shifted(index, bounds.start) for index, bounds in zip(place, band.bounds, strict=True))
        lead = 0 if piece is None or piece.at is None else 1
        turned = piece is not None and piece.transposed
        if all(isinstance(index, slice) for index in into):
            whole: tuple[Any, ...] = (*into, Ellipsis)
            view = out[whole][0] if lead else out[whole]
            self._fill(made, number, block.value, view.T if turned else view, scratch)
            return
        # numpy can only write into scattered places, not view them.
        values = np.empty(tuple(length(index) for index in block.region), dtype=out.dtype)
        self._fill(made, number, block.value, values, scratch)
        values = values.T if turned else values
        out[np.ix_(*map(positions, into))] = values[None] if lead else values

    def _fill(self, made: _Made, number: int, value: Value, out: Bits, scratch: Scratch) -> None:
        """Write a value's bits into ``out``, which has the shape of the declared region."""
        init = self.plan.init
        if isinstance(value, Constant):
            out[...] = encode(np.float64(value.value)[None], made.dtype)[0]
        elif isinstance(value, Affine):
            self._affine(made, value, out, scratch)
        elif isinstance(value, Mean):
            out[...] = self._mean(made, number, value, scratch)
        elif isinstance(value, Sum):
            parts = [self._part(part, scratch) for part in value.parts]
            _by_rows(out, lambda rows: encode(_total([part(rows) for part in parts]), made.dtype))
        elif value.template is not None and init.copies():
            name, region = value.template
            copied, noise = self._numbers(name, region, scratch), init.copy_noise(value)
            _by_rows(out, lambda rows: encode(copied(rows) + noise[rows], made.dtype))
        else:
            self._fresh(made, number, value, out)

    def _affine(self, made: _Made, value: Affine, out: Bits, scratch: Scratch) -> None:
        info = self.plan.source.tensors[value.tensor]
        if not value.is_copy or info.dtype != made.dtype:
            bits, scale = self._bits(value.tensor, value.region, scratch), float(value.scale)
            if WIDTH[info.dtype] == 2 and "float" in info.dtype:
                table = self._scaled(info.dtype, made.dtype, None if value.is_copy else scale, value.shift)
                _by_rows(out, lambda rows: table[bits[rows]])
            elif value.is_copy:
                _by_rows(out, lambda rows: encode(decode(bits[rows], info.dtype), made.dtype))
            else:
                numbers = self._numbers_of(bits, info.dtype)
                _by_rows(out, lambda rows: encode(numbers(rows) * scale + value.shift, made.dtype))
            return
        stored = out.T if info.piece is not None and info.piece.transposed else out
        region = stored_region(info.piece, value.region)
        start = self.weights.contiguous(info.stored, region) if stored.flags.c_contiguous else None
        if start is None:
            out[...] = self._bits(value.tensor, value.region, scratch)
        elif stored.size:
            entry = self.weights.entries[info.stored]
            self.weights.read_bytes(entry, start, stored.reshape(-1).view(np.uint8).data)

    def _mean(self, made: _Made, number: int, value: Mean, scratch: Scratch) -> Bits:
        info = self.plan.source.tensors[value.tensor]
        turned = info.piece is not None and info.piece.transposed
        along_rows = (value.dim == 0) != turned and len(value.region) > 1
        # Along rows, all bands need the same mean, of all rows; across them, each needs its own.
        key = (number, *[_key(index) for index in value.region]) if along_rows or len(value.region) == 1 else None
        if key is None:
            return self._mean_of(value, made.dtype, scratch)
        found: Bits = made.once(key, lambda: self._mean_of(value, made.dtype, Scratch()))
        return found

    def _mean_of(self, value: Mean, dtype: str, scratch: Scratch) -> Bits:
        info, total = self.plan.source.tensors[value.tensor], OrderedSum()
        along = value.region[value.dim]
        count = length(along)
        others = max(1, int(np.prod([length(r) for d, r in enumerate(value.region) if d != value.dim])))
        step = max(1, _AT_ONCE * 16 // others // SPAN) * SPAN
        for first in range(0, count, step):
            scratch.reset()
            last = min(first + step, count)
            chosen = slice(along.start + first, along.start + last) if isinstance(along, slice) else along[first:last]
            region = (*value.region[: value.dim], chosen, *value.region[value.dim + 1 :])
            rows = decode(self._bits(value.tensor, region, scratch), info.dtype).astype(np.float64)
            total.add(np.ascontiguousarray(np.moveaxis(rows, value.dim, 0)))
        if total.total is None:
            raise PlanError(f"{value.tensor}: a mean of nothing")
        return np.expand_dims(encode(total.total / count * float(value.scale), dtype), value.dim)

    def _fresh(self, made: _Made, number: int, fill: Fill, out: Bits) -> None:
        init = self.plan.init
        kind = init.pointwise(fill)
        if kind is None:
            # Of the whole block: make it once, and take what is inside the band.
            whole = made.tensor.blocks[number].value
            assert isinstance(whole, Fill)
            values = made.once(number, lambda: encode(init.values(whole), made.dtype))
            out[...] = values[np.ix_(*map(found_in, whole.coordinates, fill.coordinates))]
        elif isinstance(kind, float):
            out[...] = encode(np.float64(kind)[None], made.dtype)[0]
        else:
            draw(init.seed, fill.tensor, fill.coordinates, self._table(fill.kind, fill.offset, made.dtype), out)

    def _encoded_table(self, kind: str, offset: int, dtype: str) -> Bits:
        table = self.plan.init.pointwise(Fill("", (slice(0, 1), slice(0, 1)), kind, offset=offset))  # type: ignore[arg-type]
        return encode(np.asarray(table), dtype)

    # The source.

    def _bits(self, canonical: str, region: Region, scratch: Scratch) -> Bits:
        """Return the bits of a region of a declared source tensor."""
        info = self.plan.source.tensors[canonical]
        bits = self.weights.region(info.stored, stored_region(info.piece, region), scratch)
        if info.piece is None:
            return bits
        bits = bits[0] if info.piece.at is not None else bits
        return bits.T if info.piece.transposed else bits

    def _numbers(self, canonical: str, region: Region, scratch: Scratch) -> Callable[[Any], npt.NDArray[np.float64]]:
        """Return a function that gives rows of a region as float64."""
        return self._numbers_of(self._bits(canonical, region, scratch), self.plan.source.tensors[canonical].dtype)

    @staticmethod
    def _numbers_of(bits: Bits, dtype: str) -> Callable[[Any], npt.NDArray[np.float64]]:
        return lambda rows: decode(bits[rows], dtype).astype(np.float64)

    def _part(self, part: Affine | Noise, scratch: Scratch) -> Callable[[Any], npt.NDArray[np.float64]]:
        if isinstance(part, Noise):
            noise = self.plan.init.cancelling(part)
            return lambda rows: noise[rows]
        numbers = self._numbers(part.tensor, part.region, scratch)
        if part.is_copy:
            return numbers
        return lambda rows: numbers(rows) * float(part.scale) + part.shift


def _scaled_table(before: str, after: str, scale: float | None, shift: float) -> Bits:
    """Return what becomes of each of the 65,536 values of a 16-bit dtype: looking up is faster than computing."""
    with np.errstate(invalid="ignore"):  # some of them are signalling NaNs
        numbers = decode(np.arange(1 << 16, dtype=np.uint16), before)
        return encode(numbers if scale is None else numbers.astype(np.float64) * scale + shift, after)


def _key(index: Index1D) -> Any:
    return (index.start, index.stop) if isinstance(index, slice) else index.tobytes()


def _by_rows(out: Bits, make: Callable[[Any], Bits]) -> None:
    """Fill an array some rows at a time; ``make`` gives those at an index."""
    if out.ndim == 0:
        out[...] = make(...)
        return
    step = max(1, _AT_ONCE // max(1, out.size // max(1, out.shape[0])))
    for first in range(0, out.shape[0], step):
        rows = slice(first, first + step)
        out[rows] = make(rows)


def _total(parts: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


__all__ = ["BandFiller"]
