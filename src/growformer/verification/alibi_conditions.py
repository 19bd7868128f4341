"""Whether every source head keeps the slope of its linear biases, though slopes depend on the number of heads."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from growformer.architecture.declaration import Config
from growformer.architecture.exact import compute, evaluate
from growformer.architecture.facts import Alibi
from growformer.errors import ArchitectureError
from growformer.verification.recorded import Recorded
from growformer.verification.violations import Violation, at_instance


def alibi_conditions(rec: Recorded) -> Iterator[Violation]:
    """Yield every source head whose slope, ``2 ** -exponent``, is another one at its new position."""
    for alibi in rec.architecture.alibi:
        before, after = (_has_biases(alibi, config) for config in (rec.source_config, rec.target_config))
        if before != after:
            said = str(alibi.when)
            yield Violation(kind="alibi", where=said, expected=str(before), found=str(after))
        if not before or not after:
            continue
        for index in rec.sources(rec.size_indices[alibi.heads]):
            source, target = rec.sizes(alibi.heads, index)
            old = slope_exponents(alibi, source, _largest(alibi, rec.source_config))
            new = slope_exponents(alibi, target, _largest(alibi, rec.target_config))
            for position, origin in enumerate(rec.along(alibi.heads, index).source.tolist()):
                if origin >= 0 and new[position] != old[origin]:
                    yield Violation(
                        kind="alibi", where=at_instance(f"{alibi.heads} {position}", index),
                        expected=f"the slope 2^-{old[origin]} of source head {origin} of {source}",
                        found=f"2^-{new[position]}, of head {position} of {target}",
                    )  # fmt: skip


def slope_exponents(alibi: Alibi, heads: int, largest: Fraction) -> list[Fraction]:
    """Return for every head the exponent of its slope, exactly.

    ``bloom``: with c the largest power of two up to the number of heads, largest * i / c for i = 1 … c; then
    largest * j / (2 c) for j = 1, 3, 5, … . ``mpt``: with c the smallest power of two that is not below it,
    largest * i / c for i = 1 … c; unless c is the number of heads, even i come first, then odd ones, as many as needed.

    Raises:
        ArchitectureError: slopes that nobody has described.
    """
    if alibi.slopes == "bloom":
        power = 1 << (heads.bit_length() - 1)
        steps = [Fraction(i, power) for i in range(1, power + 1)]
        steps += [Fraction(2 * k + 1, 2 * power) for k in range(heads - power)]
    elif alibi.slopes == "mpt":
        power = 1 << (heads - 1).bit_length()
        order = range(1, power + 1) if power == heads else [*range(2, power + 1, 2), *range(1, power + 1, 2)]
        steps = [Fraction(i, power) for i in order][:heads]
    else:
        raise ArchitectureError(f"unknown slopes {alibi.slopes!r}; known: bloom, mpt")
    return [largest * step for step in steps]


def _largest(alibi: Alibi, config: Config) -> Fraction:
    return evaluate(alibi.largest, config).rational() if alibi.largest is not None else Fraction(8)


def _has_biases(alibi: Alibi, config: Config) -> bool:
    return alibi.when is None or bool(compute(alibi.when, config))


__all__ = ["alibi_conditions", "slope_exponents"]
