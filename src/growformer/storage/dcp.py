"""A folder of torch.distributed.checkpoint as a source: what it holds, and its tensors one by one.

    .metadata         a pickle: names, shapes, dtypes, and where in which file each piece is
    __r_k.distcp      pieces one after the other, each as torch.save wrote it

The pickle is read by an unpickler that knows the few instructions and names which such a file needs, and turns each
name into a record of its own; anything else is refused before anything is called. Pieces are read with
``weights_only=True``.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import zipfile
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from growformer.errors import SourceError, in_words
from growformer.storage.links import leads_outside, open_inside

if TYPE_CHECKING:
    import torch

METADATA = ".metadata"
MAX_METADATA = 1 << 30
_TORCH = "torch.distributed.checkpoint"
_RECORDS = {
    (f"{_TORCH}.metadata", name)
    for name in (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    )
} | {
    (f"{_TORCH}.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    *((f"pathlib{part}", name) for part in ("", "._local") for name in ("PosixPath", "PurePosixPath", "WindowsPath")),
}  # fmt: skip
_DTYPES = {
    "bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1,
    "bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip
"""torch's name of a dtype -> bytes of one value."""

NEEDS_CONFIG = "put the model's config.json beside .metadata, or name it (config=, --config FILE)"
"""Said where a checkpoint comes without a config."""

_OPCODES = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST",
    "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "NEWOBJ", "REDUCE", "BUILD",
    "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
})  # fmt: skip

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where some bytes are.

    Attributes:
        file: name of the file in the folder.
        start, num_bytes: where in it.
    """

    file: str
    start: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """One tensor, in pieces.

    Attributes:
        dtype: torch's name of it.
        shape: of the whole.
        pieces: offsets and sizes of each piece, and where it is.
    """

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[tuple[tuple[int, ...], tuple[int, ...], Place], ...]


@dataclass(frozen=True, slots=True)
class DcpFolder:
    """A checkpoint whose metadata have been read and checked.

    Attributes:
        path: the folder.
        tensors: key -> tensor.
        blobs: key -> where the bytes of something else are.
        paths: key -> where it stood in the nested state dict that was saved.
    """

    path: Path
    tensors: dict[str, SavedTensor]
    blobs: dict[str, Place]
    paths: dict[str, KeyPath]

    def stamps(self) -> dict[str, tuple[int, int]]:
        """Return the size and the time of the last change of every file that something is in.

        Raises:
            SourceError: one of them is gone.
        """
        places = [place for saved in self.tensors.values() for _, _, place in saved.pieces]
        found = {}
        for name in sorted({METADATA, *(place.file for place in (*places, *self.blobs.values()))}):
            try:
                status = (self.path / name).stat()
            except OSError as error:
                raise SourceError(f"{self.path / name}: cannot be read: {error.strerror}") from None
            found[name] = (status.st_size, status.st_mtime_ns)
        return found

    def read(self, key: str) -> torch.Tensor:
        """Return a whole tensor, in memory of its own; besides it, one piece is held at a time.

        Raises:
            SourceError: a file is not what the metadata say.
        """
        import torch

        saved = self.tensors[key]
        whole = torch.zeros(saved.shape, dtype=getattr(torch, saved.dtype))
        for offsets, sizes, place in saved.pieces:
            piece = self._load(key, place)
            if not isinstance(piece, torch.Tensor) or tuple(piece.shape) != sizes or piece.dtype != whole.dtype:
                raise SourceError(
                    f"{self.path / place.file}: at byte {place.start} is not the piece of {key} that {METADATA} says: "
                    f"{saved.dtype} {list(sizes)}"
                )
            region = tuple(slice(first, first + size) for first, size in zip(offsets, sizes, strict=True))
            whole[region].copy_(piece)
        return whole

    def read_object(self, key: str) -> Any:
        """Return plain data that was saved beside the tensors.

        Raises:
            SourceError: it is not plain.
        """
        return self._load(key, self.blobs[key])

    def read_bytes(self, key: str) -> bytes:
        """Return the bytes of something that is not a tensor, unread.

        Raises:
            SourceError: the file is shorter than the metadata say.
        """
        place = self.blobs[key]
        with self._open(place) as file:
            return file.read()

    def _load(self, key: str, place: Place) -> Any:
        import torch

        with self._open(place) as file:
            try:
                with zipfile.ZipFile(file) as archive:
                    entries = archive.infolist()
                if any(e.compress_type for e in entries) or sum(e.file_size for e in entries) > place.num_bytes:
                    raise SourceError(f"{self.path / place.file}: {key} is compressed; torch.save never does that")
                file.seek(0)
                return torch.load(file, map_location="cpu", weights_only=True)
            except (zipfile.BadZipFile, RuntimeError, pickle.UnpicklingError, ValueError, EOFError, KeyError) as error:
                reason = str(error).strip().splitlines()[0]
                raise SourceError(f"{self.path / place.file}: {key} cannot be read: {reason}") from None

    def _open(self, place: Place) -> BinaryIO:
        return io.BufferedReader(_Slice(open_inside(self.path, self.path / place.file), place))


class _Slice(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, place: Place) -> None:
        self._file = file
        self._start, self._size, self._at = place.start, place.num_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        self._file.seek(self._start + self._at)
        found: int = self._file.readinto(view[:count])  # type: ignore[attr-defined]
        self._at += found
        return found

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(slots=True, eq=False)
class _Record:
    """What stands for an object in the pickle: its arguments and its state, and no behaviour."""

    kind: str
    arguments: tuple[Any, ...] = ()
    state: Any = field(default=None)
    items: list[tuple[Any, Any]] = field(default_factory=list)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def __getitem__(self, name: str) -> Any:
        return self.state[name]


class _Unpickler(pickle.Unpickler):
    """Knows the names that such metadata need, and refuses all others before anything is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _RECORDS:
            # A class of its own for every mention: what a pickle does to it is done to nothing else.
            return type(name, (_Record,), {"__slots__": (), "__new__": _new, "__init__": lambda *_: None})
        if module == "torch" and name in _DTYPES:
            return name
        raise SourceError(f"names {module}.{name}, which no checkpoint's metadata need; it was not called")

    def persistent_load(self, pid: Any) -> Any:
        raise SourceError("refers to something outside of itself")


def _new(kind: type[_Record], *arguments: Any) -> _Record:
    record = object.__new__(kind)
    record.kind, record.arguments, record.state, record.items = kind.__name__, arguments, None, []
    return record


def is_dcp(path: str | Path) -> bool:
    """Return whether a path is a folder that torch.distributed.checkpoint wrote."""
    return (Path(path) / METADATA).is_file()


def open_dcp(path: str | Path) -> DcpFolder:
    """Read and check the metadata of a checkpoint; no tensor is read.

    Raises:
        SourceError: they are missing, hostile or contradict the files.
    """
    folder = Path(path)
    file = folder / METADATA
    if not file.is_file():
        raise SourceError(f"{file}: missing; every folder of torch.distributed.checkpoint has one")
    if file.stat().st_size > MAX_METADATA:
        raise SourceError(f"{file}: {file.stat().st_size:,} bytes of metadata; expected at most {MAX_METADATA:,}")
    try:
        with open_inside(folder, file) as opened:
            _check_opcodes(opened, file.stat().st_size)
            opened.seek(0)
            found = _Unpickler(opened).load()
        return _Checked(folder).all_of(found)
    except SourceError as error:
        raise SourceError(f"{file}: {error}") from None
    except Exception as error:
        raise SourceError(f"{file}: not metadata of a checkpoint: {in_words(error)}") from None


def _check_opcodes(file: BinaryIO, num_bytes: int) -> None:
    """Refuse instructions that such a pickle never needs, and a memo that would fill the memory.

    Raises:
        SourceError: there is one.
    """
    for opcode, argument, position in pickletools.genops(file):
        if opcode.name not in _OPCODES:
            raise SourceError(f"has the instruction {opcode.name} at byte {position}, which no checkpoint's needs")
        if opcode.name.endswith("BINPUT") and int(argument or 0) > num_bytes:
            raise SourceError(f"remembers something as number {argument:,} in {num_bytes:,} bytes")


class _Checked:
    """Turns records into what they say, and refuses what a checkpoint cannot say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sizes: dict[str, int] = {}

    def all_of(self, found: Any) -> DcpFolder:
        places: dict[str, list[tuple[tuple[int, ...], Place]]] = {}
        for index, info in found["storage_data"].items():
            offset = index["offset"] if "offset" in index.state else None
            entry = (_numbers(offset) if offset is not None else (), self._place(info))
            places.setdefault(_text(index["fqn"]), []).append(entry)
        tensors: dict[str, SavedTensor] = {}
        blobs: dict[str, Place] = {}
        for key, saved in found["state_dict_metadata"].items():
            if saved.kind == "BytesStorageMetadata":
                ((_, blobs[_text(key)]),) = places[key]
            else:
                tensors[_text(key)] = _tensor(key, saved, places.get(key, []))
        paths = found.state.get("planner_data") or {}
        known: dict[str, KeyPath] = {}
        for key in (*tensors, *blobs):
            path = paths.get(key, (key,))
            if not isinstance(path, tuple) or not all(type(part) in (str, int) for part in path):
                raise SourceError(f"{key!r} stood at {path!r}; expected names and numbers")
            known[key] = path
        return DcpFolder(self.folder, tensors, blobs, known)

    def _place(self, info: Any) -> Place:
        name, start, count = _text(info["relative_path"]), info["offset"], info["length"]
        if info.state.get("transform_descriptors"):
            raise SourceError(f"{name} is written through {info.state['transform_descriptors']!r}: expected none")
        if Path(name).name != name or name in (".", "..") or "\0" in name:
            raise SourceError(f"{name!r} is not the name of a file in this folder")
        if name not in self._sizes:
            path = self.folder / name
            if leads_outside(self.folder, path) or not path.is_file():
                raise SourceError(f"{name} is missing, or leads out of the folder")
            self._sizes[name] = path.stat().st_size
        if type(start) is not int or type(count) is not int or start < 0 or count < 0:
            raise SourceError(f"bytes {start!r} and following {count!r} of {name}: expected whole numbers")
        if start + count > self._sizes[name]:
            raise SourceError(f"{name} has {self._sizes[name]:,} bytes; something is said to end at {start + count:,}")
        return Place(name, start, count)


def _tensor(key: str, saved: Any, places: list[tuple[tuple[int, ...], Place]]) -> SavedTensor:
    properties = saved["properties"].state
    dtype = properties[0] if isinstance(properties, tuple) else properties["dtype"]
    if dtype not in _DTYPES:
        raise SourceError(f"{key} has dtype {dtype!r}; expected one of {', '.join(_DTYPES)}")
    shape, at = _numbers(saved["size"]), dict(places)
    pieces = []
    for chunk in saved["chunks"]:
        offsets, sizes = _numbers(chunk["offsets"]), _numbers(chunk["sizes"])
        inside = len(offsets) == len(sizes) == len(shape) and all(
            first + size <= whole for first, size, whole in zip(offsets, sizes, shape, strict=True)
        )
        if not inside:
            raise SourceError(f"{key}: a piece of {list(sizes)} at {list(offsets)} is not inside {list(shape)}")
        if prod(sizes):
            place = at.get(offsets) or at.get(())
            if place is None:
                raise SourceError(f"{key}: nothing says where the piece at {list(offsets)} is")
            if prod(sizes) * _DTYPES[dtype] > place.num_bytes:
                raise SourceError(f"{key}: a piece of {list(sizes)} is said to fit into {place.num_bytes:,} bytes")
            pieces.append((offsets, sizes, place))
    if sum(prod(sizes) for _, sizes, _ in pieces) != prod(shape):
        raise SourceError(f"{key}: its pieces do not make up {list(shape)}")
    if (twice := _overlap([(offsets, sizes) for offsets, sizes, _ in pieces])) is not None:
        one, other = map(list, twice)
        raise SourceError(f"{key}: the pieces at {one} and {other} overlap: values of {list(shape)} are missing")
    return SavedTensor(dtype, shape, tuple(pieces))


def _overlap(pieces: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return where two pieces stand that share an element; pieces that share none and have the volume of all cover it.

    A sweep along the dimension in which they begin at most places: each is compared with those that have not ended yet.
    """
    if len(pieces) < 2:  # as always of a number, which has no dimension
        return None
    along = max(range(len(pieces[0][0])), key=lambda dim: len({offsets[dim] for offsets, _ in pieces}))
    open_pieces: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for offsets, sizes in sorted(pieces, key=lambda piece: piece[0][along]):
        open_pieces = [piece for piece in open_pieces if piece[0][along] + piece[1][along] > offsets[along]]
        for start, lengths in open_pieces:
            bounds = zip(start, lengths, offsets, sizes, strict=True)
            if all(a < c + d and c < a + b for a, b, c, d in bounds):
                return start, offsets
        open_pieces.append((offsets, sizes))
    return None


def _numbers(size: Any) -> tuple[int, ...]:
    found = size.arguments[0] if isinstance(size, _Record) else size
    numbers = tuple(found)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise SourceError(f"{numbers!r}: expected whole numbers")
    return numbers


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise SourceError(f"{name!r}: expected a name")
    return name


__all__ = ["METADATA", "NEEDS_CONFIG", "DcpFolder", "KeyPath", "Place", "SavedTensor", "is_dcp", "open_dcp"]
