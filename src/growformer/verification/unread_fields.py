"""Whether any class reads a config field at all: other tools leave fields behind that no code mentions.

What decides is the text of the installed ``transformers``, all of it, since classes use code of other models: it is
searched and not imported. A field whose name stands nowhere there is read by no class. Where a model type is none of
its own, or a name is a common word, the field counts as read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MOST = 50
"""Fields that are looked for; of more than these, all count as read."""
_TYPE = re.compile(r"[a-z0-9_-]{1,80}", re.IGNORECASE)


def unread(names: Iterable[str], *configs: Mapping[str, Any]) -> list[str]:
    """Return those fields that no class mentions.

    Args:
        names: of fields; of nested configs, with dots.
        configs: the whole configs, whose model types say where to look first.
    """
    folders = [_folder(kind) for config in configs for kind in _types(config)]
    known = [folder for folder in folders if folder is not None]
    asked = {name: name.rpartition(".")[2] for name in names}
    if not folders or len(known) < len(folders) or len(asked) > MOST:
        return []
    left = {word for word in asked.values() if word.isidentifier() and word.isascii() and len(word) < 200}
    for file in _files(tuple(dict.fromkeys(known))):
        if not left:
            return []
        left -= {word.decode() for word in re.findall(rf"\b(?:{'|'.join(left)})\b".encode(), file.read_bytes())}
    return [name for name, word in asked.items() if word in left]


def _types(config: Mapping[str, Any]) -> Iterator[object]:
    """Yield the model type of a config, and of those nested in it."""
    yield config.get("model_type")
    for value in config.values():
        if isinstance(value, Mapping) and "model_type" in value:
            yield from _types(value)


def _folder(kind: object) -> Path | None:
    """Return where the code of a model type lies; None where it is none of transformers' own."""
    home = _home()
    if home is None or not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        return None
    folder = home / "models" / kind.replace("-", "_")
    return folder if folder.is_dir() else _named_inside(kind)


@cache
def _named_inside(kind: str) -> Path | None:
    """Return the folder of which a config class has this model type, as of a text model inside a larger one."""
    home, named = _home(), re.compile(rf'model_type\s*(?::\s*\w+\s*)?=\s*"{re.escape(kind)}"'.encode())
    files = sorted(home.glob("models/*/configuration_*.py")) if home is not None else []
    return next((file.parent for file in files if named.search(file.read_bytes())), None)


@cache
def _home() -> Path | None:
    found = find_spec("transformers")
    places = found.submodule_search_locations if found is not None else None
    return Path(next(iter(places))) if places else None


@cache
def _files(first: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return all files with code: those of some folders, those that models share, and those of all other models."""
    home = _home()
    if home is None:
        return ()
    own = [file for folder in first for file in sorted(folder.glob("*.py"))]
    return tuple(dict.fromkeys([*own, *sorted(home.glob("*.py")), *sorted(home.rglob("*.py"))]))


__all__ = ["unread"]
