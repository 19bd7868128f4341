"""Safetensors headers, read and checked without torch: where each tensor's bytes are. No tensor is read.

A header is JSON of one form, and only that form is read: matched from front to back, entry by entry, so that neither
time nor memory depends on what else JSON allows (a list takes three bytes of text and sixty of memory). What a header
says is held against the file's size before anything is allocated.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from growformer.errors import SourceError
from growformer.storage.links import open_inside, open_regular

DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
}
MAX_HEADER_BYTES = 100_000_000
"""The library's own limit."""
MAX_TENSORS = 1_000_000
"""In one file, and in one model. The largest public checkpoints have about 140,000."""
MAX_ELEMENTS = 2**53
"""Of one tensor, a dimension of zero counted as one: beyond, strides and sizes overflow in one program or another."""
MAX_METADATA = 100_000
"""Texts; there are a few, or a few hundred."""
MAX_NAME_BYTES = 2_000

_BLANK = rb"[ \t\n\r]*"
# A string, unrolled: a run of plain characters, then escapes each with its run. The bound keeps the matcher's own
# memory small; a name has no escapes at all, and metadata is passed over piece by piece.
_PLAIN = rb'[^"\\\x00-\x1f]*'
_PAIR = rb"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPED = rb'\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|' + _PAIR + b")"
_NUMBER = rb"(?:0|[1-9][0-9]{0,18})"
_NUMBERS = rb"\[B((?:NB(?:,BNB){0,63})?)\]".replace(b"N", _NUMBER).replace(b"B", _BLANK)
_FIELD = rb'"(dtype|shape|data_offsets)"B:B(?:"([A-Z0-9_]{1,20})"|'.replace(b"B", _BLANK) + _NUMBERS + rb")"
_NAME = re.compile(b'"(' + _PLAIN + b"(?:" + _ESCAPED + _PLAIN + b"){0,100})" + rb'"B:B'.replace(b"B", _BLANK))
_ENTRY = re.compile(rb"\{BFB,BFB,BFB\}".replace(b"F", _FIELD).replace(b"B", _BLANK))
_BETWEEN = re.compile(rb"B(?:(,)B|(\})B)".replace(b"B", _BLANK))
_OPEN = re.compile(rb"\{B(?:\}B)?".replace(b"B", _BLANK))
_PIECE = re.compile(_PLAIN + b"(?:" + _ESCAPED + _PLAIN + b"){0,100}")
_COLON = re.compile(rb"B:B".replace(b"B", _BLANK))


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a safetensors file.

    Attributes:
        file: the file.
        shape: its shape.
        dtype: torch's name of its dtype.
        start, end: byte range in the file.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    start: int
    end: int

    def part(self, at: int) -> Entry:
        """Return what lies at one position along the first dimension."""
        size = (self.end - self.start) // self.shape[0]
        start = self.start + at * size
        return Entry(self.file, self.shape[1:], self.dtype, start, start + size)


def read_header(path: Path, home: Path | None = None) -> dict[str, Entry]:
    """Read and check the header of a safetensors file: every byte behind it belongs to one tensor.

    Args:
        path: the file.
        home: the model folder that the file must not lead out of; None for a file that the user names.

    Raises:
        SourceError: the file cannot be read, is cut short, or its header is not one.
    """
    with open_regular(path) if home is None else open_inside(home, path) as file:
        try:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise SourceError(f"{path}: not a safetensors file, or cut short: header of {length} in {size} bytes")
            if length > MAX_HEADER_BYTES:
                raise SourceError(
                    f"{path}: not a safetensors file: header of {length} bytes, expected at most {MAX_HEADER_BYTES}"
                )
            raw = file.read(length)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(raw) != length:
        raise SourceError(f"{path}: ended inside its header; the file changed while it was read")
    entries: dict[str, Entry] = {}
    for name, code, shape, offsets in _parse(path, raw):
        if name in entries:
            raise _broken(path, f"{name!r} stands twice")
        if len(entries) == MAX_TENSORS:
            raise _broken(path, f"more than {MAX_TENSORS:,} tensors")
        entries[name] = checked_entry(path, name, code, shape, offsets, base=8 + length)
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            raise SourceError(f"{path}: {name!r} starts at byte {entry.start}, expected {end}: overlap or hole")
        end = entry.end
    if end != size:
        raise SourceError(f"{path}: holds {size} bytes, its header describes {end}: incomplete or altered")
    return entries


def checked_entry(
    path: Path, name: str, code: str, shape: tuple[int, ...], offsets: tuple[int, ...], base: int = 0
) -> Entry:
    """Return what a header says of one tensor, after its dtype, shape and bytes were held against each other.

    Args:
        path: its file.
        name: of the tensor.
        code: of its dtype, as safetensors writes it.
        shape: its dimensions.
        offsets: where its bytes begin and end.
        base: where the offsets count from.

    Raises:
        SourceError: they contradict each other.
    """
    if code not in DTYPES:
        raise _broken(path, f"{name!r} has the unknown dtype {code!r}; expected one of {', '.join(DTYPES)}")
    dtype, width = DTYPES[code]
    if prod(filter(None, shape)) > MAX_ELEMENTS:
        raise _broken(path, f"{name!r} has the shape {list(shape)}; expected at most 2^53 elements")
    if len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1]:
        raise _broken(path, f"{name!r} has the data_offsets {list(offsets)}; expected where it begins and ends")
    start, end = offsets
    if end - start != prod(shape) * width:
        raise _broken(
            path, f"{name!r} has {end - start} bytes; expected {prod(shape) * width} for {list(shape)} of {dtype}"
        )
    return Entry(path, shape, dtype, base + start, base + end)


def _parse(path: Path, raw: bytes) -> Iterator[tuple[str, str, tuple[int, ...], tuple[int, ...]]]:
    """Yield name, dtype, shape and offsets of every tensor in a header."""
    opened = _OPEN.match(raw)
    if opened is None:
        raise _broken(path, f"it begins with {raw[:20]!r}; expected {{")
    at, more, seen_metadata = opened.end(), not opened[0].rstrip().endswith(b"}"), False
    while more:
        named = _NAME.match(raw, at)
        if named is None or named.end(1) - named.start(1) > MAX_NAME_BYTES:
            raise _broken(path, f"at byte {at} stands {_shown(raw, at)}; expected a tensor's name")
        name = _text(path, named[1])
        if name == "__metadata__":
            if seen_metadata:
                raise _broken(path, "'__metadata__' stands twice")
            at, seen_metadata = _behind_metadata(path, raw, named.end()), True
        else:
            entry = _ENTRY.match(raw, named.end())
            fields = {} if entry is None else _fields(entry)
            if entry is None or len(fields) != 3:
                raise _broken(
                    path,
                    f"{name!r} is {_shown(raw, named.end())}; expected an object of dtype, shape and data_offsets, "
                    "whole numbers without a sign in the last two",
                )
            yield name, fields[b"dtype"].decode(), _numbers(fields[b"shape"]), _numbers(fields[b"data_offsets"])
            at = entry.end()
        between = _BETWEEN.match(raw, at)
        if between is None:
            raise _broken(path, f"at byte {at} stands {_shown(raw, at)}; expected , or }}")
        at, more = between.end(), between[1] is not None
    if at != len(raw):
        raise _broken(path, f"at byte {at} stands {_shown(raw, at)}; expected its end")


def _fields(entry: re.Match[bytes]) -> dict[bytes, bytes]:
    """Return the fields of an entry by name; fewer than three where one is of the wrong kind, or stands twice."""
    found: dict[bytes, bytes] = {}
    for name, text, numbers in zip(*[iter(entry.groups())] * 3, strict=True):
        if (text is not None) is (name == b"dtype"):
            found[name] = text if numbers is None else numbers
    return found


def _behind_metadata(path: Path, raw: bytes, at: int) -> int:
    """Return where the metadata ends, an object of texts; nothing of it is kept."""
    start = at
    opened = _OPEN.match(raw, at)
    if opened is None:
        raise _broken(path, f"'__metadata__' is {_shown(raw, at)}; expected an object of texts")
    at, more, count = opened.end(), not opened[0].rstrip().endswith(b"}"), 0
    while more:
        count += 1
        if count > MAX_METADATA:
            raise _broken(path, f"'__metadata__' has more than {MAX_METADATA:,} texts")
        at = _behind_string(path, raw, at)
        colon = _COLON.match(raw, at)
        if colon is None:
            raise _broken(path, f"at byte {at}, in '__metadata__', stands {_shown(raw, at)}; expected :")
        at = _behind_string(path, raw, colon.end())
        between = _BETWEEN.match(raw, at)
        if between is None:
            raise _broken(path, f"at byte {at}, in '__metadata__', stands {_shown(raw, at)}; expected , or }}")
        at, more = between.end(), between[1] is not None
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for begin in range(start, at, 1_000_000):
            decoder.decode(raw[begin : min(begin + 1_000_000, at)])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise _broken(path, "'__metadata__' is not UTF-8") from None
    return at


def _behind_string(path: Path, raw: bytes, at: int) -> int:
    start, at = at, at + 1
    if raw[start:at] == b'"':
        while True:
            piece = _PIECE.match(raw, at)
            if piece is None or piece.end() == at:
                break
            at = piece.end()
        if raw[at : at + 1] == b'"':
            return at + 1
    raise _broken(path, f"at byte {start}, in '__metadata__', stands {_shown(raw, start)}; expected a text")


def _text(path: Path, raw: bytes) -> str:
    """Return a name; it has no control characters, which no module of a model has in its name."""
    try:
        text: str = json.loads(b'"' + raw + b'"') if b"\\" in raw else raw.decode("utf-8")
        text.encode("utf-8")
    except ValueError:
        raise _broken(path, f"the name {raw[:100]!r} is not UTF-8") from None
    if not text.isprintable() and any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text):
        raise _broken(path, f"the name {text!r} has control characters")
    return text


def _numbers(raw: bytes) -> tuple[int, ...]:
    return tuple(map(int, raw.split(b","))) if raw else ()


def _shown(raw: bytes, at: int) -> str:
    """Return what stands at a place, for a message."""
    return f"{raw[at : at + 60].decode('utf-8', 'replace')!r}" if at < len(raw) else "nothing"


def _broken(path: Path, what: str) -> SourceError:
    return SourceError(f"{path}: the safetensors header is broken: {what}")
