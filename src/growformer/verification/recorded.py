"""What a plan, or a grown checkpoint, records about its growth, read from plain data without any code that plans.

The record says where coordinates and layers come from, and claims for every space what its new coordinates carry and
by what the others are scaled. Nothing in it is believed here: ``conditions`` checks that the claims agree with each
other, ``requirements`` says what every tensor must hold for them to be true.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from growformer.architecture.declaration import Architecture, Arrow, TensorSpec, space_of, spaces_in
from growformer.architecture.exact import ONE, Root
from growformer.architecture.language import term_axes
from growformer.architecture.serialise import architecture_from_json
from growformer.architecture.source import stored_name
from growformer.errors import ArchitectureError, PlanError

Index = Mapping[str, int]
Indices = npt.NDArray[np.int64]

# What a coordinate carries, in order of strength: a coordinate that is new along two axes carries the stronger.
SOURCE, MEAN, SILENT, LIVE = range(4)
STATUS = {"copy": SOURCE, "split": SOURCE, "mean": MEAN, "silent": SILENT, "live": LIVE}

KEPT = Fraction(9, 25)
"""Where a coordinate is split, the share of its square that stays in place; its other parts share the rest evenly,
and new coordinate j takes part in source coordinate j modulo the source's size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that does not hold.

    Attributes:
        kind: what was checked. Of a record: ``axis map``, ``space``, ``norm``, ``contraction``, ``add``, ``tie``,
            ``layers``, ``rotary``, ``config``, or ``dead`` (inert on both sides: preserved, but it never learns). Of a
            plan: ``coverage``, ``block``. Of tensors: ``copy``, ``rescaled``, ``zero``, ``mean``, ``sum``,
            ``constant``, ``free``. Of both: ``missing``, ``left over``, ``shape``.
        where: the tensor by its stored name, or the space, axis or config field.
        expected, found: in words and numbers.
        region: the part of the tensor.
        deviation: the largest absolute deviation in it, where numbers were compared.
    """

    kind: str
    where: str
    expected: str
    found: str
    region: str = ""
    deviation: float | None = None

    def __str__(self) -> str:
        largest = f" (largest deviation {self.deviation:.3g})" if self.deviation is not None else ""
        return f"{self.where}{self.region}: expected {self.expected}, found {self.found}{largest}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Along:
    """One axis in one instance: target coordinate -> source coordinate, or -1."""

    source_size: int
    source: Indices


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A growth as it is recorded.

    Attributes:
        architecture: the declaration.
        source_config, target_config: the configs, with declared defaults filled in.
        maps: axis -> instance -> where its coordinates come from.
        templates: index axis -> instance -> source position that each target position comes from or copies.
        new: space -> axis -> what new coordinates carry.
        scales: space -> instance -> factor on source coordinates.
        epsilon_factors: config field -> factor on that epsilon.
        present: templates of the tensors that the source has.
        tied: whether the architecture's ties hold.
        prefix: of stored names.
        zeros: templates that only the class which the source is written as has.
        original: the source's own config, where the source's config is that of another class.
    """

    architecture: Architecture
    source_config: Mapping[str, Any]
    target_config: Mapping[str, Any]
    maps: Mapping[str, Mapping[tuple[int, ...], Along]]
    templates: Mapping[str, Mapping[tuple[int, ...], tuple[int, ...]]]
    new: Mapping[str, Mapping[str, str]]
    scales: Mapping[str, Mapping[tuple[int, ...], Root]]
    epsilon_factors: Mapping[str, Fraction]
    present: frozenset[str]
    tied: bool
    prefix: str
    zeros: frozenset[str] = frozenset()
    original: Mapping[str, Any] | None = None

    @staticmethod
    def read(data: Mapping[str, Any] | Recorded) -> Recorded:
        """Read a plan's JSON, or what a grown checkpoint's ``growformer.json`` holds under ``plan``.

        Raises:
            PlanError: the data is neither.
        """
        if isinstance(data, Recorded):
            return data
        try:
            architecture = architecture_from_json(dict(data["architecture"]))
            inferred = data["source"]["inferred"]
            return Recorded(
                architecture=architecture,
                source_config=architecture.resolve_config({**data["source"]["config"], **inferred}),
                target_config=architecture.resolve_config({**data["target_config"], **inferred}),
                maps={
                    axis: {tuple(m["index"]): Along(int(m["source_size"]), _unroll(m["runs"])) for m in maps}
                    for axis, maps in data["axis_maps"].items()
                },
                templates={
                    axis: {tuple(m["index"]): tuple(m["source"]) for m in maps}
                    for axis, maps in data["templates"].items()
                },
                new={space: dict(state["new"]) for space, state in data["spaces"].items()},
                scales={
                    space: {tuple(s["index"]): Root.parse(s["scale"]) for s in state["scales"]}
                    for space, state in data["spaces"].items()
                },
                epsilon_factors={name: Fraction(factor) for name, factor in data["epsilon_factors"].items()},
                present=frozenset(data["source"]["templates"]),
                tied=bool(data["source"]["tied"]),
                prefix=data["source"]["prefix"],
                zeros=frozenset(data["source"].get("zeros", ())),
                original=data["source"].get("original"),
            )
        except (ArchitectureError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise PlanError(f"not a record of a growth: {type(error).__name__}: {error}") from error

    # Instances.

    def instances(self, index: tuple[str, ...]) -> Iterator[dict[str, int]]:
        """Yield the target's instances of index axes."""
        return self.architecture.instances(index, self.target_config)

    def sources(self, index: tuple[str, ...]) -> Iterator[dict[str, int]]:
        """Yield the target's instances of index axes that come from the source."""
        return (instance for instance in self.instances(index) if not self.is_new(instance))

    def along(self, axis: str, index: Index) -> Along:
        """Return where an axis' coordinates come from in one target instance."""
        return self.maps[axis][tuple(index[name] for name in self.architecture.size_index(axis))]

    def outermost_new(self, index: Index) -> str | None:
        """Return the first index axis along which a target instance is new."""
        for axis in self.architecture.sizes:
            if axis in index and self.along(axis, index).source[index[axis]] < 0:
                return axis
        return None

    def is_new(self, index: Index) -> bool:
        """Tell whether a target instance is new along any of its index axes."""
        return self.outermost_new(index) is not None

    def origin(self, index: Index) -> dict[str, int]:
        """Return the source instance that a target instance, which is not new, comes from."""
        return {
            axis: int(self.along(axis, index).source[index[axis]]) for axis in self.architecture.sizes if axis in index
        }

    def sizes(self, axis: str, index: Index) -> tuple[int, int]:
        """Return an axis' sizes in source and target, from the configs; the instance must not be new."""
        wanted = {name: index[name] for name in self.architecture.size_index(axis)}
        return (
            self.architecture.size(axis, self.source_config, self.origin(wanted)),
            self.target_size(axis, index),
        )

    def target_size(self, axis: str, index: Index) -> int:
        """Return an axis' size in the target, from the config."""
        wanted = {name: index[name] for name in self.architecture.size_index(axis)}
        return self.architecture.size(axis, self.target_config, wanted)

    def stored(self, canonical: str) -> str:
        """Return the name under which a canonical tensor is stored."""
        return stored_name(self.architecture, self.prefix, canonical)

    def specs(self) -> Iterator[tuple[TensorSpec, dict[str, int]]]:
        """Yield every tensor that the target must have."""
        for spec in self.architecture.tensors.values():
            if spec.template in self.present:
                for index in self.instances(spec.index):
                    yield spec, index

    # Arrows that this source has.

    @cached_property
    def tied_heads(self) -> dict[str, str]:
        """Tied tensor -> the tensor whose storage it shares, where this source has the head that reads it."""
        if not self.tied:
            return {}
        arrows = self.architecture.arrows
        written = {space for owner in self._owners for space in spaces_in(arrows[owner].target)}
        return {
            head: table
            for head, table in self.architecture.ties.items()
            if table in self.present and set(spaces_in(arrows[self.architecture.tensors[head].owner].source)) <= written
        }

    @cached_property
    def _owners(self) -> set[str]:
        return {self.architecture.tensors[t].owner for t in self.present if t in self.architecture.tensors}

    @cached_property
    def arrows(self) -> dict[str, Arrow]:
        """The arrows that the source has, tied ones included, in order of execution."""
        has = self._owners | {self.architecture.tensors[head].owner for head in self.tied_heads}
        return {name: arrow for name, arrow in self.architecture.arrows.items() if name in has}

    def index_of(self, owner: str) -> tuple[str, ...]:
        """Return the index axes of a module."""
        specs = self.architecture.tensors.values()
        return next(spec.index for spec in specs if spec.owner == owner)

    @cached_property
    def outputs(self) -> frozenset[str]:
        """Spaces that nothing reads: what the model returns."""
        read = {space for arrow in self.arrows.values() for space in spaces_in(arrow.source)}
        read |= {s for c in self.architecture.attention for s in (c.query, c.key, c.value)}
        read |= {a for a, _ in self.architecture.adds}
        written = {space for arrow in self.arrows.values() for space in spaces_in(arrow.target)}
        return frozenset(written - read)

    def reduced(self, arrow: Arrow) -> tuple[str, ...]:
        """Return the axes that a norm averages over."""
        if arrow.over is not None:
            return tuple(sorted(term_axes(arrow.over)))
        return self.architecture.spaces[space_of(arrow.source)].axes

    def joined(self, space: str) -> frozenset[str]:
        """Return a space with all that is added to it or that it is added to, directly or not."""
        found = {space}
        while True:
            more = {x for pair in self.architecture.adds if found & set(pair) for x in pair} - found
            if not more:
                return frozenset(found)
            found |= more

    def mean_axes(self, space: str) -> tuple[str, ...]:
        """Return the axes over which a mean in this space is taken: those of the centred norms that read it."""
        joined = self.joined(space)
        found = {
            axis
            for arrow in self.arrows.values()
            if arrow.kind == "norm" and arrow.centred and space_of(arrow.source) in joined
            for axis in self.reduced(arrow)
        }
        return tuple(a for a in self.architecture.spaces[space].axes if a in found)

    def is_local(self, space: str, axis: str) -> bool:
        """Tell whether every instance of an index axis has this space for itself, and adds it to nothing outside."""
        if axis not in self.architecture.spaces[space].index:
            return False
        return all(self.is_local(b, axis) for a, b in self.architecture.adds if a == space and b != a)

    # Claims.

    def kind(self, space: str, axis: str) -> str | None:
        """Return what new coordinates of a space are said to carry along an axis."""
        return self.new.get(space, {}).get(axis)

    def scale(self, space: str, index: Index) -> Root:
        """Return the factor that source coordinates of a space are said to have."""
        wanted = self.architecture.spaces[space].index
        return self.scales.get(space, {}).get(tuple(index[name] for name in wanted if name in index), ONE)

    def parts(self, space: str, axis: str, index: Index) -> tuple[Indices, Indices, list[Fraction]]:
        """Return for every target coordinate of an axis its source coordinate, or -1, and a code of its squared factor.

        The squared factors that the codes stand for come last; they differ from one where the axis is split.
        """
        along = self.along(axis, index)
        source, size = along.source, along.source_size
        codes, squares = np.zeros(source.size, dtype=np.int64), [Fraction(1)]
        if self.kind(space, axis) != "split" or not size or (source >= 0).all():
            return source, codes, squares
        origins = np.where(source < 0, np.arange(source.size) % size, source)
        extra = np.bincount(origins[source < 0], minlength=size)
        for at in np.flatnonzero(extra[origins]):
            square = (1 - KEPT) / int(extra[origins[at]]) if source[at] < 0 else KEPT
            if square not in squares:
                squares.append(square)
            codes[at] = squares.index(square)
        return origins, codes, squares

    def energies(self, space: str, axis: str, index: Index) -> set[Fraction]:
        """Return the different sums of squared factors with which source coordinates of an axis appear."""
        origins, codes, squares = self.parts(space, axis, index)
        size = self.along(axis, index).source_size
        counts = [np.bincount(origins[(origins >= 0) & (codes == c)], minlength=size) for c in range(len(squares))]
        together = np.unique(np.stack(counts), axis=1).T
        return {sum((s * int(n) for s, n in zip(squares, row, strict=True)), Fraction(0)) for row in together}

    def mean_square_ratio(self, arrow: Arrow, index: Index) -> Fraction:
        """Return mean square over a norm's axes in the target relative to the source's: w^2 C n / n'."""
        space = space_of(arrow.source)
        ratio = self.scale(space, index).square
        for axis in self.reduced(arrow):
            source, target = self.sizes(axis, index)
            ratio *= min(self.energies(space, axis, index)) * Fraction(source, target)
        return ratio

    # Post-norm.

    def is_residual(self, arrow: Arrow) -> bool:
        """Tell whether a norm's output is added to what it reads, so that a layer of zero weights norms twice."""
        return arrow.kind == "norm" and (space_of(arrow.target), space_of(arrow.source)) in self.architecture.adds

    def chain(self, arrow: Arrow) -> list[tuple[str, dict[str, int]]]:
        """Return every norm between the same two spaces in order of execution: (module, instance)."""
        ends = (arrow.source, arrow.target)
        found: list[tuple[str, dict[str, int]]] = []
        loop: list[str] = []
        outer: tuple[str, ...] = ()

        def run() -> None:
            for position in self.instances(outer):
                for name in loop:
                    other = self.arrows[name]
                    if other.kind == "norm" and (other.source, other.target) == ends:
                        inner = self.instances(self.index_of(name))
                        found.extend((name, i) for i in inner if position.items() <= i.items())

        # Modules that follow each other under the same outermost index are one loop over it.
        for name in self.arrows:
            here = self.index_of(name)[:1]
            if here != outer:
                run()
                loop, outer = [], here
            loop.append(name)
        run()
        return found


def at_instance(name: str, index: Mapping[str, int]) -> str:
    """Name one instance of a space or module."""
    if all("{" + axis + "}" in name for axis in index) or not index:
        return name.format(**index)
    return f"{name}[{', '.join(f'{axis} {at}' for axis, at in index.items())}]"


def _unroll(runs: list[list[int]]) -> Indices:
    parts = [
        np.full(count, -1, dtype=np.int64) if first == -1 else np.arange(first, first + count, dtype=np.int64)
        for first, count in runs
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


__all__ = ["KEPT", "LIVE", "MEAN", "SILENT", "SOURCE", "STATUS", "Along", "Recorded", "Violation", "at_instance"]
