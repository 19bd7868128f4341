"""What decides what a user gets and no check compares: tokenizers, labels, code, the dtype that loading takes.

A grown model that computes the same may still say something else: with another tokenizer it is asked something else,
with another ``id2label`` its answer has another name. A difference is no failure, since it may be meant, so it is said
in a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from growformer.errors import SourceError
from growformer.execute.provenance import FILE
from growformer.storage.folder import INDEX, ModelFolder, open_folder
from growformer.storage.plain_json import load_json
from growformer.verification.config_conditions import NOT_COMPUTED, is_rate
from growformer.verification.deciding_files import deciding_files, digest_files
from growformer.verification.unread_fields import unread

_CHECKED = ("config.json", INDEX, FILE)
_FOLLOWS = frozenset({"_from_model_config", "transformers_version", "word_embedding_dimension"})
"""Fields of JSON files that a version, or the growth itself, changes."""
_LONGEST = 80
_SAID = ("architectures", "auto_map", "dtype", "torch_dtype")
"""Fields of which something else is said."""
_ABOUT = ("_commit_hash", "_name_or_path", "transformers_version", "unsloth_fixed", "unsloth_version")
"""Fields about the file itself."""
_LABELS = ("id2label", "label2id")


def not_compared(source: Any, grown: Any) -> list[str]:
    """Return what differs between two folders beside what the checks compare; of live models, nothing.

    Args:
        source: a folder, or a live model.
        grown: likewise.

    Raises:
        SourceError: a folder cannot be read.
    """
    if not all(isinstance(model, (str, Path)) for model in (source, grown)):
        return []
    before, after = open_folder(source), open_folder(grown)
    return [
        *_loading(before, after),
        *_passed_over(before.config, after.config),
        *_labels(before.config, after.config),
        *_files(before, after),
    ]


def _loading(before: ModelFolder, after: ModelFolder) -> Iterator[str]:
    """Say where ``from_pretrained`` gives another dtype than is stored, or names code."""
    named, of_source = (config.get("dtype") or config.get("torch_dtype") for config in (after.config, before.config))
    stored = {entry.dtype for entry in after.entries.values() if "float" in entry.dtype}
    if isinstance(named, str) and stored and named not in stored and named != of_source:
        yield (
            f"the grown config names the dtype {named}, and the weights are stored in {', '.join(sorted(stored))}: "
            f"from_pretrained loads them in {named}, which was not checked"
        )
    classes = [bool(config.get("architectures")) for config in (before.config, after.config)]
    if classes[0] != classes[1]:
        one = "source's" if classes[0] else "grown"
        yield f"only the {one} config names a class (architectures); both were run as that class"
    if after.config.get("auto_map") and after.config.get("auto_map") != before.config.get("auto_map"):
        yield (
            "the grown config names code to load (auto_map), where the source's does not, or other code: no check runs "
            "it, and trust_remote_code=True would"
        )


def _passed_over(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Say which fields differ and are not compared: no output depends on them, or no class reads them."""
    plain = [dict(_flat(config)) for config in (before, after)]
    differ = sorted(name for name in {*plain[0], *plain[1]} if plain[0].get(name) != plain[1].get(name))
    named = [name for name in differ if name.rpartition(".")[2] not in (*_SAID, *_LABELS)]
    idle = [n for n in named if _is_idle(n, plain[0].get(n), plain[1].get(n))]
    if idle:
        yield f"config fields that differ, and that no output depends on: {_some(idle)}"
    found = unread([name for name in named if name not in idle], before, after)
    if found:
        yield f"config fields that differ, and that the model's class does not read: {_some(found)}"


def _is_idle(name: str, *values: object) -> bool:
    last = name.rpartition(".")[2]
    return (last in NOT_COMPUTED and last not in _ABOUT) or is_rate(last, *values)


def _flat(config: Mapping[str, Any], nest: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a config's fields, of nested ones with dots."""
    for name, value in config.items():
        if isinstance(value, Mapping) and "model_type" in value:
            yield from _flat(value, f"{nest}{name}.")
        else:
            yield nest + name, value


def _labels(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    plain = [{n: v for n, v in _flat(config) if n.rpartition(".")[2] in _LABELS} for config in (before, after)]
    named = [{n: v for n, v in found.items() if not _is_numbered(v)} for found in plain]
    changed = sorted(n for n in {*named[0], *named[1]} if named[0].get(n) != named[1].get(n))
    if changed:
        yield f"config fields that differ: {', '.join(changed)}; outputs are the same, and have other names"


def _is_numbered(labels: Any) -> bool:
    """Tell whether labels are those that transformers makes up where there are none, by either key."""
    if not isinstance(labels, Mapping):
        return False
    return all(f"LABEL_{key}" == value or key == f"LABEL_{value}" for key, value in labels.items())


def _files(before: ModelFolder, after: ModelFolder) -> Iterator[str]:
    """Say which files differ, and which code and tokenizers only one of the two has."""
    names = [
        {name for name in deciding_files(folder) if name not in _CHECKED and not name.endswith(".safetensors")}
        for folder in (before, after)
    ]
    shared = sorted(names[0] & names[1])
    digests = [digest_files(folder.path, shared, threads=1) for folder in (before, after)]
    differ = [n for n in shared if digests[0][n].digest != digests[1][n].digest and not _same_json(before, after, n)]
    added = sorted(names[1] - names[0])
    missing = sorted(name for name in names[0] - names[1] if not name.endswith(".py"))  # a stock class needs none
    said = [(differ, "differ from the source's"), (added, "are not in the source"), (missing, "are missing")]
    parts = [f"{_some(found)} {what if len(found) > 1 else _ONE[what]}" for found, what in said if found]
    if parts:
        yield (
            f"beside the grown weights {'; '.join(parts)}: tokenizers, generation settings and code are not compared "
            "by any check, and decide what a model is given and what it says"
        )


_ONE = {
    "differ from the source's": "differs from the source's", "are not in the source": "is not in the source",
    "are missing": "is missing",
}  # fmt: skip


def _some(names: list[str], most: int = 4) -> str:
    shown = ", ".join(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _same_json(before: ModelFolder, after: ModelFolder, name: str) -> bool:
    """Tell whether two JSON files say the same, whatever spaces and order they are written with."""
    if not name.endswith(".json"):
        return False
    try:
        one, other = (load_json(f.path / name, "", home=f.path) for f in (before, after))
    except SourceError:
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        one, other = ({k: v for k, v in data.items() if k not in _FOLLOWS} for data in (one, other))
    return bool(one == other)


__all__ = ["not_compared"]
