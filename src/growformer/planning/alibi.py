"""Linear biases on attention scores (ALiBi): slopes depend on the number of heads, so a head goes where its slope is.

A slope is 2^-e. With c the largest power of two that is at most n, e = 8i/c for i = 1 … c, and odd multiples of 8/(2c)
for the rest; the second way takes the next power of two instead, every other exponent first.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from growformer.architecture.facts import Alibi
from growformer.errors import RequestError
from growformer.planning.axis_map import NEW, AxisMap
from growformer.planning.spaces import Sizes

MAX_HEADS = 1024
"""Of a model with linear biases: ten times the most that one has."""


def exponents(slopes: str, heads: int, largest: Fraction = Fraction(8)) -> list[Fraction]:
    """Return e for each head, where its slope is 2^-e, in the order in which a class numbers them."""
    power = 1 << (heads.bit_length() - 1)
    if slopes == "bloom":
        found = [Fraction(8 * i, power) for i in range(1, power + 1)]
        return found + [Fraction(8 * j, 2 * power) for j in range(1, 2 * (heads - power), 2)]
    if power != heads:
        power *= 2
    steps = [largest * i / power for i in range(1, power + 1)]
    return steps if power == heads else [*steps[1::2], *steps[::2]][:heads]


def place_heads(alibi: Alibi, sizes: Sizes, source: int, target: int) -> AxisMap:
    """Return where heads go: each to the position of its slope, new ones to what is left.

    Raises:
        RequestError: the target has no such slope for a source head; the message names counts that have.
    """
    if target > MAX_HEADS:
        raise RequestError(f"{target} heads with linear biases; expected at most {MAX_HEADS}")
    largest: Any = sizes.source.get(alibi.largest) if alibi.largest else 8
    before = exponents(alibi.slopes, source, Fraction(largest))
    after = exponents(alibi.slopes, target, Fraction(largest))
    if not set(before) <= set(after):
        fit = [
            n
            for n in range(source, min(8 * source, source + MAX_HEADS) + 1)
            if set(before) <= set(exponents(alibi.slopes, n, Fraction(largest)))
        ]
        nearest = sorted(fit, key=lambda n: (abs(n - target), n))[:4]
        raise RequestError(
            f"cannot grow {source} heads to {target}: their linear biases have slopes that depend on the number of "
            f"heads, and {target} heads have no head for some source slopes; nearest: "
            f"{', '.join(map(str, sorted(nearest)))}"
        )
    found = np.full(target, NEW, dtype=np.int64)
    for head, exponent in enumerate(before):
        found[after.index(exponent)] = head
    return AxisMap.from_array(source, found)


__all__ = ["exponents", "place_heads"]
