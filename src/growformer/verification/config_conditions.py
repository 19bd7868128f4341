"""Whether the target's config says what preservation asks of it: layer lists, rotary bases, and no other change.

Epsilons and scales of scores stand with the norms and contractions that use them, in ``conditions``; sizes with the
axis maps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from growformer.architecture.exact import names_in
from growformer.verification.recorded import Recorded, Violation, at_instance

NOT_COMPUTED = frozenset(
    {
        "_commit_hash", "_name_or_path", "architectures", "auto_map", "dtype", "id2label", "initializer_range",
        "label2id", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip
"""Config fields that no output depends on."""

SCALABLE_ROTARY = ("default", "linear", "llama3", "yarn")
"""Rotary types in which theta^(d'/d) keeps every frequency."""


def config_conditions(rec: Recorded) -> Iterator[Violation]:
    """Yield every field of the target's config that contradicts preservation."""
    yield from _layer_lists(rec)
    yield from _rotary(rec)
    yield from _unexplained(rec)


def _layer_lists(rec: Recorded) -> Iterator[Violation]:
    for name in rec.architecture.layer_lists:
        before, after = rec.source_config.get(name), rec.target_config.get(name)
        if not isinstance(before, list) or name in rec.architecture.size_fields():
            continue
        axis = _numbered_by(rec, len(before))
        if axis is None:
            continue
        source = rec.along(axis, {}).source
        if not isinstance(after, list) or len(after) != source.size:
            found = f"{len(after)} entries" if isinstance(after, list) else repr(after)
            yield Violation(kind="layers", where=name, expected=f"{source.size} entries, one per {axis}", found=found)
            continue
        for position, origin in enumerate(source.tolist()):
            if origin >= 0 and after[position] != before[origin]:
                yield Violation(
                    kind="layers", where=f"{name}[{position}]", found=repr(after[position]),
                    expected=f"{before[origin]!r} of source {axis} {origin}",
                )  # fmt: skip


def _numbered_by(rec: Recorded, length: int) -> str | None:
    """Return the index axis that a list of the source's config has one entry for."""
    architecture = rec.architecture
    axes = [a for a in architecture.index_axes if not architecture.size_index(a)]
    return next((a for a in axes if architecture.size(a, rec.source_config) == length), None)


def _rotary(rec: Recorded) -> Iterator[Violation]:
    for rotary in rec.architecture.rotary:
        for index in rec.sources(rec.architecture.size_index(rotary.frequency)):
            source, target = rec.sizes(rotary.frequency, index)
            along = rec.along(rotary.frequency, index).source
            if not np.array_equal(along[:source], np.arange(source)) or (along[source:] >= 0).any():
                yield Violation(
                    kind="rotary", where=at_instance(rotary.frequency, index),
                    expected="source frequencies first, in their order, as an angle belongs to a position",
                    found="another order",
                )  # fmt: skip
            yield from _thetas(rec, rotary.parameters, Fraction(target, source))


def _thetas(rec: Recorded, field: str, ratio: Fraction) -> Iterator[Violation]:
    """Every spelling of the rotary parameters in the target must say what the source's say, but for theta."""
    spelled = _rotary_spellings(rec.source_config, field)
    expected = {path: value for entries in reversed(spelled.values()) for path, value in entries.items()}
    expected.setdefault("rope_type", "default")
    if not any(path.endswith("rope_theta") for path in expected):
        expected["rope_theta"] = 10000.0
    for path, value in expected.items():
        if path.endswith("rope_theta"):
            expected[path] = float(value) ** float(ratio)
        elif path.endswith("rope_type") and ratio != 1 and value not in SCALABLE_ROTARY:
            yield Violation(
                kind="rotary", where=path, expected=f"one of {', '.join(SCALABLE_ROTARY)} where the rotated size grows",
                found=repr(value),
            )  # fmt: skip
    found = _rotary_spellings(rec.target_config, field)
    for name, entries in found.items():
        for path, value in entries.items():
            wanted = expected.get(path)
            if path.endswith("rope_theta") and isinstance(wanted, float):
                if isinstance(value, (int, float)) and abs(value - wanted) <= 1e-12 * wanted:
                    continue
                says = f"{wanted!r} = theta^({ratio}), so that every frequency stays"
            elif value == wanted:
                continue
            else:
                says = repr(wanted)
            where = name if name == path else f"{name}.{path}"
            yield Violation(kind="rotary", where=where, expected=says, found=repr(value))
    said = {path for entries in found.values() for path in entries}
    for path in sorted(expected.keys() - said):
        is_default = path == "rope_type" and expected[path] == "default"
        implied = is_default or (path == "rope_theta" and not any(spelled.values()) and ratio == 1)
        if not implied:
            yield Violation(kind="rotary", where=f"{field}.{path}", expected=repr(expected[path]), found="nothing")


def _rotary_spellings(config: Mapping[str, Any], field: str) -> dict[str, dict[str, Any]]:
    """Return the rotary parameters under each of their names, the one that counts first."""
    found: dict[str, dict[str, Any]] = {}
    for name in (field, "rope_theta", "rope_scaling"):
        value = config.get(name)
        entries = dict(_entries(value if isinstance(value, Mapping) else {name: value}))
        found[name] = {re.sub(r"(^|\.)type$", r"\1rope_type", path): v for path, v in entries.items()}
    return found


def _entries(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _entries(inner, f"{path}.{name}" if path else str(name))
    elif value is not None:
        yield path, value


def _unexplained(rec: Recorded) -> Iterator[Violation]:
    """Everything that growth does not explain must be as it was."""
    architecture = rec.architecture
    explained = {*architecture.size_fields(), *architecture.layer_lists, "rope_theta", "rope_scaling", *NOT_COMPUTED}
    explained |= {name for expression in architecture.sizes.values() for name in names_in(expression)}
    explained |= {rotary.parameters for rotary in architecture.rotary}
    explained |= {str(a.eps) for a in rec.arrows.values() if a.kind == "norm"}
    before, after = (json.loads(json.dumps(dict(c))) for c in (rec.source_config, rec.target_config))
    for name in sorted({*before, *after} - explained):
        if before.get(name) != after.get(name) and "drop" not in name and not _is_longer(rec, name):
            yield Violation(kind="config", where=name, expected=repr(before.get(name)), found=repr(after.get(name)))
    for name, (value, reason) in architecture.constants.items():
        if after.get(name, value) != value:
            yield Violation(kind="config", where=name, expected=f"{value!r}: {reason}", found=repr(after[name]))


def _is_longer(rec: Recorded, name: str) -> bool:
    """Tell whether a field only allows positions past the source's, which its own positions do not depend on."""
    if name != "max_position_embeddings":
        return False
    kinds = {
        value
        for rotary in rec.architecture.rotary
        for entries in _rotary_spellings(rec.target_config, rotary.parameters).values()
        for path, value in entries.items()
        if path.endswith("rope_type")
    }
    before, after = rec.source_config.get(name), rec.target_config.get(name)
    return bool(rec.architecture.rotary) and kinds <= {"default", "linear", "llama3"} and (before or 0) <= (after or 0)


__all__ = ["config_conditions"]
