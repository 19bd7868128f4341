"""What a declaration promises about a model, as experiments on its weights: permutations, scalings, shifts.

Shapes cannot tell ``(heads [q k v] key)`` from ``([q k v] heads key)``, nor which of two vectors of one size a weight
reads. A change of coordinates can: done to *every* tensor that is said to carry a space it is invisible in the
outputs, and done to one tensor alone it is not. Every experiment follows from the arrows:

    permutation  of an axis, in all spaces that norms, attention, additions and ties join
    scaling      of what a norm writes, of queries against keys, of values through attention; undone by the readers
    shift        of what norms read by a constant: invisible behind LayerNorms, visible in front of anything else
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from growformer.verification.declared import Declared
from growformer.verification.permutations import Permutations
from growformer.verification.places import Experiment
from growformer.verification.rescalings import Rescalings


def experiments(declared: Declared, *, lookups: Mapping[str, str], ordered: Collection[str]) -> Iterator[Experiment]:
    """Yield every experiment that a declaration implies, those that must preserve the outputs first.

    Args:
        declared: the declaration under test, for one source.
        lookups: axis of an embedding's rows -> name of the model's input that selects them.
        ordered: axes whose coordinates the class itself tells apart.
    """
    breaking: list[Experiment] = []
    for kind in (Permutations(declared, lookups, ordered), Rescalings(declared)):
        for experiment in kind:
            if experiment.preserves:
                yield experiment
            else:
                breaking.append(experiment)
    yield from breaking


__all__ = ["experiments"]
