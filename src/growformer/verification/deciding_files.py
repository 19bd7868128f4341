"""The files of a model folder that decide what the model computes, and the digests of their bytes.

Weights, config and index; tokenizers, processors, chat templates and code, since they decide what the weights are run
on. Not texts about the model, nor the state of a training run. A shard has the digest that ``growformer.json`` records
for it; any other file has plain BLAKE3, which ``b3sum`` gives as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import blake3

from growformer.errors import SourceError
from growformer.execute.provenance import CERTIFICATE
from growformer.execute.side_files import REGION_UPDATES, TRAINER_STATE, is_another_model
from growformer.storage import digests
from growformer.storage.folder import INDEX, ModelFolder
from growformer.storage.links import open_inside
from growformer.verification.file_digests import digest_of_shard

PLAIN = "blake3"
METHODS = (digests.NAME, PLAIN)
Progress = Callable[[int, int, str], None]
"""Bytes read so far, bytes in all, and the file at hand."""

_SUFFIXES = (
    ".safetensors",
    ".json",
    ".jinja",
    ".model",
    ".txt",
    ".py",
    ".tiktoken",
    ".spm",
    ".vocab",
    ".bpe",
    ".codes",
)
_ABOUT = ("license", "licence", "notice", "readme", "requirements", "changelog", "citation", "use_policy")
_TRAINING = (TRAINER_STATE, REGION_UPDATES, "growth_log.json", "all_results.json", "train_results.json")
_PIECE = 8 << 20


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What one file's bytes are.

    Attributes:
        digest: method and hexadecimal digest.
        num_bytes: its size.
    """

    digest: str
    num_bytes: int


def deciding_files(folder: ModelFolder) -> list[str]:
    """Return the names, relative to the folder and with slashes, in order."""
    found = {entry.file.relative_to(folder.path).as_posix() for entry in folder.entries.values()}
    found |= {name for name in ("config.json", INDEX) if (folder.path / name).is_file()}
    for path in folder.other_files():
        about = path.stem.lower().startswith(_ABOUT)
        if path.name in (CERTIFICATE, *_TRAINING) or path.suffix not in _SUFFIXES or about:
            continue
        if not (folder.path / path).is_dir() and not folder.leads_outside(path) and not is_another_model(folder, path):
            found.add(path.as_posix())
    return sorted(found)


def digest_files(
    home: Path, names: Sequence[str], *, threads: int = 4, progress: Progress | None = None
) -> dict[str, FileDigest]:
    """Return the digests of some files of a folder; each is read once, and large ones in parallel.

    Args:
        home: the folder.
        names: relative to it.
        threads: how many read.
        progress: told how far it is.

    Raises:
        SourceError: a file is missing, leads out of the folder, is damaged or cannot be read.
    """
    found: dict[str, FileDigest] = {}
    for name, digest in iterate_digests(home, names, threads=threads, progress=progress):
        if isinstance(digest, SourceError):
            raise digest
        found[name] = digest
    return found


def iterate_digests(
    home: Path,
    names: Sequence[str],
    *,
    expected: Mapping[str, int] | None = None,
    threads: int = 4,
    progress: Progress | None = None,
) -> Iterator[tuple[str, FileDigest | SourceError]]:
    """Yield every file with its digest, or with what is wrong with it.

    Args:
        home: the folder.
        names: relative to it.
        expected: sizes; a file of another one is not read, and has no digest (an empty one).
        threads: how many read.
        progress: told how far it is.
    """
    sizes: dict[str, int | SourceError] = {name: _size(home, home / name) for name in names}
    total = sum(size for size in sizes.values() if isinstance(size, int))
    done = 0

    def seen(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if progress is not None:
            progress(done, total, name)

    with ThreadPoolExecutor(threads) as pool:
        for name, size in sizes.items():
            if isinstance(size, SourceError):
                yield name, size
                continue
            if expected is not None and expected.get(name, size) != size:
                yield name, FileDigest("", size)
                continue
            try:
                path = home / name
                digest = (
                    digest_of_shard(path, pool, seen) if path.suffix == ".safetensors" else _plain(home, path, seen)
                )
            except SourceError as error:
                yield name, error
                continue
            yield name, FileDigest(digest, size)


def _size(home: Path, path: Path) -> int | SourceError:
    try:
        with open_inside(home, path) as file:  # a regular file, inside the folder
            return file.seek(0, 2)
    except SourceError as error:
        return error
    except OSError as error:
        return SourceError(f"{path}: cannot be read: {error.strerror or error}")


def _plain(home: Path, path: Path, seen: Callable[[int], None]) -> str:
    whole = blake3.blake3()
    with open_inside(home, path) as file:
        try:
            while piece := file.read(_PIECE):
                whole.update(piece)
                seen(len(piece))
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None
    return f"{PLAIN}:{whole.hexdigest()}"


__all__ = ["METHODS", "FileDigest", "Progress", "deciding_files", "digest_files", "iterate_digests"]
