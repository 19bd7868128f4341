"""What a source has of its architecture, and how the spaces of it hang together: who reads, writes and adds what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from growformer.architecture.arrows import Arrow
from growformer.architecture.declaration import Architecture, Config, TensorSpec, space_of, spaces_in
from growformer.architecture.exact import compute, mentions
from growformer.architecture.facts import Add
from growformer.architecture.language import term_axes

Index = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Structure:
    """The arrows that a source has, in the target's number.

    Attributes:
        architecture: the declaration.
        source_config, target_config: the configs, with declared defaults filled in.
        present: templates of the tensors that the source has.
        tied: whether the architecture's ties hold.
    """

    architecture: Architecture
    source_config: Mapping[str, Any]
    target_config: Mapping[str, Any]
    present: frozenset[str]
    tied: bool

    # Instances.

    def instances(self, index: tuple[str, ...]) -> Iterator[dict[str, int]]:
        """Yield the target's instances of index axes."""
        return self.architecture.instances(index, self.target_config)

    def instances_of(self, owner: str) -> Iterator[dict[str, int]]:
        """Yield the target's instances of a module; it may exist in some layers only."""
        return self.architecture.instances_of(self._module(owner), self.target_config)

    def specs(self) -> Iterator[tuple[TensorSpec, dict[str, int]]]:
        """Yield every tensor that the target must have."""
        for spec in self.architecture.tensors.values():
            if spec.template in self.present:
                for index in self.architecture.instances_of(spec, self.target_config):
                    yield spec, index

    @cached_property
    def size_indices(self) -> dict[str, tuple[str, ...]]:
        """For every axis the index axes that its size depends on."""
        return {axis: self.architecture.size_index(axis) for axis in self.architecture.sizes}

    @cached_property
    def index_axes(self) -> tuple[str, ...]:
        """The axes that number tensors, outer ones first."""
        named = self.architecture.index_axes
        return tuple(axis for axis in self.architecture.sizes if axis in named)

    def outer(self, *spaces: str) -> tuple[str, ...]:
        """Return the index axes that any of these spaces is local to."""
        found = {axis for space in spaces for axis in self.architecture.spaces[space].index}
        return tuple(axis for axis in self.architecture.sizes if axis in found)

    # Arrows.

    @cached_property
    def adds(self) -> tuple[Add, ...]:
        """The additions that hold anywhere in the target."""
        return additions(self.architecture, self.target_config)

    @cached_property
    def _owners(self) -> set[str]:
        tensors = self.architecture.tensors
        found = {tensors[t].owner for t in self.present if t in tensors}
        for name, arrow in self.architecture.arrows.items():
            # A norm without a gain has no tensor that would show that it is there.
            unseen = arrow.kind == "norm" and not arrow.gain and not arrow.optional
            if unseen and self.architecture.exists(self._module(name), self.source_config):
                found.add(name)
        return found

    @cached_property
    def tied_heads(self) -> dict[str, str]:
        """Tied tensor -> the tensor whose storage it shares, where this source has the head that reads it."""
        if not self.tied:
            return {}
        arrows = self.architecture.arrows
        written = {space for owner in self._owners for space in _written_by(arrows[owner])}
        written |= {add.target for add in self.adds}
        return {
            head: table
            for head, table in self.architecture.ties.items()
            if table in self.present and set(spaces_in(arrows[self.architecture.tensors[head].owner].source)) <= written
        }

    @cached_property
    def arrows(self) -> dict[str, Arrow]:
        """The arrows between spaces that the source has, tied ones included, in order of execution."""
        has = self._owners | {self.architecture.tensors[head].owner for head in self.tied_heads}
        return {n: a for n, a in self.architecture.arrows.items() if n in has and a.kind != "carried"}

    @cached_property
    def norms(self) -> dict[str, Arrow]:
        """The norms among the arrows."""
        return {name: arrow for name, arrow in self.arrows.items() if arrow.kind == "norm"}

    def index_of(self, owner: str) -> tuple[str, ...]:
        """Return the index axes of a module."""
        return tuple(re.findall(r"\{(\w+)\}", owner))

    def _module(self, owner: str) -> TensorSpec:
        """Stand for a module itself, whatever tensors it has."""
        return TensorSpec(owner, owner, "weight", (), self.index_of(owner))

    # Spaces.

    @cached_property
    def outputs(self) -> frozenset[str]:
        """What the model returns: spaces that nothing reads, and those that are declared to be."""
        read = {space for arrow in self.arrows.values() for space in spaces_in(arrow.source)}
        read |= {s for c in self.architecture.attention for s in (*c.queries, *c.keys, c.value, *c.per_head)}
        read |= {add.source for add in self.adds}
        written = {space for arrow in self.arrows.values() for space in spaces_in(arrow.target)}
        returned = {space for space in self.architecture.outputs if space in written}
        return frozenset((written - read) | returned)

    @cached_property
    def attention_maps(self) -> frozenset[str]:
        """Spaces of attention weights: one coordinate per layer and head."""
        return frozenset(c.maps for c in self.architecture.attention if c.maps is not None)

    @cached_property
    def linear(self) -> frozenset[str]:
        """Spaces next to norms and contractions; in others an activation may stand, which no arrow shows."""
        found = {space_of(end) for arrow in self.norms.values() for end in (arrow.source, arrow.target)}
        for c in self.architecture.attention:
            found |= {*c.queries, *c.keys, c.value, c.output}
        scales = [a for a in self.arrows.values() if a.kind == "scale"]
        found |= {space_of(a.source) for a in scales if found & self.joined(space_of(a.target))}
        apart = {*self.architecture.activated, *(s for c in self.architecture.attention for s in c.per_head)}
        return frozenset(s for s in self.architecture.spaces if found & self.joined(s) and not apart & self.joined(s))

    def reduced(self, arrow: Arrow) -> tuple[str, ...]:
        """Return the axes that a norm averages over."""
        if arrow.over is not None:
            return tuple(sorted(term_axes(arrow.over)))
        return self.architecture.spaces[space_of(arrow.source)].axes

    def joined(self, space: str) -> frozenset[str]:
        """Return a space with all that is added to it or that it is added to, directly or not."""
        found = {space}
        while True:
            pairs = [{add.source, add.target} for add in self.adds]
            more = {x for pair in pairs if found & pair for x in pair} - found
            if not more:
                return frozenset(found)
            found |= more

    def mean_axes(self, space: str) -> tuple[str, ...]:
        """Return the axes over which a mean in this space is taken: those of the centred norms that read it."""
        joined = self.joined(space)
        found = {
            axis
            for arrow in self.norms.values()
            if arrow.centred and space_of(arrow.source) in joined
            for axis in self.reduced(arrow)
        }
        return tuple(a for a in self.architecture.spaces[space].axes if a in found)

    def is_local(self, space: str, axis: str) -> bool:
        """Tell whether every instance of an index axis has this space for itself, and it reaches nothing outside.

        It reaches what it is added to, and what a norm without a gain makes of it: no weight stands in between.
        """
        reached, pending = {space}, [space]
        while pending:
            more = self._reached.get(pending.pop(), set()) - reached
            reached |= more
            pending += more
        return all(axis in self.architecture.spaces[name].index for name in reached)

    @cached_property
    def _reached(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for add in self.adds:
            found.setdefault(add.source, set()).add(add.target)
        for arrow in self.norms.values():
            if not arrow.gain:
                found.setdefault(space_of(arrow.source), set()).add(space_of(arrow.target))
        return found

    # Post-norm.

    def residual(self, arrow: Arrow) -> Add | None:
        """Return the addition of a norm's output to what it reads, for which a layer of zero weights norms twice."""
        if arrow.kind != "norm":
            return None
        ends = (space_of(arrow.target), space_of(arrow.source))
        return next((add for add in self.adds if (add.source, add.target) == ends), None)

    def chain(self, arrow: Arrow) -> list[tuple[str, dict[str, int]]]:
        """Return every norm between the same two spaces in order of execution: (module, instance)."""
        key = (str(arrow.source), str(arrow.target))
        if key not in self._chains:
            self._chains[key] = list(self._chain(arrow))
        return self._chains[key]

    @cached_property
    def _chains(self) -> dict[tuple[str, str], list[tuple[str, dict[str, int]]]]:
        return {}

    def _chain(self, arrow: Arrow) -> Iterator[tuple[str, dict[str, int]]]:
        ends = (arrow.source, arrow.target)
        loops: list[tuple[tuple[str, ...], list[str]]] = []
        for name in self.arrows:
            here = self.index_of(name)[:1]
            # Modules that follow each other under the same outermost index are one loop over it.
            if not loops or loops[-1][0] != here:
                loops.append((here, []))
            loops[-1][1].append(name)
        for outer, names in loops:
            norms = [n for n in names if n in self.norms and (self.norms[n].source, self.norms[n].target) == ends]
            found = {name: list(self.instances_of(name)) for name in norms}
            whole = max((self.index_of(name) for name in norms), key=len, default=outer)
            for position in self.instances(whole):
                yield from ((name, i) for name in norms for i in found[name] if i == position)


def additions(architecture: Architecture, config: Config) -> tuple[Add, ...]:
    """Return the additions that hold in any instance under a config."""
    found = []
    for add in architecture.adds:
        condition = add.when
        axes = tuple(a for a in architecture.index_axes if condition is not None and mentions(condition, a))
        if condition is None or any(compute(condition, config, i) for i in architecture.instances(axes, config)):
            found.append(add)
    return tuple(found)


def _written_by(arrow: Arrow) -> Iterator[str]:
    return spaces_in(arrow.target if arrow.kind != "carried" else None)


__all__ = ["Index", "Structure", "additions"]
