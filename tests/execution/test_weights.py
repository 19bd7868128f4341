"""Regions of stored tensors are read as numpy would index them, and no more of a file than rows that are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from growformer import SourceError
from growformer.storage.header import Entry
from growformer.storage.weights import Scratch, Weights


@st.composite
def regions(draw: Any) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 7), max_size=4)))
    region: list[Any] = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        stop = draw(st.integers(start + 1, size))
        kind = draw(st.sampled_from(["slice", "stepped", "positions"]))
        if kind == "positions":
            region.append(np.array(draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=9)), dtype=np.int64))
        else:
            region.append(slice(start, stop, draw(st.integers(1, 3)) if kind == "stepped" else None))
    return shape, tuple(region)


@settings(max_examples=300)
@given(regions(), st.sampled_from([("uint8", 1), ("bfloat16", 2), ("float32", 4), ("float64", 8)]))
def test_regions(tmp_path_factory: pytest.TempPathFactory, found: Any, dtype: tuple[str, int]) -> None:
    shape, region = found
    name, width = dtype
    file = tmp_path_factory.getbasetemp() / "weights"
    values = np.random.default_rng(0).integers(0, 255, (*shape, width), dtype=np.uint8).view(f"u{width}")[..., 0]
    file.write_bytes(b"header." + values.tobytes() + b"after")
    along = [np.arange(size)[index] for size, index in zip(shape, region, strict=True)]
    expected = values[np.ix_(*along)] if along else values
    with Weights({"it": Entry(file, shape, name, 7, 7 + values.nbytes)}) as weights:
        assert np.array_equal(weights.region("it", region, Scratch()), expected)
        start = weights.contiguous("it", region)
        if start is not None:
            into = bytearray(expected.nbytes)
            weights.read_bytes(weights.entries["it"], start, memoryview(into))
            assert bytes(into) == expected.tobytes()
        elif expected.size == values.size:
            assert any(not isinstance(index, slice) or index.step not in (None, 1) for index in region)


def test_scratch_memory_is_given_out_once() -> None:
    scratch = Scratch()
    first, second = (scratch.array((1000, 1000), np.dtype("u4")) for _ in range(2))
    first[...] = 1
    second[...] = 2
    assert (first == 1).all()
    scratch.reset()
    assert np.shares_memory(scratch.array((1000, 1000), np.dtype("u4")), second)


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"abc")
    weights = Weights({"it": Entry(tmp_path / "short", (8,), "uint8", 0, 8)})
    with weights, pytest.raises(SourceError, match="short: ended inside a tensor"):
        weights.region("it", (slice(0, 8),), Scratch())
    missing = Weights({"it": Entry(tmp_path / "missing", (8,), "uint8", 0, 8)})
    with missing, pytest.raises(SourceError, match="missing: cannot be read: No such file"):
        missing.region("it", (slice(0, 8),), Scratch())
