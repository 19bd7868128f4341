"""Whether the recorded axis maps fit the configs, and every tensor exists where its source does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from growformer.architecture.declaration import TensorSpec
from growformer.architecture.exact import mentions
from growformer.errors import ArchitectureError
from growformer.verification.recorded import Recorded
from growformer.verification.violations import Violation, at_instance


def axis_conditions(rec: Recorded) -> Iterator[Violation]:
    """Yield every axis map that does not fit the configs, or loses or shares out source coordinates unevenly."""
    architecture = rec.architecture
    order = sorted(architecture.sizes, key=lambda axis: axis not in architecture.index_axes)
    for axis in order:
        is_index = axis in architecture.index_axes
        broken = False
        try:
            for violation in _axis(rec, axis, is_index):
                broken = True
                yield violation
        except ArchitectureError as error:
            yield Violation(kind="axis map", where=axis, expected="a whole number", found=str(error))
            broken = True
        if broken and is_index:
            return


def _axis(rec: Recorded, axis: str, is_index: bool) -> Iterator[Violation]:
    def wrong(index: Mapping[str, int], expected: str, found: str) -> Violation:
        return Violation(kind="axis map", where=at_instance(axis, index), expected=expected, found=found)

    windows = {window for arrow in rec.architecture.arrows.values() for window in arrow.kernel}
    for index in rec.instances(rec.size_indices[axis]):
        along = rec.maps.get(axis, {}).get(tuple(index.values()))
        if along is None:
            yield wrong(index, "a map", "none")
            continue
        size, source = rec.target_size(axis, index), along.source
        if source.size != size:
            yield wrong(index, f"{size} target coordinates, as the config says", str(source.size))
            continue
        if is_index:
            yield from _templates(rec, axis, index, source)
        if rec.is_new(index):
            continue
        before = rec.sizes(axis, index)[0]
        if along.source_size != before:
            yield wrong(index, f"{before} source coordinates, as the config says", str(along.source_size))
            continue
        if source.size and not (source.min() >= -1 and source.max() < before):
            yield wrong(index, f"source coordinates from 0 to {before - 1}", f"{source.min()} to {source.max()}")
            continue
        counts = np.bincount(source[source >= 0], minlength=before)
        if counts.size and (counts.min() != counts.max() or counts.min() == 0):
            at = int(np.flatnonzero(counts != max(counts.max(), 1))[0])
            yield wrong(index, "every source coordinate, equally often", f"coordinate {at} {int(counts[at])} times")
        elif not np.array_equal(source, np.arange(before)) and (axis in rec.architecture.fixed or axis in windows):
            why = rec.architecture.fixed.get(axis, "it is the window of a convolution")
            yield wrong(index, f"no change ({why})", "a change")
        elif is_index and not np.array_equal(source[source >= 0], np.arange(before)):
            yield wrong(index, "source instances once, in their order", str(source.tolist()))


def _templates(rec: Recorded, axis: str, index: Mapping[str, int], source: Any) -> Iterator[Violation]:
    found = rec.templates.get(axis, {}).get(tuple(index.values()))
    old = [] if found is None else [int(a) for a, b in zip(found, source, strict=False) if b >= 0]
    if found is None or len(found) != source.size or old != source[source >= 0].tolist():
        yield Violation(
            kind="axis map", where=at_instance(axis, index),
            expected=f"templates that agree with the map {source.tolist()}", found=str(found and list(found)),
        )  # fmt: skip


def existence_conditions(rec: Recorded) -> Iterator[Violation]:
    """Yield every tensor that source or target have though their configs say otherwise, or that one of them lacks."""
    architecture = rec.architecture
    for template, spec in architecture.tensors.items():
        optional = architecture.arrows[spec.owner].optional
        exists = architecture.exists(spec, rec.source_config)
        if (template in rec.present and not exists) or (exists and not optional and template not in rec.present):
            said, has = ("one", "none") if exists else ("none", "one")
            yield Violation(kind="config", where=template, expected=f"{said}, as the source's config says", found=has)
        elif not exists and not optional and architecture.exists(spec, rec.target_config):
            yield Violation(kind="config", where=template, expected="none, as in the source", found="one in the target")
        elif exists:
            yield from _instances(rec, spec)


def _instances(rec: Recorded, spec: TensorSpec) -> Iterator[Violation]:
    """A layer that comes from the source has the tensors that it had."""
    architecture = rec.architecture
    arrow = architecture.arrows[spec.owner]
    conditions = [c for c in (arrow.when, arrow.bias if spec.part == "bias" else None) if isinstance(c, str)]
    axes = tuple(axis for axis in spec.index if any(mentions(c, axis) for c in conditions))
    for index in rec.sources(axes) if axes else ():
        before = architecture.exists(spec, rec.source_config, rec.origin(index))
        after = architecture.exists(spec, rec.target_config, index)
        if before != after:
            yield Violation(
                kind="layers", where=at_instance(spec.template if len(axes) == len(spec.index) else spec.owner, index),
                expected=f"{'one' if before else 'none'}, as in what it comes from", found="one" if after else "none",
            )  # fmt: skip


__all__ = ["axis_conditions", "existence_conditions"]
