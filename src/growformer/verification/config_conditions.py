"""Whether the target's config says what preservation asks of it: kinds of layers, their lists, and no other change.

Epsilons, scales of scores and rotary parameters stand with the norms, contractions and frequencies that use them;
sizes with the axis maps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from growformer.architecture.exact import compute, mentions, names_in
from growformer.verification.recorded import Recorded
from growformer.verification.rotary_conditions import grown_base, rotary_fields, rotary_types
from growformer.verification.unread_fields import unread
from growformer.verification.violations import Violation

NOT_COMPUTED = frozenset(
    {
        "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures", "attn_implementation",
        "auto_map", "dtype", "id2label", "initializer_range", "label2id", "pretraining_tp", "torch_dtype",
        "transformers_version", "unsloth_fixed", "unsloth_version", "use_cache",
    }
)  # fmt: skip
"""Config fields that no output depends on; also inside of nested configs."""
_ONE_FUNCTION = {"silu", "swish"}
"""Two names of one activation function, and of one class."""


def config_conditions(rec: Recorded) -> Iterator[Violation]:
    """Yield every field of the target's config that contradicts preservation."""
    yield from _layer_kinds(rec)
    yield from _layer_lists(rec)
    yield from _layer_numbers(rec)
    yield from _repeated(rec)
    yield from _class(rec)
    yield from _unexplained(rec)


def _class(rec: Recorded) -> Iterator[Violation]:
    """The class that loads the weights, with its head, is the source's."""
    before, after = (config.get("architectures") for config in (rec.source_config, rec.target_config))
    if before and after and before != after:
        yield Violation(kind="config", where="architectures", expected=repr(before), found=repr(after))


def _layer_kinds(rec: Recorded) -> Iterator[Violation]:
    """Every layer that comes from the source is of the kind that it was."""
    for kind in rec.architecture.kinds:
        axes = tuple(axis for axis in rec.index_axes if mentions(kind.when, axis))
        for index in rec.sources(axes):
            origin = rec.origin(index)
            before = compute(kind.when, rec.source_config, origin)
            if compute(kind.when, rec.target_config, index) != before:
                yield Violation(
                    kind="layers", where=f"{kind.when} [{_named(index)}]",
                    expected=f"{before}, as of source {_named(origin)} ({kind.because})", found=str(not before),
                )  # fmt: skip


def _named(index: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} {at}" for axis, at in index.items())


def _layer_lists(rec: Recorded) -> Iterator[Violation]:
    for name in rec.architecture.layer_lists:
        before, after = rec.source_config.get(name), rec.target_config.get(name)
        if not isinstance(before, list) or name in rec.architecture.size_fields():
            continue
        axis = _numbered_by(rec, name, len(before))
        if axis is None:
            if before != after:
                yield Violation(kind="layers", where=name, expected=repr(before), found=repr(after))
            continue
        source = rec.along(axis, {}).source
        if not isinstance(after, list) or len(after) != source.size:
            found = f"{len(after)} entries" if isinstance(after, list) else repr(after)
            yield Violation(kind="layers", where=name, expected=f"{source.size} entries, one per {axis}", found=found)
            continue
        rotary = next((r for r in rec.architecture.rotary if r.per_layer == name), None)
        for position, origin in enumerate(source.tolist()):
            if origin < 0:
                continue
            wanted = before[origin] if rotary is None else grown_base(rec, rotary, before[origin])
            if after[position] != wanted:
                yield Violation(
                    kind="layers", where=f"{name}[{position}]", found=repr(after[position]),
                    expected=f"{wanted!r} of source {axis} {origin}",
                )  # fmt: skip


def _layer_numbers(rec: Recorded) -> Iterator[Violation]:
    """Fields that name layers by number, 0 standing before the first one, name those that the source's did."""
    axis = next((a for a in rec.index_axes if not rec.size_indices[a]), None)
    for name, pattern in rec.architecture.layer_numbers.items():
        before, after = rec.source_config.get(name), rec.target_config.get(name)
        if axis is None or not isinstance(before, list):
            continue
        numbers = [0, *(int(origin) + 1 for origin in rec.along(axis, {}).source)]
        depth = max(numbers)
        spelled = {pattern.format(k): k for k in range(depth + 1)} | {
            str(k - depth - 1): k for k in range(1, depth + 1)
        }
        if pattern != "{}" and len(before) == depth + 1 and set(before[1:]) == set(list(spelled)[1 : depth + 1]):
            wanted = [before[0], *(pattern.format(k) for k in range(1, len(numbers)))]
        else:
            found = [v if (k := spelled.get(str(v))) is None else pattern.format(numbers.index(k)) for v in before]
            wanted = [int(v) if pattern == "{}" else v for v in found]
        if after != wanted:
            yield Violation(kind="layers", where=name, expected=repr(wanted), found=repr(after))


def _numbered_by(rec: Recorded, name: str, length: int) -> str | None:
    """Return the index axis that a list of the source's config has one entry for."""
    architecture = rec.architecture
    rule = architecture.layer_rules.get(name, "0")
    axes = [a for a in architecture.index_axes if not rec.size_indices[a]]
    axes.sort(key=lambda axis: not mentions(rule, axis))
    return next((a for a in axes if architecture.size(a, rec.source_config) == length), None)


def _repeated(rec: Recorded) -> Iterator[Violation]:
    """Fields that repeat a size under another name still do."""
    names = {alias: own for alias, own in rec.architecture.aliases.items() if own in rec.architecture.size_fields()}
    for name, expression in {**names, **rec.architecture.follows}.items():
        before, after = rec.source_config.get(name), rec.target_config.get(name)
        if before is None and after is None:
            continue
        same = before is None or isinstance(before, list) or before == compute(expression, rec.source_config)
        wanted = compute(expression, rec.target_config) if same else before
        if after != wanted:
            yield Violation(kind="config", where=name, expected=f"{wanted} = {expression}", found=repr(after))


def _is_default(rec: Recorded, name: str) -> bool:
    """Tell whether a field is on both sides what its declared default gives from other fields."""
    default = rec.architecture.defaults.get(name)
    if not isinstance(default, str):
        return False
    return all(config.get(name) == compute(default, config) for config in (rec.source_config, rec.target_config))


def _unexplained(rec: Recorded) -> Iterator[Violation]:
    """Everything that growth does not explain must be as it was; of nested configs, every field by itself."""
    architecture = rec.architecture
    explained = {*architecture.size_fields(), *architecture.layer_lists, *architecture.follows, *architecture.aliases}
    explained |= {name for expression in architecture.sizes.values() for name in names_in(expression)}
    explained |= set(architecture.layer_numbers)
    explained |= {name for kind in architecture.kinds for name in kind.settle}
    explained |= {name for rotary in architecture.rotary for name in rotary_fields(rotary)}
    explained |= {str(a.eps) for a in rec.norms.values()}
    explained |= {count for count, _ in architecture.beyond.values()}
    before, after = (json.loads(json.dumps(dict(c))) for c in (rec.source_config, rec.target_config))
    differ: dict[str, Violation] = {}
    for name in sorted({*before, *after} - explained):
        one, other, last = before.get(name), after.get(name), name.rpartition(".")[2]
        is_nested = name in architecture.nested and isinstance(one, Mapping) and isinstance(other, Mapping)
        if is_nested or last in NOT_COMPUTED or is_rate(last, one, other) or _is_longer(rec, name):
            continue
        if one == other or json.dumps(one) == json.dumps(other) or _is_default(rec, name):  # NaN is not NaN
            continue
        if not _same_function(one, other):
            differ[name] = Violation(kind="config", where=name, expected=repr(one), found=repr(other))
    passed = unread(differ, before, after)
    yield from (violation for name, violation in differ.items() if name not in passed)
    for count, reason in architecture.beyond.values():
        if after.get(count) and before.get(count):
            yield Violation(kind="config", where=count, expected=f"0: {reason}", found=repr(after[count]))
    for name, (value, reason) in architecture.constants.items():
        if after.get(name, value) != value:
            yield Violation(kind="config", where=name, expected=f"{value!r}: {reason}", found=repr(after[name]))


def is_rate(name: str, *values: object) -> bool:
    """Tell whether a field is the rate of a dropout, which training alone applies; a flag may decide more."""
    numbers = all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in values)
    return "drop" in name.rpartition(".")[2] and numbers


def _same_function(one: object, other: object) -> bool:
    """Tell whether two values name one and the same activation function."""
    return {str(one), str(other)} <= _ONE_FUNCTION


def _is_longer(rec: Recorded, name: str) -> bool:
    """Tell whether a field only allows positions past the source's, which its own positions do not depend on."""
    nest, _, last = name.rpartition(".")
    if last != "max_position_embeddings":
        return False
    rotary = [r for r in rec.architecture.rotary if r.parameters.rpartition(".")[0] == nest]
    types = {t for r in rotary for t in rotary_types(rec.target_config, r)}
    before, after = rec.source_config.get(name), rec.target_config.get(name)
    return bool(rotary) and types <= {"default", "linear", "llama3"} and (before or 0) <= (after or 0)


__all__ = ["NOT_COMPUTED", "config_conditions", "is_rate"]
