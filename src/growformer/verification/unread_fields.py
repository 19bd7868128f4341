"""Whether a model's class reads a config field at all: other tools leave fields behind that no code of it mentions.

What decides is the text of the installed ``transformers``, which is searched and not imported: the folder of the model
type, and all that models share. A name that stands nowhere there cannot be read. Where the folder is not found, or the
name is a common word, the field counts as read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_SHARED = ("*.py", "generation/*.py", "integrations/*.py", "utils/*.py", "quantizers/*.py", "loss/*.py")
_TYPE = re.compile(r"[a-z0-9_-]{1,80}", re.IGNORECASE)


def unread(names: Iterable[str], *configs: Mapping[str, Any]) -> list[str]:
    """Return those fields that no class of some configs mentions.

    Args:
        names: of fields; of nested configs, with dots.
        configs: the whole configs.
    """
    types = {t for config in configs for t in _types(config)}
    return [name for name in names if _is_unread(name.rpartition(".")[2], frozenset(types))]


def _types(config: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the model type of a config, and of those nested in it."""
    yield config.get("model_type")
    for value in config.values():
        if isinstance(value, Mapping) and "model_type" in value:
            yield from _types(value)


def _is_unread(name: str, types: frozenset[Any]) -> bool:
    if not name.isidentifier() or not types:
        return False
    texts = [_of_type(kind) for kind in types]
    if not all(texts):
        return False
    word = re.compile(rf"\b{name}\b")
    return not any(word.search(text) for text in (*texts, _shared()))


@cache
def _home() -> Path | None:
    found = find_spec("transformers")
    places = found.submodule_search_locations if found is not None else None
    return Path(next(iter(places))) if places else None


@cache
def _of_type(kind: Any) -> str:
    """Return the code of a model type; nothing where there is none."""
    home = _home()
    if home is None or not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        return ""
    return _text((home / "models" / kind.replace("-", "_")).glob("*.py"))


@cache
def _shared() -> str:
    home = _home()
    return "" if home is None else _text(path for pattern in _SHARED for path in home.glob(pattern))


def _text(files: Iterable[Path]) -> str:
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in sorted(files))


__all__ = ["unread"]
