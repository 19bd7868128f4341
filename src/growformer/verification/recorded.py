"""What a plan, or a grown checkpoint, records about its growth, read from plain data without any code that plans.

The record says where coordinates and layers come from, and claims for every space what its new coordinates carry and
by what the others are scaled. Nothing in it is believed here: ``conditions`` checks that the claims agree with each
other, ``requirements`` says what every tensor must hold for them to be true.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from growformer.architecture.declaration import MAX_COORDINATES, Arrow, TensorSpec, space_of
from growformer.architecture.exact import ONE, Root
from growformer.architecture.serialise import architecture_from_json
from growformer.errors import ArchitectureError, PlanError, in_words
from growformer.verification.held import Held, held_tensor, parts_of
from growformer.verification.structure import Index, Structure

Indices = npt.NDArray[np.int64]

# What a coordinate carries, in order of strength: a coordinate that is new along two axes carries the stronger.
SOURCE, MEAN, SILENT, LIVE = range(4)
STATUS = {"copy": SOURCE, "split": SOURCE, "mean": MEAN, "silent": SILENT, "live": LIVE}

KEPT = Fraction(9, 25)
"""Where a coordinate is split, the share of its square that stays in place; its other parts share the rest evenly,
and new coordinate j takes part in source coordinate j modulo the source's size."""


@dataclass(frozen=True, slots=True)
class Along:
    """One axis in one instance: target coordinate -> source coordinate, or -1."""

    source_size: int
    source: Indices


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A declared tensor of the source as it is recorded: the name it is stored under, its shape and dtype."""

    stored: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Recorded(Structure):
    """A growth as it is recorded.

    Attributes:
        maps: axis -> instance -> where its coordinates come from.
        templates: index axis -> instance -> source position that each target position comes from or copies.
        new: space -> axis -> what new coordinates carry.
        scales: space -> instance -> factor on source coordinates.
        epsilon_factors: config field -> factor on that epsilon.
        written: the target's config as it is written, without defaults, nested fields spelled out.
        tensors: canonical name -> tensor of the source.
        prefix, spelling: of stored names: what stands in front, and templates that are spelled in another way.
        packed: templates of stored tensors that hold several declared ones.
        zeros: templates that only the class which the source is written as has.
        original: the source's own config, where the source's config is that of another class.
    """

    maps: Mapping[str, Mapping[tuple[int, ...], Along]]
    templates: Mapping[str, Mapping[tuple[int, ...], tuple[int, ...]]]
    new: Mapping[str, Mapping[str, str]]
    scales: Mapping[str, Mapping[tuple[int, ...], Root]]
    epsilon_factors: Mapping[str, Fraction]
    written: Mapping[str, Any]
    tensors: Mapping[str, SourceTensor]
    prefix: str
    spelling: Mapping[str, str]
    packed: tuple[str, ...]
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
            source, target = data["source"], data["target_config"]
            inferred = source["inferred"]
            return Recorded(
                architecture=architecture,
                source_config=architecture.resolve_config({**source["config"], **inferred}),
                target_config=architecture.resolve_config({**target, **inferred}),
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
                written=dict(spelled_out(target, architecture.nested)),
                present=frozenset(source["templates"]),
                tied=bool(source["tied"]),
                tensors={
                    name: SourceTensor(entry[0], tuple(entry[1]), entry[2]) for name, entry in source["tensors"].items()
                },
                prefix=source["prefix"],
                spelling=dict(source["spelling"]),
                packed=tuple(source["packed"]),
                zeros=frozenset(source.get("zeros", ())),
                original=source.get("original"),
            )
        except (ArchitectureError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise PlanError(f"not a record of a growth: {in_words(error)}") from error

    # Instances.

    def sources(self, index: tuple[str, ...]) -> Iterator[dict[str, int]]:
        """Yield the target's instances of index axes that come from the source."""
        return (instance for instance in self.instances(index) if not self.is_new(instance))

    def sources_of(self, owner: str) -> Iterator[dict[str, int]]:
        """Yield the target's instances of a module that come from the source."""
        return (instance for instance in self.instances_of(owner) if not self.is_new(instance))

    def along(self, axis: str, index: Index) -> Along:
        """Return where an axis' coordinates come from in one target instance."""
        return self.maps[axis][tuple(index[name] for name in self.size_indices[axis])]

    def outermost_new(self, index: Index) -> str | None:
        """Return the first index axis along which a target instance is new."""
        for axis in self.index_axes:
            if axis in index and self.along(axis, index).source[index[axis]] < 0:
                return axis
        return None

    def is_new(self, index: Index) -> bool:
        """Tell whether a target instance is new along any of its index axes."""
        return self.outermost_new(index) is not None

    def origin(self, index: Index) -> dict[str, int]:
        """Return the source instance that a target instance, which is not new, comes from."""
        return {axis: int(self.along(axis, index).source[index[axis]]) for axis in self.index_axes if axis in index}

    def sizes(self, axis: str, index: Index) -> tuple[int, int]:
        """Return an axis' sizes in source and target, from the configs; the instance must not be new."""
        return self._sizes(axis, tuple(index[name] for name in self.size_indices[axis]))

    def target_size(self, axis: str, index: Index) -> int:
        """Return an axis' size in the target, from the config."""
        return self._target_size(axis, tuple(index[name] for name in self.size_indices[axis]))

    def _sizes(self, axis: str, at: tuple[int, ...]) -> tuple[int, int]:
        key = ("both", axis, at)
        if key not in self._known_sizes:
            index = dict(zip(self.size_indices[axis], at, strict=True))
            source = self.architecture.size(axis, self.source_config, self.origin(index))
            self._known_sizes[key] = (source, self._target_size(axis, at))
        return self._known_sizes[key]

    def _target_size(self, axis: str, at: tuple[int, ...]) -> int:
        key = ("target", axis, at)
        if key not in self._known_sizes:
            index = dict(zip(self.size_indices[axis], at, strict=True))
            size = self.architecture.size(axis, self.target_config, index)
            self._known_sizes[key] = (size, size)
        return self._known_sizes[key][1]

    @cached_property
    def _known_sizes(self) -> dict[tuple[str, str, tuple[int, ...]], tuple[int, int]]:
        return {}

    def grows(self, axis: str) -> bool:
        """Tell whether an axis has another size in any instance that comes from the source."""
        return any(len(set(self.sizes(axis, index))) > 1 for index in self.sources(self.size_indices[axis]))

    # Names.

    def source_held(self, canonical: str) -> Held:
        """Return where a tensor of the source is stored.

        Raises:
            KeyError: the source has none.
        """
        stored = self.tensors[canonical].stored
        inside = self._source_parts.get(canonical) if self.packed else None
        return replace(inside, stored=stored) if inside is not None else Held(stored, canonical)

    def target_held(self, spec: TensorSpec, index: Index) -> Held:
        """Return where a tensor of the target is stored."""
        inside = self._target_parts.get(spec.name(index)) if self.packed else None
        return inside if inside is not None else held_tensor(self, spec, index)

    @cached_property
    def _source_parts(self) -> dict[str, Held]:
        return dict(parts_of(self, self.source_config))

    @cached_property
    def _target_parts(self) -> dict[str, Held]:
        return dict(parts_of(self, self.target_config))

    def dtype(self, template: str) -> str:
        """Return the dtype of a tensor in the source.

        Raises:
            ArchitectureError: the source has no such tensor.
        """
        spec = self.architecture.tensors.get(template)
        instances = self.architecture.instances_of(spec, self.source_config) if spec is not None else iter(())
        for index in instances:
            found = self.tensors.get(template.format(**index))
            if found is not None:
                return found.dtype
        raise ArchitectureError(f"the source has no tensor {template!r}")

    @cached_property
    def cache(self) -> dict[Any, Any]:
        """What has been derived from this record, by those who derive it."""
        return {}

    # Claims.

    def kind(self, space: str, axis: str) -> str | None:
        """Return what new coordinates of a space are said to carry along an axis; a new layer's attention is live."""
        said = self.new.get(space, {}).get(axis)
        return "live" if said is None and space in self.attention_maps and axis in self.index_axes else said

    def scale(self, space: str, index: Index) -> Root:
        """Return the factor that source coordinates of a space are said to have."""
        scales = self.scales.get(space)
        if not scales:
            return ONE
        wanted = self.architecture.spaces[space].index
        return scales.get(tuple(index[name] for name in wanted if name in index), ONE)

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
        if not size:
            return {Fraction(1)}
        counts = [np.bincount(origins[(origins >= 0) & (codes == c)], minlength=size) for c in range(len(squares))]
        together = np.unique(counts[0])[:, None] if len(counts) == 1 else np.unique(np.stack(counts), axis=1).T
        return {sum((s * int(n) for s, n in zip(squares, row, strict=True)), Fraction(0)) for row in together}

    def mean_square_ratio(self, arrow: Arrow, index: Index) -> Fraction:
        """Return mean square over a norm's axes in the target relative to the source's: w^2 C n / n'."""
        space = space_of(arrow.source)
        ratio = self.scale(space, index).square
        for axis in self.reduced(arrow):
            source, target = self.sizes(axis, index)
            ratio *= min(self.energies(space, axis, index)) * Fraction(source, target)
        return ratio


def _unroll(runs: list[list[int]]) -> Indices:
    if sum(abs(count) for _, count in runs) > MAX_COORDINATES:
        raise PlanError(f"an axis map of more than {MAX_COORDINATES:,} coordinates; no axis of a model has as many")
    parts = [
        np.full(count, -1, dtype=np.int64) if first == -1 else np.arange(first, first + count, dtype=np.int64)
        for first, count in runs
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def spelled_out(config: Mapping[str, Any], nested: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a config, those of nested ones with the nest's name in front."""
    for name, value in config.items():
        if name in nested and isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", entry) for inner, entry in value.items())
        else:
            yield name, value


__all__ = ["KEPT", "LIVE", "MEAN", "SILENT", "SOURCE", "STATUS", "Along", "Recorded", "SourceTensor", "spelled_out"]
