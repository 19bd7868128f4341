"""Experiments that scale what norms write, queries against keys, values through attention, or shift what norms read.

Both follow from what reads a space: weights can undo a factor, LayerNorms do not see a constant.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial

import numpy as np
import torch

from growformer.architecture.declaration import space_of
from growformer.verification.declared import Declared
from growformer.verification.places import Action, Change, Experiment, Place, Vector, scale, shift


class Rescalings:
    """Scalings and shifts of every space where they must stay invisible, or must not.

    Args:
        declared: the declaration under test.
    """

    def __init__(self, declared: Declared) -> None:
        self.declared = declared
        self.architecture = declared.architecture
        self.places = declared.places

    def __iter__(self) -> Iterator[Experiment]:
        """Yield the experiments."""
        yield from self._scalings()
        yield from self._shifts()

    # Scalings.

    def _scalings(self) -> Iterator[Experiment]:
        declared = self.declared
        norms = [a for a in declared.arrows.values() if a.kind == "norm"]
        contracted = {s for c in declared.attention for s in (*c.queries, *c.keys, c.value)}
        for target in dict.fromkeys(space_of(a.target) for a in norms):
            axes = self._reduced_axes(target)
            carried_on = target in self.architecture.outputs and not declared.is_read(target)
            if axes and not carried_on and target not in contracted and not declared.has_weightless_writer(target):
                undone = not declared.passes_on(target) and not declared.norms_reading(target)
                yield from self._scaling(
                    f"what is written to {target}", axes, multiply=[target], divide=[target], preserves=undone
                )
        for output in dict.fromkeys(c.output for c in declared.attention):
            values = list(dict.fromkeys(c.value for c in declared.attention if c.output == output))
            spaces = [*values, output]
            kept = declared.passes_on(output) or any(map(declared.has_weightless_writer, values))
            if not kept and not any(map(declared.norms_reading, spaces)):
                axes = tuple(a for a in declared.axes(output) if all(a in declared.axes(s) for s in values))
                name = f"{' and '.join(values)} through {output}"
                yield from self._scaling(name, axes, multiply=values, divide=[output])
        for name, arrow in declared.arrows.items():
            source = space_of(arrow.source) if arrow.kind == "scale" else ""
            if source and declared.readers(source) == {name} and not declared.has_weightless_writer(source):
                yield from self._scaling(
                    f"what is written to {source}", declared.axes(source), multiply=[source], gains=[name]
                )
        for c in declared.attention:
            for query, key in c.pairs if not declared.rotates_unseen else ():
                over = declared.over(c, query)
                axes = tuple(axis for axis in over if axis in declared.rotated) or over
                if axes and not any(map(declared.has_weightless_writer, (query, key))):
                    yield from self._scaling(f"{query} against {key}", axes, multiply=[query], undo=[key])

    def _scaling(
        self,
        name: str,
        axes: tuple[str, ...],
        *,
        multiply: Collection[str],
        divide: Collection[str] = (),
        undo: Collection[str] = (),
        gains: Collection[str] = (),
        preserves: bool = True,
    ) -> Iterator[Experiment]:
        """Multiply what is written to some spaces; divide what weights read, what is written to others, or gains."""
        involved = {*multiply, *divide, *undo}
        if self.declared.touches_a_tie(involved) or involved & {*self.architecture.activated}:
            return
        index = self.declared.common_index(sorted(involved))
        carry = [p for p in self.places if p.space in involved or p.spec.owner in gains]
        carry = [p for p in carry if set(axes) <= set(p.leaf.axes)]
        # A layer in which nothing writes the space has none.
        written = {p.key(index) for p in carry if not p.reads and p.space in multiply and p.spec.owner not in gains}
        factors: dict[tuple[int, ...], Vector] = {}
        actions = []
        for place in carry:
            is_gain = place.spec.owner in gains
            writes = not place.reads and place.space in multiply and not is_gain
            undoes = is_gain or place.space in (divide if place.reads else undo)
            if not writes and not undoes:
                continue
            if place.key(index) not in written:
                continue
            shape = [place.leaf.positions.shape[place.leaf.axes.index(axis)] for axis in axes]
            factor = factors.setdefault(place.key(index), self.declared.random.uniform(0.5, 2.0, shape))
            actions.append(self._multiply(place, axes, factor if writes else 1 / factor))
        outputs: dict[int, Change] = {}
        if divide and not index and preserves and factors:  # the model may return what is scaled
            factor = next(iter(factors.values())).reshape(-1)
            outputs[factor.size] = partial(torch.mul, other=torch.from_numpy(factor))
        if actions:
            name = f"scaling {name}" + ("" if preserves else ", undone for weights alone")
            yield Experiment(name=name, actions=tuple(actions), preserves=preserves, outputs=outputs)

    def _multiply(self, place: Place, axes: tuple[str, ...], factor: Vector) -> Action:
        shape = [n if a in axes else 1 for a, n in zip(place.leaf.axes, place.leaf.positions.shape, strict=True)]
        moved = factor.transpose([axes.index(a) for a in place.leaf.axes if a in axes]).reshape(shape)
        arrow = self.architecture.arrows[place.spec.owner]
        offset = arrow.offset if place.spec.dims[place.dim].role == "gain" else 0
        values = np.broadcast_to(moved, place.leaf.positions.shape)
        return Action(tensor=place.tensor, change=scale(place, values, offset))

    def _reduced_axes(self, target: str) -> tuple[str, ...]:
        """Return the axes on which every norm that writes a space has a gain of its own per coordinate."""
        gains = [set(p.leaf.axes) for p in self.places if p.space == target and not p.reads]
        return tuple(axis for axis in self.declared.axes(target) if all(axis in axes for axes in gains))

    # Shifts.

    def _shifts(self) -> Iterator[Experiment]:
        declared = self.declared
        tables = {self.architecture.ties[name] for name in declared.tied}
        # Where softmax or a choice of the largest follows, a constant leaves no trace.
        apart = {space for c in declared.attention for space in (*c.queries, *c.keys, c.value, *c.per_head)}
        apart |= {*self.architecture.activated}
        apart |= {s for s, found in self.architecture.spaces.items() if {*found.axes} & {*self.architecture.index_axes}}
        for place in self.places:
            arrow = self.architecture.arrows[place.spec.owner]
            is_vector = place.spec.part == "bias" or (arrow.kind == "embedding" and not place.reads)
            if not is_vector or not declared.is_first(place) or place.space in apart:
                continue
            if place.spec.template in tables or declared.is_without_effect(place):
                continue
            reached = declared.reached(place.space)
            if reached & {*self.architecture.outputs, *(add.source for add in self.architecture.adds if add.when)}:
                continue  # what the model returns, or some layers alone read, may show it or not
            hidden = declared.is_centred_alone(place.space)
            readers = "LayerNorms alone read it" if hidden else "not only LayerNorms read it"
            yield Experiment(
                name=f"adding a constant to {place.space} in {place.tensor} ({readers})", preserves=hidden,
                actions=(Action(tensor=place.tensor, change=shift(place, 0.7)),),
            )  # fmt: skip


__all__ = ["Rescalings"]
