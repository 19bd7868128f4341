"""Metadata of a distributed checkpoint are a pickle from somewhere else: nothing in them runs, and lies are refused."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata

import growformer
from growformer.storage.dcp import open_dcp

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    state = {"model": {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}, "step": 7}
    dcp.save(state, checkpoint_id=tmp_path / "saved", no_dist=True)
    return tmp_path / "saved"


def rewrite(folder: Path, change: Callable[[Metadata], Any]) -> None:
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(metadata) or metadata))


def test_what_is_honest_is_read(folder: Path) -> None:
    found = open_dcp(folder)
    assert torch.equal(found.read("model.a"), torch.arange(12.0).reshape(3, 4))
    assert found.read("model.b").dtype == torch.bfloat16
    assert found.read_object("step") == 7
    assert found.paths["model.a"] == ("model", "a")


class Payload:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    ("call", "named"),
    [(os.system, "system"), (eval, "eval"), (getattr, "getattr"), (torch.load, "load")],
)
def test_a_pickle_that_calls_something_is_refused_before_it_does(
    folder: Path, call: Any, named: str, protocol: int
) -> None:
    mark = folder / "executed"
    arguments = {"system": f"touch {mark}", "eval": f"open({str(mark)!r}, 'w')"}.get(named, str(mark))
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data = Payload(call, arguments)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata, protocol=protocol))
    with pytest.raises(growformer.SourceError, match=rf"names .*{named}, which no checkpoint's metadata need"):
        open_dcp(folder)
    assert not mark.exists()
    if named == "system":
        pickle.loads((folder / ".metadata").read_bytes())
        assert mark.exists(), "a payload that does nothing shows nothing"


def test_nothing_that_a_pickle_does_to_a_class_is_done_to_torch(folder: Path) -> None:
    """BUILD may set attributes of whatever is on the stack, a class too."""
    name = b"ctorch.distributed.checkpoint.metadata\nMetadata\n"
    evil = b"\x80\x04" + name + b"N}\x8c\x08__init__Ns\x86b."
    before = Metadata.__init__
    (folder / ".metadata").write_bytes(evil)
    with pytest.raises(growformer.SourceError, match="not metadata of a checkpoint"):
        open_dcp(folder)
    assert Metadata.__init__ is before
    pickle.loads(evil)
    assert Metadata.__init__ is None, "what does nothing to an ordinary unpickler shows nothing"
    Metadata.__init__ = before


def test_a_memo_that_would_fill_the_memory_is_refused(folder: Path) -> None:
    (folder / ".metadata").write_bytes(b"\x80\x04Nr\xff\xff\xff\x7f.")
    with pytest.raises(growformer.SourceError, match="remembers something as number 2,147,483,647 in 9 bytes"):
        open_dcp(folder)


@pytest.mark.parametrize(
    "evil", [b"\x80\x04\x82\x01.", b"\x80\x04NQ.", b"(S'x'\nios\nsystem\n.", b"\x80\x05\x96" + b"\xff" * 7 + b"\x00."]
)
def test_other_instructions_are_refused(folder: Path, evil: bytes) -> None:
    (folder / ".metadata").write_bytes(evil)
    with pytest.raises(growformer.SourceError, match=r"has the instruction [A-Z0-9]+ at byte|not metadata"):
        open_dcp(folder)


def test_mutated_metadata_are_read_or_refused(folder: Path) -> None:
    """Whatever bytes are changed, there is one error of ours, or a checkpoint whose claims were checked."""
    path = folder / ".metadata"
    honest, numbers = path.read_bytes(), random.Random(5)
    refused = 0
    for _ in range(1500):
        content = bytearray(honest)
        for _ in range(numbers.choice((1, 1, 2, 8))):
            at = numbers.randrange(len(content))
            kind = numbers.random()
            if kind < 0.6:
                content[at] = numbers.randrange(256)
            elif kind < 0.8:
                del content[at : at + numbers.randrange(1, 9)]
            else:
                content[at:at] = numbers.randbytes(numbers.randrange(1, 9))
        path.write_bytes(bytes(content))
        try:
            found = open_dcp(folder)
            for key in found.tensors:
                found.read(key)
        except growformer.SourceError:
            refused += 1
    assert refused > 700


def _elsewhere(metadata: Metadata, name: str) -> None:
    for info in metadata.storage_data.values():
        info.relative_path = name


def _in_pieces(metadata: Metadata, *pieces: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Say that model.a, of 3 times 4, lies in pieces (offsets, sizes)."""
    place = next(info for index, info in metadata.storage_data.items() if index.fqn == "model.a")
    chunks = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in pieces]
    metadata.state_dict_metadata["model.a"].chunks = chunks
    for chunk in chunks:
        metadata.storage_data[MetadataIndex("model.a", chunk.offsets)] = place


LIES: dict[str, tuple[Callable[[Metadata], Any], str]] = {
    "a file above": (lambda m: _elsewhere(m, "../secret"), "is not the name of a file in this folder"),
    "an absolute path": (lambda m: _elsewhere(m, "/etc/passwd"), "is not the name of a file in this folder"),
    "a file that is not there": (lambda m: _elsewhere(m, "__7_0.distcp"), "is missing"),
    "past the end": (
        lambda m: setattr(next(iter(m.storage_data.values())), "length", 1 << 40),
        "something is said to end at",
    ),
    "before the beginning": (
        lambda m: setattr(next(iter(m.storage_data.values())), "offset", -1),
        "expected whole numbers",
    ),
    "compressed": (
        lambda m: setattr(next(iter(m.storage_data.values())), "transform_descriptors", ["zstd"]),
        r"is written through \['zstd'\]",
    ),
    "larger than its pieces": (
        lambda m: setattr(m.state_dict_metadata["model.a"], "size", torch.Size([1 << 40, 4])),
        "its pieces do not make up",
    ),
    "larger than the file": (
        lambda m: m.state_dict_metadata.update(
            {
                "model.a": TensorStorageMetadata(
                    m.state_dict_metadata["model.a"].properties,
                    torch.Size([1 << 40, 4]),
                    [ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([1 << 40, 4]))],
                )
            }
        ),
        "is said to fit into",
    ),
    "a piece outside": (
        lambda m: setattr(m.state_dict_metadata["model.a"].chunks[0], "offsets", torch.Size([1, 0])),
        r"a piece of \[3, 4\] at \[1, 0\] is not inside \[3, 4\]",
    ),
    "rows twice, and a hole": (
        lambda m: _in_pieces(m, ((0, 0), (2, 4)), ((1, 0), (1, 4))),
        r"model.a: the pieces at \[0, 0\] and \[1, 0\] overlap: values of \[3, 4\] are missing",
    ),
    "a corner twice, and a hole": (
        lambda m: _in_pieces(m, ((0, 2), (3, 2)), ((0, 0), (2, 1)), ((0, 1), (1, 2)), ((1, 0), (2, 1))),
        r"the pieces at \[0, \d\] and \[\d, \d\] overlap",
    ),
    "a piece that is nowhere": (
        lambda m: [m.storage_data.pop(index) for index in list(m.storage_data) if index.fqn == "model.a"] and None,
        r"nothing says where the piece at \[0, 0\] is",
    ),
    "another dtype": (
        lambda m: setattr(m.state_dict_metadata["model.a"].properties, "dtype", torch.complex64),
        "names torch.complex64",
    ),
    "a path of other things": (lambda m: m.planner_data.update({"model.a": [1.5]}), "expected names and numbers"),
    "something else": (lambda m: {"model": 1}, "not metadata of a checkpoint"),
}


@pytest.mark.parametrize(
    "pieces",
    [
        (((2, 0), (1, 4)), ((0, 0), (2, 4))),
        (((0, 0), (3, 1)), ((0, 1), (3, 3))),
        (((0, 0), (1, 3)), ((0, 3), (2, 1)), ((1, 0), (2, 1)), ((1, 1), (1, 2)), ((2, 1), (1, 3))),  # a pinwheel
        (((0, 0), (3, 4)), ((1, 1), (0, 3))),  # a rank that holds nothing
    ],
)
def test_pieces_that_lie_side_by_side_are_believed(folder: Path, pieces: Any) -> None:
    rewrite(folder, lambda m: _in_pieces(m, *pieces))
    assert len(open_dcp(folder).tensors["model.a"].pieces) == sum(0 not in sizes for _, sizes in pieces)


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(folder: Path, lie: str) -> None:
    change, message = LIES[lie]
    (folder.parent / "secret").write_text("secret")
    rewrite(folder, change)
    with pytest.raises(growformer.SourceError, match=message):
        open_dcp(folder)


def test_pieces_that_are_not_what_is_said(folder: Path) -> None:
    rewrite(folder, lambda m: setattr(m.state_dict_metadata["model.a"].properties, "dtype", torch.float64))
    with pytest.raises(growformer.SourceError, match=r"is not the piece of model.a that .metadata says: float64"):
        open_dcp(folder).read("model.a")


@pytest.mark.parametrize("how", ["bomb", "pickle", "noise", "cut"])
def test_hostile_pieces_are_refused(folder: Path, how: str) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    info = next(info for index, info in metadata.storage_data.items() if index.fqn == "model.a")
    file = folder / info.relative_path
    content = file.read_bytes()
    piece = content[info.offset : info.offset + info.length]
    if how == "bomb":
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(piece)) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
            for entry in source.infolist():
                packed.writestr(entry.filename, source.read(entry))
        made = buffer.getvalue()
    elif how == "pickle":
        buffer = io.BytesIO()
        torch.save(Payload(os.system, f"touch {folder / 'executed'}"), buffer)
        made = buffer.getvalue()
    else:
        made = os.urandom(info.length) if how == "noise" else piece[: info.length // 2]
    file.write_bytes(content + made)

    def moved(metadata: Metadata) -> None:
        for index, entry in metadata.storage_data.items():
            if index.fqn == "model.a":
                entry.offset, entry.length = len(content), len(made)

    rewrite(folder, moved)
    with pytest.raises(growformer.SourceError, match=r"is compressed|cannot be read"):
        open_dcp(folder).read("model.a")
    assert not (folder / "executed").exists()


def test_links_and_pipes_are_not_followed(folder: Path) -> None:
    file = next(folder.glob("*.distcp"))
    file.rename(folder.parent / "outside.distcp")
    file.symlink_to(folder.parent / "outside.distcp")
    with pytest.raises(growformer.SourceError, match="leads out of the folder"):
        open_dcp(folder)
    (folder / ".metadata").unlink()
    with pytest.raises(growformer.SourceError, match="missing"):
        open_dcp(folder)
    (folder / ".metadata").write_bytes(struct.pack("<I", 7))
    with pytest.raises(growformer.SourceError, match="not metadata of a checkpoint"):
        open_dcp(folder)
