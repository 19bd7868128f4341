"""Experiments that permute an axis: in every tensor that carries it, and in one tensor alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

import numpy as np
import torch

from growformer.architecture.exact import compute
from growformer.verification.declared import Declared
from growformer.verification.joined_axes import Node, joined_axes
from growformer.verification.places import Action, Change, Experiment, Order, permute


class Permutations:
    """Permutations of every axis that a declaration has.

    Args:
        declared: the declaration under test.
        lookups: axis of an embedding's rows -> name of the model's input that selects them.
        ordered: axes whose coordinates the class itself tells apart.
    """

    def __init__(self, declared: Declared, lookups: Mapping[str, str], ordered: Collection[str]) -> None:
        self.declared = declared
        self.architecture = declared.architecture
        self.lookups = lookups
        # Of a router's experts each is another tensor, and those stay where they are; slopes of biases belong to heads.
        slopes = {a.heads for a in declared.architecture.alibi if a.when is None or compute(a.when, declared.config)}
        # Of what scores sum over; what values have as well is heads.
        summed = {axis for c in declared.attention for axis in c.over if axis not in declared.axes(c.value)}
        turned = summed if declared.rotates_unseen else set()
        self.ordered = {*ordered, *declared.architecture.index_axes, *slopes, *turned}

        self._space_at = {(p.spec.template, p.dim, p.number): p.space for p in declared.places}

    def __iter__(self) -> Iterator[Experiment]:
        """Yield the experiments."""
        declared, architecture = self.declared, self.architecture
        ties = {name: architecture.ties[name] for name in declared.tied}
        for nodes in joined_axes(architecture, declared.arrows.values(), declared.attention, declared.adds, ties):
            yield from self._permutation(nodes)

    def _permutation(self, nodes: frozenset[Node]) -> Iterator[Experiment]:
        names = f"{_list(axis for _, axis in nodes)} of {_list(space for space, _ in nodes)}"
        rotary, partner = self._rotary_role(nodes)
        index = () if rotary or partner else self.declared.common_index(space for space, _ in nodes)
        orders: dict[tuple[int, ...], Order] = {}
        actions: list[Action] = []
        alone: dict[tuple[str, int, int, str], list[Action]] = {}
        inputs: dict[str, Change] = {}
        outputs: dict[int, Change] = {}
        complete = not any(axis in self.ordered for _, axis in nodes)
        for place in self.declared.places:
            for position, axis in enumerate(place.leaf.axes):
                size = place.leaf.positions.shape[position]
                if (place.space, axis) not in nodes or size < 2:
                    continue
                order = orders.setdefault(place.key(index), self._cycle(size))
                action = Action(tensor=place.tensor, change=permute(place, position, order))
                actions.append(action)
                if not self.declared.is_without_effect(place):
                    # Of layers, some may be without effect: keys of positions that this layer does not rotate.
                    alone.setdefault((place.spec.template, place.dim, place.number, axis), []).append(action)
                is_table = self.architecture.arrows[place.spec.owner].kind == "embedding"
                if place.reads and not is_table and place.space not in self.declared.computed:
                    complete = False  # an input of the model, such as the channels of an image
                if place.reads and is_table:
                    complete = complete and axis in self.lookups
                    inputs[self.lookups.get(axis, "")] = partial(_take, np.argsort(order))
                if not index and len(place.leaf.axes) == 1:
                    outputs[size] = partial(torch.index_select, dim=-1, index=torch.from_numpy(order))
        for (template, dim, number, axis), changes in alone.items():
            space = self._space_at[template, dim, number]
            yield Experiment(
                name=f"permuting {axis} of {space} in {template} alone", actions=tuple(changes), preserves=False
            )
        if not actions or not complete or (partner and len(next(iter(orders.values()))) != 2):
            return
        frequencies: Change | None = None
        if rotary:
            frequencies = partial(torch.index_select, dim=-1, index=torch.from_numpy(orders[()]))
        elif partner:  # a reflected plane turns the other way
            frequencies = torch.neg
        yield Experiment(
            name=f"permuting {names} in every tensor that carries it", actions=tuple(actions), preserves=True,
            inputs=inputs, outputs=outputs, frequencies=frequencies,
        )  # fmt: skip

    def _rotary_role(self, nodes: Collection[Node]) -> tuple[bool, bool]:
        """Tell whether nodes are an axis of rotary frequencies, or the axis of the two coordinates of each plane."""
        for c in self.declared.attention:
            for query, key in c.pairs:
                over = self.declared.over(c, query)
                turned = self.declared.rotated & set(over)
                for axis in over:
                    if turned and ((query, axis) in nodes or (key, axis) in nodes):
                        return axis in turned, axis not in turned
        return False, False

    def _cycle(self, size: int) -> Order:
        """Return a random permutation that moves every entry."""
        order = self.declared.random.permutation(size)
        found = np.empty(size, dtype=np.int64)
        found[order] = np.roll(order, 1)
        return found


def _take(order: Order, ids: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(order)[ids]


def _list(names: Iterator[str]) -> str:
    found = sorted(set(names))
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"


__all__ = ["Permutations"]
