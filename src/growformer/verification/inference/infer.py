"""Puts a record together from two checkpoints, and chooses between those that are possible by looking at some bands.

The default placements come first: new coordinates behind the source's, new layers where the tensors show them, factors
as the configs say. Where those do not fit, axes that grew by a whole factor are tried as repeated, whole or coordinate
by coordinate. What is chosen is only what contradicts least: whether it holds, the full comparison says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from growformer.architecture.declaration import Architecture
from growformer.architecture.exact import compute, evaluate
from growformer.architecture.source import SourceInfo
from growformer.errors import ArchitectureError, SourceError
from growformer.verification.alibi_conditions import slope_exponents
from growformer.verification.constraints import compare_checkpoints
from growformer.verification.inference.kinds import kinds_of
from growformer.verification.inference.layers import place_layers
from growformer.verification.inference.scales import Epsilons, epsilon_choices, scales_of
from growformer.verification.recorded import Along, Indices, Recorded, SourceTensor, spelled_out
from growformer.verification.structure import Index
from growformer.verification.tensors import Tensors
from growformer.verification.violations import Violation

Copied = Mapping[str, str]
"""Axis -> ``whole`` (all coordinates, then all again) or ``each`` (every coordinate several times in a row)."""


@dataclass(frozen=True, slots=True)
class Inferred:
    """A record that was inferred.

    Attributes:
        record: the record.
        notes: in words, what it says; and where it does not fit what was looked at, what else was tried.
    """

    record: Recorded
    notes: tuple[str, ...]


def infer(
    architecture: Architecture, source: SourceInfo, target_config: Mapping[str, Any], before: Tensors, after: Tensors
) -> Inferred:
    """Infer how a source became what a target is.

    Args:
        architecture: the declaration, as it holds for the source.
        source: the source, described.
        target_config: the target's config, as config.json holds it.
        before: the source's tensors.
        after: the target's.

    Raises:
        SourceError: the target is of another class, or its config has no sizes that can be read.
    """
    if target_config.get("model_type") != source.config.get("model_type"):
        raise SourceError(
            f"without growformer.json, source and grown model must be of one class: the source is of model_type "
            f"{source.config.get('model_type')!r}, the grown model of {target_config.get('model_type')!r}"
        )
    try:
        return _Inference(architecture, source, target_config, before, after).run()
    except ArchitectureError as error:
        raise SourceError(f"the grown model's config does not fit the source's: {error}") from None


@dataclass(slots=True)
class _Candidate:
    """One record, how it is called, and what some bands say against it."""

    says: str
    record: Recorded
    wrong: list[Violation]

    @property
    def weight(self) -> int:
        """How many different things would have to be wrong: one field of a config counts once, wherever it is read."""
        tensors = {"copy", "rescaled", "zero", "mean", "sum", "constant", "missing", "shape"}
        return len({(v.kind, v.where if v.kind in tensors else v.expected) for v in self.wrong})


class _Inference:
    def __init__(
        self,
        architecture: Architecture,
        source: SourceInfo,
        target_config: Mapping[str, Any],
        before: Tensors,
        after: Tensors,
    ) -> None:
        self.architecture, self.source, self.target_config = architecture, source, target_config
        self.before, self.after = before, after
        self.tried: list[_Candidate] = []

    def run(self) -> Inferred:
        """Return the record that contradicts least."""
        blank = self._numbered()
        self.grown = [
            axis
            for axis in self.architecture.sizes
            if axis not in blank.index_axes and axis not in self.architecture.fixed and blank.grows(axis)
        ]
        placed = place_layers(self._with_maps(blank, {}), self.before, self.after)
        best = self._best(placed, {})
        copied: dict[str, str] = {}
        for axis in self.grown if best.wrong else ():
            for style in ("whole", "each"):
                if not best.wrong or not self._is_repeated(placed, axis):
                    continue
                found = self._best(placed, {**copied, axis: style})
                if found.weight < best.weight:
                    best, copied = found, {**copied, axis: style}
        return Inferred(best.record, tuple(self._notes(best)))

    def _best(self, placed: Recorded, copied: Copied) -> _Candidate:
        """Return the best of the factors on epsilons that are possible, with some axes repeated."""
        rec = self._with_maps(placed, copied)
        best: _Candidate | None = None
        for epsilons in epsilon_choices(rec):
            factors = {field: factor for field, factor in epsilons.items() if factor != 1}
            made = replace(rec, scales=scales_of(rec, epsilons), epsilon_factors=factors)
            candidate = _Candidate(_says(copied, epsilons, self.grown), made, self._contradictions(made))
            self.tried.append(candidate)
            if best is None or candidate.weight < best.weight:
                best = candidate
            if not best.wrong:
                break
        assert best is not None
        return best

    def _contradictions(self, rec: Recorded) -> list[Violation]:
        """Return what conditions, and a few bands of some layers, say against a record."""
        shown: dict[str, set[int]] = {}
        for axis in rec.index_axes:
            if not rec.size_indices[axis]:
                origins = rec.along(axis, {}).source
                new = np.flatnonzero(origins < 0)[:1].tolist()
                shown[axis] = {0, origins.size // 2, origins.size - 1, *new}

        def only(_: str, index: Index) -> bool:
            return all(at in shown.get(axis, {0}) for axis, at in index.items())

        return list(
            compare_checkpoints(rec, self.before, self.after, only=only, sample=True, record="inferred").violations
        )

    # Records.

    def _numbered(self) -> Recorded:
        """Return a record in which only numbered axes have maps: new instances come last."""
        architecture, source = self.architecture, self.source
        rec = Recorded(
            architecture=architecture,
            source_config=architecture.resolve_config(source.sizes),
            target_config=architecture.resolve_config({**self.target_config, **source.inferred}),
            maps={},
            templates={},
            new={},
            scales={},
            epsilon_factors={},
            written=dict(spelled_out(self.target_config, architecture.nested)),
            present=source.templates,
            tied=source.tied,
            tensors={name: SourceTensor(t.stored, t.shape, t.dtype) for name, t in source.tensors.items()},
            prefix=source.prefix,
            spelling=source.spelling,
            packed=source.packed,
            zeros=source.zeros,
            original=source.original,
        )
        for axis in rec.index_axes:
            rec = self._with_new_last(rec, axis)
        return rec

    def _with_new_last(self, rec: Recorded, axis: str) -> Recorded:
        """Return a record in which new instances of a numbered axis come last."""
        found = {key: _appended(*sizes) for key, sizes in self._sizes(rec, axis)}
        templates = {key: tuple(along.source.tolist()) for key, along in found.items()}
        return replace(rec, maps={**rec.maps, axis: found}, templates={**rec.templates, axis: templates})

    def _with_maps(self, rec: Recorded, copied: Copied) -> Recorded:
        """Return a record with what new coordinates carry, and where those of every axis come from."""
        for axis in rec.index_axes:
            if rec.size_indices[axis]:  # how many there are depends on which layers are new
                rec = self._with_new_last(rec, axis)
        kinds, repeated = kinds_of(self.architecture, self.grown, copied)
        maps = {axis: rec.maps[axis] for axis in rec.index_axes}
        for axis in self.architecture.sizes:
            if axis not in maps:
                maps[axis] = {
                    key: self._place(rec, axis, sizes, repeated, copied) for key, sizes in self._sizes(rec, axis)
                }
        return replace(rec, maps=maps, new=kinds)

    def _sizes(self, rec: Recorded, axis: str) -> list[tuple[tuple[int, ...], tuple[int, int]]]:
        """Return an axis' sizes in source and target for every target instance; a new one has none in the source."""
        found = []
        for index in rec.instances(rec.size_indices[axis]):
            after = self.architecture.size(axis, rec.target_config, index)
            new = rec.is_new(index)
            before = 0 if new else self.architecture.size(axis, rec.source_config, rec.origin(index))
            found.append((tuple(index.values()), (before, after)))
        return found

    def _place(self, rec: Recorded, axis: str, sizes: tuple[int, int], repeated: set[str], copied: Copied) -> Along:
        before, after = sizes
        if axis in repeated and before and after % before == 0:
            whole = np.tile(np.arange(before), after // before)
            return Along(before, np.sort(whole) if copied.get(axis) == "each" else whole)
        slopes = next((a for a in self.architecture.alibi if a.heads == axis), None)
        if slopes is not None and before < after and (slopes.when is None or compute(slopes.when, rec.source_config)):
            largest = evaluate(slopes.largest, rec.source_config).rational() if slopes.largest is not None else 8
            old, new = (slope_exponents(slopes, n, largest) for n in (before, after))  # type: ignore[arg-type]
            if set(old) <= set(new):
                return Along(before, np.array([old.index(e) if e in old else -1 for e in new], dtype=np.int64))
        return _appended(before, after)

    def _is_repeated(self, rec: Recorded, axis: str) -> bool:
        """Tell whether an axis grew by one whole factor everywhere."""
        return all(before and after % before == 0 for _, (before, after) in self._sizes(rec, axis) if before)

    # In words.

    def _notes(self, best: _Candidate) -> list[str]:
        notes = [f"the record is inferred: {best.says}"]
        for axis in best.record.index_axes:
            if not best.record.size_indices[axis]:
                new = np.flatnonzero(best.record.along(axis, {}).source < 0).tolist()
                if new:
                    notes.append(f"new {axis}s: {_ranges(new)}")
        if best.wrong:
            notes.append(f"no record that was tried fits; this one contradicts least, first: {best.wrong[0]}")
            for other in self.tried:
                if other is not best:
                    notes.append(
                        f"also tried: {other.says}; {len(other.wrong)} contradictions, first: {other.wrong[0]}"
                    )
        return notes


def _appended(before: int, after: int) -> Along:
    source: Indices = np.full(after, -1, dtype=np.int64)
    source[: min(before, after)] = np.arange(min(before, after))
    return Along(before, source)


def _says(copied: Copied, epsilons: Epsilons, grown: list[str]) -> str:
    styles = {"whole": "repeated as a whole", "each": "repeated coordinate by coordinate"}
    parts = [f"{axis} {styles[style]}" for axis, style in copied.items()]
    if set(grown) - set(copied) or not parts:
        parts.insert(0, "the default placements")
    parts += [f"{field} * {factor}" for field, factor in epsilons.items() if factor != 1]
    return ", ".join(parts)


def _ranges(numbers: list[int]) -> str:
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in found)


__all__ = ["Inferred", "infer"]
