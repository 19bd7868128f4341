"""Bands tile a tensor, in the order of its bytes, whatever its shape."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from growformer.execute import layout
from growformer.execute.layout import bands


@given(st.lists(st.integers(0, 9), max_size=4), st.sampled_from([1, 2, 4, 8]), st.integers(8, 300))
def test_bands_are_consecutive_runs_of_bytes(shape: list[int], width: int, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "BAND_BYTES", limit)
        numbers = np.arange(prod(shape)).reshape(shape)
        found = []
        for bounds, num_bytes in bands(tuple(shape), width):
            part = numbers[bounds]
            assert part.size * width == num_bytes <= limit
            found += part.reshape(-1).tolist()
        assert found == list(range(prod(shape)))


def test_large_tensors_are_cut_into_few_bands() -> None:
    found = [num_bytes for _, num_bytes in bands((4096, 14336), 2)]
    assert len(found) == 15
    assert max(found) <= layout.BAND_BYTES
    assert sum(found) == 4096 * 14336 * 2
