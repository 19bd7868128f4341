"""A consumer gives for the grown checkpoint what it gives for the source, and notices one disturbed block."""

from __future__ import annotations

import pytest
from tests.consumers.cases import CASES
from tests.consumers.consumers import RefusedError
from tests.consumers.judging import Bench, Figures

from growformer.verification.outputs import RATIO_LIMIT

pytestmark = pytest.mark.consumers


@pytest.mark.parametrize("name", CASES)
def test_growth_adds_nothing_to_the_consumers_own_rounding(
    name: str, consumer: str, bench: Bench, record: list[Figures]
) -> None:
    if consumer in CASES[name].refused:
        with pytest.raises(RefusedError, match=CASES[name].refused[consumer]):
            bench.run(name, consumer, "grown")
        return
    figures = bench.figures(name, consumer)
    record.append(figures)
    assert figures.ok, figures


@pytest.mark.parametrize("name", CASES)
def test_one_disturbed_block_is_noticed(name: str, consumer: str, bench: Bench) -> None:
    """Negative control: the same comparison fails."""
    if consumer in CASES[name].refused:
        return
    figures = bench.figures(name, consumer, "disturbed")
    assert figures.ratio > 2 * RATIO_LIMIT["float32"], figures
    assert not figures.ok
