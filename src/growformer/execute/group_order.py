"""The order of parameters in the groups of a grown optimizer: that of the source's groups, followed into the target.

``Optimizer.load_state_dict`` gives state back by place, not by name. A script makes the groups of a grown model by the
rule by which it made those of the source; if growth put them in another order, moments would go to other parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Key = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class GroupOrder:
    """The order of a grown group.

    Attributes:
        names: of the target's parameters, in order.
        lost: None, or the first two of the source's parameters whose order follows no rule that is known, where there
            are new ones whose place depends on it; ``names`` are in the order of ``named_parameters()`` then.
    """

    names: tuple[str, ...]
    lost: tuple[str, str] | None = None

    def problem(self, number: int) -> str:
        """Return what is lost, for a message."""
        assert self.lost is not None
        first, second = self.lost
        return (
            f"group {number} of the optimizer has its parameters in an order of its own ({first} stands before {second}"
            "), so that where those of new layers belong in it is not known, and torch gives state back by place"
        )


def grown_order(
    groups: Sequence[Sequence[str]], grown: Sequence[Mapping[str, str]], source: Sequence[str], target: Sequence[str]
) -> list[GroupOrder]:
    """Return the order of every grown group.

    It is that of ``named_parameters()`` or of sorted names, forwards or backwards, if the source's is; one that fits
    all groups is taken before others. Any other order is kept place by place if nothing in the group is new.

    Args:
        groups: of every group, names of the source's parameters in their order.
        grown: of every group, name of a target's parameter -> the source's that it comes from.
        source: names of all the source's parameters, in the order of ``named_parameters()``.
        target: of all the target's.
    """
    before = {name: place for place, name in enumerate(source)}.__getitem__
    after = {name: place for place, name in enumerate(target)}.__getitem__
    rules: list[tuple[Key, Key, bool]] = [
        (mine, theirs, backwards) for backwards in (False, True) for mine, theirs in ((before, after), (str, str))
    ]
    common = [rule for rule in rules if all(_follows(names, rule[0], rule[2]) for names in groups)]
    found = []
    for names, origins in zip(groups, grown, strict=True):
        rule = next((rule for rule in (*common, *rules) if _follows(names, rule[0], rule[2])), None)
        lost = None
        if rule is not None:
            ordered = sorted(origins, key=rule[1], reverse=rule[2])
        elif len(set(origins.values())) == len(origins):
            becomes = {origin: name for name, origin in origins.items()}
            ordered = [becomes[name] for name in names if name in becomes]
        else:
            ordered = sorted(origins, key=after)
            lost = next((one, other) for one, other in pairwise(names) if before(one) > before(other))
        found.append(GroupOrder(tuple(ordered), lost))
    return found


def _follows(names: Sequence[str], key: Key, backwards: bool) -> bool:
    ordered = reversed(names) if backwards else names
    return all(key(one) < key(other) for one, other in pairwise(ordered))


__all__ = ["GroupOrder", "grown_order"]
