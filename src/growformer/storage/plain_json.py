"""JSON from files that nobody vouches for: bounded in size, depth and number of values, every key once.

Python's ``json`` takes whatever fits into memory, and of a key that stands twice the last value, where another program
may take the first. ``NaN`` and ``Infinity`` are let through for configs, since transformers reads them; as a size they
are refused where sizes are evaluated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from growformer.errors import SourceError
from growformer.storage.links import open_inside, open_regular

MAX_BYTES = 64_000_000
"""Of one file. The index of the largest public checkpoint has 13 MB, the largest config 2 MB."""
MAX_CONTAINERS = 1_000_000
"""Objects and lists of one file."""
MAX_VALUES = 4_000_000
"""Values of one file."""
MAX_DEPTH = 64
"""Objects and lists inside of one another; configs have at most eight."""
MAX_DIGITS = 300
"""Of a whole number: what still fits into a float. Tokenizers write 10^30 for "no limit"."""


def read_json(path: Path, why: str, *, home: Path | None = None, constants: bool = True) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        why: why it is expected, where it is missing.
        home: the folder that it must not lead out of; None for a file that the user names.
        constants: whether ``NaN`` and ``Infinity`` may stand there, which are not JSON.

    Raises:
        SourceError: the file is missing, cannot be read, or is not a JSON object within the limits above.
    """
    data = load_json(path, why, home=home, constants=constants)
    if not isinstance(data, dict):
        raise SourceError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def load_json(path: Path, why: str, *, home: Path | None = None, constants: bool = True) -> Any:
    """Read JSON of any kind; otherwise as ``read_json``.

    Raises:
        SourceError: the file is missing, cannot be read, or is not JSON within the limits above.
    """
    try:
        present = path.exists() or path.is_symlink()
    except (OSError, ValueError):
        present = True  # opening it says what is wrong
    if not present:
        raise SourceError(f"{path}: missing; {why}")
    with open_regular(path) if home is None else open_inside(home, path) as file:
        try:
            raw = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parse(raw, str(path), constants=constants)


def parse(raw: bytes, where: str, *, constants: bool = True) -> Any:
    """Parse JSON in UTF-8.

    Args:
        raw: the text.
        where: its file, for messages.
        constants: whether ``NaN`` and ``Infinity`` may stand there.

    Raises:
        SourceError: it is not JSON, or not within the limits above.
    """
    # Counted before anything is parsed: a list takes three bytes of text and sixty of memory.
    containers, values = raw.count(b"[") + raw.count(b"{"), raw.count(b",")
    for found, limit, what in (
        (len(raw), MAX_BYTES, "bytes"),
        (containers, MAX_CONTAINERS, "objects and lists"),
        (values, MAX_VALUES, "values"),
    ):
        if found > limit:
            raise SourceError(f"{where}: too large to be read safely: more than {limit:,} {what}")
    try:
        data = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_each_once, parse_int=_whole,
            parse_constant=None if constants else _no_constant,
        )  # fmt: skip
    except UnicodeDecodeError as error:
        raise SourceError(f"{where}: not JSON: not UTF-8 at byte {error.start}") from None
    except _RefusedError as error:
        raise SourceError(f"{where}: {error}") from None
    except ValueError as error:
        raise SourceError(f"{where}: not JSON: {error}") from None
    except RecursionError:
        raise _too_deep(where) from None
    _check_depth(data, where)
    return data


class _RefusedError(ValueError):
    """JSON that Python would take."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _RefusedError(f"the key {name!r} stands twice in one object, and programs differ in which they believe")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _RefusedError(f"a number of {len(digits)} digits; expected at most {MAX_DIGITS}")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise _RefusedError(f"{name} is not a number here")


def _check_depth(data: Any, where: str) -> None:
    level = [data] if isinstance(data, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise _too_deep(where)


def _too_deep(where: str) -> SourceError:
    return SourceError(f"{where}: objects and lists inside of one another more than {MAX_DEPTH} deep")
