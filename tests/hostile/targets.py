"""What is run on hostile bytes, here and by scripts/fuzz.py: each ends in success or in one GrowformerError.

Anything else is raised: another exception, a file that appears, is changed or is gone, a minute without an end.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.hostile.samples import GROWTH, write

import growformer
from growformer.errors import GrowformerError
from growformer.storage.folder import INDEX, open_folder

SECONDS = 60
"""After which an example counts as hanging. The slowest known one, a size of 2^24, takes a tenth of that."""
MAX_FILE_BYTES = 1_000_000
"""Of what a target writes: longer inputs are cut."""


def read_header(raw: bytes, home: Path) -> bool:
    """Open a folder whose weights are these bytes; return whether it opened."""
    model = _folder(home, "header", "llama", 1)
    (model / "model.safetensors").write_bytes(raw[:MAX_FILE_BYTES])
    return _survives(home, lambda: open_folder(model))


def read_index(raw: bytes, home: Path) -> bool:
    """Open a folder of two shards whose index is these bytes."""
    model = _folder(home, "index", "llama", 2)
    (model / INDEX).write_bytes(raw[:MAX_FILE_BYTES])
    return _survives(home, lambda: open_folder(model))


def read_config(raw: bytes, home: Path, model_type: str = "llama") -> bool:
    """Plan the growth of a config with these bytes, and of a folder with it."""
    model = _folder(home, f"config-{model_type}", model_type, 1)
    config = model / "config.json"
    config.write_bytes(raw[:MAX_FILE_BYTES])
    _survives(home, lambda: growformer.plan(config, **GROWTH[model_type]))
    return _survives(home, lambda: growformer.plan(model, **GROWTH[model_type]))


def grow(raw: bytes, home: Path, model_type: str = "llama") -> bool:
    """Grow a folder whose config is these bytes; only the output may appear, whole or not at all."""
    model, out = _folder(home, f"grow-{model_type}", model_type, 1), home / "out"
    (model / "config.json").write_bytes(raw[:MAX_FILE_BYTES])
    before = listing(home)
    grown = _survives(None, lambda: growformer.grow_checkpoint(model, out, **GROWTH[model_type]))
    after = listing(home)
    appeared = {name for name in after if name not in before}
    assert all(before[name] == after.get(name) for name in before), "a file was changed"
    assert all(name.parts[0] == "out" for name in appeared), appeared
    assert bool(appeared) == grown, appeared
    shutil.rmtree(out, ignore_errors=True)
    return grown


TARGETS: dict[str, Callable[[bytes, Path], bool]] = {
    "header": read_header, "index": read_index, "config": read_config,
}  # fmt: skip
"""Of scripts/fuzz.py."""


def listing(home: Path) -> dict[Path, tuple[int, int]]:
    """Return every file and folder below one, with its size and when it was changed."""
    found = {}
    for root, folders, files in os.walk(home):
        for name in (*folders, *files):
            path = Path(root) / name
            stat = path.lstat()
            found[path.relative_to(home)] = (0, 0) if path.is_dir() else (stat.st_size, stat.st_mtime_ns)
    return found


@contextmanager
def time_limit(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TimeoutError in what takes longer, where there are alarms and this is the main thread."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"still running after {seconds} seconds")

    try:
        previous = signal.signal(signal.SIGALRM, stop)
    except (AttributeError, ValueError):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _folder(home: Path, name: str, model_type: str, shards: int) -> Path:
    model = home / name
    return model if model.exists() else write(model, model_type, shards=shards)


def _survives(home: Path | None, run: Callable[[], object]) -> bool:
    before = listing(home) if home is not None else None
    try:
        with time_limit():
            run()
        found = True
    except GrowformerError:
        found = False
    if home is not None:
        assert listing(home) == before, "reading changed a file"
    return found
