"""What a declaration says about one model: which arrows and contractions it has, and where every space lies."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property, partial

import numpy as np

from growformer.architecture.declaration import Architecture, Arrow, TensorSpec, space_of, spaces_in
from growformer.architecture.facts import Attention
from growformer.architecture.language import Leaf, leaves
from growformer.architecture.source import SourceInfo
from growformer.verification.places import Place
from growformer.verification.structure import additions


class Declared:
    """A declaration under test, for one source.

    Args:
        architecture: the declaration.
        source: the model's tensors, matched with it.
        tied: canonical names of tensors that share the storage of another one.
        unused: templates of parameters that the model's class does not use.
        seed: of the permutations and factors.
    """

    def __init__(
        self,
        architecture: Architecture,
        source: SourceInfo,
        *,
        tied: Collection[str] = (),
        unused: Collection[str] = (),
        seed: int = 0,
    ) -> None:
        self.architecture = architecture
        self.config = architecture.resolve_config(source.sizes)
        self.tied = frozenset(tied)
        self.unused = unused
        self.random = np.random.default_rng(seed)
        tensors = architecture.tensors
        self.specs = [
            spec
            for name, spec in tensors.items()
            if name in source.templates and architecture.arrows[spec.owner].kind != "carried"
        ]
        here = {spec.owner for spec in self.specs} | {tensors[name].owner for name in self.tied}
        self.arrows = {
            name: arrow
            for name, arrow in architecture.arrows.items()
            if arrow.kind != "carried" and (name in here or (not arrow.gain and self._is_there(name, arrow)))
        }
        self.written = {s for arrow in self.arrows.values() for s in spaces_in(arrow.target)}
        self.adds = additions(architecture, self.config)
        self.written |= {add.target for add in self.adds if add.source in self.written}
        self.attention = [c for c in architecture.attention if {*c.queries, *c.keys, c.value} <= self.written]
        self.rotated = {rotary.frequency for rotary in architecture.rotary}
        scores = {a for c in self.attention for space in (*c.queries, *c.keys) for a in self.axes(space)}
        # Heads of which the class rotates coordinates that no axis names: it tells those apart.
        self.rotates_unseen = bool(architecture.rotary) and not self.rotated & scores

    def _is_there(self, name: str, arrow: Arrow) -> bool:
        """Tell whether a norm without tensors exists in this model."""
        stand_in = TensorSpec(name, name, "weight", (), tuple(re.findall(r"\{(\w+)\}", name)))
        return not arrow.optional and self.architecture.exists(stand_in, self.config)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every space in every dimension of every tensor; windows and dimensions of size one carry none."""
        return tuple(self._find_places())

    def _find_places(self) -> Iterator[Place]:
        for spec in self.specs:
            for index in self.architecture.instances_of(spec, self.config):
                size_of = partial(self.architecture.size, config=self.config, index=index)
                for dim, entry in enumerate(spec.dims):
                    if entry.role in ("kernel", "unit"):
                        continue
                    for number, leaf in enumerate(leaves(entry.term, size_of)[1]):
                        if not leaf.positions.size:
                            continue
                        named = leaf if leaf.space else Leaf(self._written_by(spec), leaf.axes, leaf.positions)
                        yield Place(tensor=spec.name(index), spec=spec, index=index, dim=dim, number=number, leaf=named)

    def _written_by(self, spec: TensorSpec) -> str | None:
        named = list(spaces_in(self.architecture.arrows[spec.owner].target))
        return named[0] if len(named) == 1 else None

    def is_first(self, place: Place) -> bool:
        """Tell whether a place lies in the first instance (layer, expert, ...) of its tensor."""
        return place.index == self._first[place.spec.template]

    @cached_property
    def _first(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for place in self.places:
            found.setdefault(place.spec.template, place.index)
        return found

    def is_without_effect(self, place: Place) -> bool:
        """Tell whether a place may leave no trace.

        An unused parameter, or a bias on keys, which adds the same to all scores of a query unless positions rotate it
        (or a sink stands among them, which it is not added to).
        """
        if place.spec.template in self.unused:
            return True
        keys = {key for c in self.attention for _, key in c.pairs if not self.rotated & set(self.over(c, key))}
        is_norm = self.architecture.arrows[place.spec.owner].kind == "norm"
        return place.spec.part == "bias" and place.space in keys and not is_norm

    # Spaces.

    @cached_property
    def computed(self) -> set[str]:
        """Spaces that something writes; others are inputs."""
        mixed = {space for c in self.attention for space in (c.output, c.maps) if space is not None}
        return self.written | mixed | {add.target for add in self.adds}

    def axes(self, space: str) -> tuple[str, ...]:
        """Return a space's axes."""
        return self.architecture.spaces[space].axes

    def over(self, c: Attention, space: str) -> tuple[str, ...]:
        """Return the axes that a product of queries and keys sums over: those that its spaces have."""
        return tuple(axis for axis in c.over if axis in self.axes(space))

    def norms_reading(self, space: str) -> list[Arrow]:
        """Return the norms that read a space."""
        return [a for a in self.arrows.values() if a.kind == "norm" and space_of(a.source) == space]

    def is_read(self, space: str) -> bool:
        """Tell whether an arrow, attention or an addition reads a space."""
        mixed = {s for c in self.attention for s in (*c.queries, *c.keys, c.value, *c.per_head)}
        return space in mixed | {add.source for add in self.adds} or bool(self.readers(space))

    def readers(self, *spaces: str) -> set[str]:
        """Return the arrows that read any of some spaces; rows of tables are looked up."""
        arrows = self.arrows.items()
        return {n for n, a in arrows if a.kind != "embedding" and {*spaces_in(a.source)} & {*spaces}}

    def reached(self, space: str) -> set[str]:
        """Return a space with those that it enters without a weight, directly or not."""
        found, pending = {space}, [space]
        while pending:
            here = pending.pop()
            more = {add.target for add in self.adds if add.source == here} - found
            found |= more
            pending += more
        return found

    def is_centred_alone(self, space: str) -> bool:
        """Tell whether all that reads a space, and what it enters, is LayerNorms: they do not see a constant."""
        spaces = self.reached(space)
        readers = [a for a in self.arrows.values() if spaces & set(spaces_in(a.source))]
        contracted = {s for c in self.attention for s in (*c.queries, *c.keys, c.value, *c.per_head)}
        centred = all(a.kind == "norm" and a.centred for a in readers)
        read = {s for a in readers for s in spaces_in(a.source)} | {add.source for add in self.adds}
        return bool(readers) and centred and not spaces & contracted and spaces <= read

    def passes_on(self, space: str) -> bool:
        """Tell whether anything but weights and norms with gains reads a space: nothing there can undo a change."""
        return space in self.added or any(
            space_of(a.source) == space for a in self.arrows.values() if a.kind == "scale" or not a.gain
        )

    def has_weightless_writer(self, space: str) -> bool:
        """Tell whether anything without a tensor of its own writes a space: nothing there can be changed."""
        return any(not a.gain and space_of(a.target) == space for a in self.arrows.values()) or any(
            add.target == space for add in self.adds
        )

    @cached_property
    def added(self) -> set[str]:
        """Spaces that enter another, or that another enters, without a weight."""
        return {space for add in self.adds for space in (add.source, add.target)}

    def touches_a_tie(self, spaces: Collection[str]) -> bool:
        """Tell whether a tied tensor, or its table, reads or writes one of these spaces."""
        for name in self.tied:
            for template in (name, self.architecture.ties[name]):
                if any(s in spaces for dim in self.architecture.tensors[template].dims for s in spaces_in(dim.term)):
                    return True
        return False

    def common_index(self, spaces: Iterable[str]) -> tuple[str, ...]:
        """Return the index axes that all of these spaces are local to."""
        found = [self.architecture.spaces[space].index for space in spaces]
        return tuple(name for name in found[0] if all(name in other for other in found))

    # Contradictions.

    def contradictions(self) -> Iterator[str]:
        """Yield what cannot be meant: a vector from nowhere, a norm on its own output, an axis that attention loses."""
        architecture = self.architecture
        written = self.computed
        for name, arrow in self.arrows.items():
            for space in spaces_in(arrow.source):
                grows = any(axis not in architecture.fixed for axis in self.axes(space))
                if grows and arrow.kind == "embedding" and space in written:
                    yield f"{name} looks up rows by {space}, which is no input but computed"
                if grows and arrow.kind != "embedding" and space not in written:
                    yield f"{name} reads {space}, which nothing writes"
            if arrow.kind == "norm" and space_of(arrow.source) == space_of(arrow.target):
                yield f"the norm {name} reads what it writes"
        for c in self.attention:
            yield from self._lost_axes(c)

    def _lost_axes(self, c: Attention) -> Iterator[str]:
        output, summed = set(self.axes(c.output)), set(c.over)
        met: set[str] = set()
        for query, key in c.pairs:
            mine, other = set(self.axes(query)), set(self.axes(key))
            met |= mine & other
            for axis in sorted((mine - summed - output) | (other - summed - mine)):
                yield f"attention does not sum over {axis} of {query} and {key}, and {c.output} lacks it"
            for axis in sorted(summed & (mine ^ other)):
                yield f"attention sums over {axis}, which {query} or {key} lacks"
        for axis in sorted(summed - met):
            yield f"attention sums over {axis}, which no query and key have"
        scores = {axis for space in (*c.queries, *c.keys) for axis in self.axes(space)} - summed
        for space in c.per_head:
            for axis in sorted(set(self.axes(space)) - scores):
                yield f"{space} has {axis}, which is no axis of the scores"


__all__ = ["Declared"]
