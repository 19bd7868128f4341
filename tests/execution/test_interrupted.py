"""An output is complete or absent; what an earlier run left is continued if it is of the same, and removed if not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.execution.test_same_bytes import files

import growformer
from growformer import OutputError, SourceError
from growformer.execute.fill import BandFiller
from growformer.execute.layout import Band
from growformer.storage import disk
from growformer.verification.file_digests import check_digests

REQUEST: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 4, "max_shard_bytes": 20_000, "threads": 1}


@contextmanager
def failing(at: str, error: BaseException) -> Iterator[list[str]]:
    """Make the making of a tensor fail; yields the names of those that were made."""
    made: list[str] = []
    fill = BandFiller.fill

    def failing_fill(self: BandFiller, band: Band, out: Any, scratch: Any) -> None:
        if band.stored.name == at:
            raise error
        made.append(band.stored.name)
        fill(self, band, out, scratch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BandFiller, "fill", failing_fill)
        yield made


LATE = "model.layers.3.mlp.down_proj.weight"


@pytest.fixture
def expected(llama: Path, tmp_path: Path) -> dict[str, bytes]:
    """Return what an undisturbed run writes."""
    growformer.grow_checkpoint(llama, tmp_path / "undisturbed", **REQUEST)
    found = files(tmp_path / "undisturbed")
    shutil.rmtree(tmp_path / "undisturbed")
    return found


@pytest.fixture
def partial(llama: Path, tmp_path: Path) -> Path:
    """Return the hidden folder of a run that ended in an error after some shards."""
    with failing(LATE, OSError(28, "No space left on device")), pytest.raises(OutputError) as raised:
        growformer.grow_checkpoint(llama, tmp_path / "out", **REQUEST)
    assert "cannot be written: No space left on device" in str(raised.value)
    assert f"shards that are finished stay in {tmp_path / '.out.partial'}" in str(raised.value)
    return tmp_path / ".out.partial"


def test_a_run_goes_on_after_the_last_finished_shard(
    llama: Path, tmp_path: Path, partial: Path, expected: dict[str, bytes]
) -> None:
    kept = {path.name for path in partial.iterdir() if path.suffix == ".safetensors"}
    assert 2 < len(kept) < sum(name.endswith(".safetensors") for name in expected)
    assert not (partial / "config.json").exists()
    with failing("no tensor", ValueError()) as made:
        grown = growformer.grow_checkpoint(llama, tmp_path / "out", **REQUEST)
    assert grown.resumed == f"an earlier run had finished {len(kept)} of the shards, which were kept"
    assert LATE in made
    assert "model.embed_tokens.weight" not in made
    assert files(tmp_path / "out") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("what", ["request", "source", "journal", "foreign journal", "shard cut short"])
def test_what_is_of_no_use_is_removed(
    llama: Path, tmp_path: Path, partial: Path, expected: dict[str, bytes], what: str
) -> None:
    source, request = llama, dict(REQUEST)
    if what == "request":
        request["seed"] = 1
    elif what == "source":
        source = tmp_path / "source"
        shutil.copytree(llama, source)  # the same bytes, at another time
    elif what == "journal":
        (partial / "journal.json").write_text("{")
    elif what == "foreign journal":
        journal = json.loads((partial / "journal.json").read_text())
        (partial / "journal.json").write_text(json.dumps({**journal, "finished": {"../x": 3, "model": None}}))
    else:
        for path in partial.glob("*.safetensors"):
            os.truncate(path, 100)
    grown = growformer.grow_checkpoint(source, tmp_path / "out", **request)
    assert grown.resumed == "an earlier run left an unfinished output, which was of no use and was removed"
    assert check_digests(grown.path).ok
    if what in ("journal", "foreign journal", "shard cut short"):
        assert files(tmp_path / "out") == expected


def test_an_early_error_leaves_nothing(llama: Path, tmp_path: Path) -> None:
    with failing("model.embed_tokens.weight", OSError(5, "Input/output error")), pytest.raises(OutputError):
        growformer.grow_checkpoint(llama, tmp_path / "out", **REQUEST)
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_into_the_same_output_is_refused(llama: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def again(done: int, total: int, name: str) -> None:
        if not refused:
            with pytest.raises(OutputError) as raised:
                growformer.grow_checkpoint(llama, tmp_path / "out", **REQUEST)
            refused.append(str(raised.value))

    grown = growformer.grow_checkpoint(llama, tmp_path / "out", progress=again, **REQUEST)
    assert f"out: another run is writing it (process {os.getpid()} on" in refused[0]
    assert check_digests(grown.path).ok
    with pytest.raises(OutputError, match="exists already"):
        growformer.grow_checkpoint(llama, tmp_path / "out", **REQUEST)


@pytest.mark.parametrize("change", ["header", "time", "size", "config"])
def test_a_source_that_changes_meanwhile_is_noticed(llama: Path, tmp_path: Path, change: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(llama, source)
    shard = sorted(source.glob("*.safetensors"))[0]

    def disturb(done: int, total: int, name: str) -> None:
        if change == "header":
            status = shard.stat()
            with shard.open("r+b") as file:
                file.seek(20)
                file.write(b"?")
            os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
        elif change == "time":
            os.utime(shard)
        elif change == "size":
            with shard.open("ab") as file:
                file.write(b" ")
        else:
            (source / "config.json").write_text((source / "config.json").read_text() + " ")

    with pytest.raises(SourceError, match="changed while it was read"):
        growformer.grow_checkpoint(source, tmp_path / "out", progress=disturb, **REQUEST)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_source_that_shrinks_is_an_error(llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(llama, source)
    shards = sorted(source.glob("*.safetensors"))

    def shrink(done: int, total: int, name: str) -> None:
        for shard in shards:
            os.truncate(shard, 3000)

    with pytest.raises(SourceError, match=r"ended inside a tensor|changed while it was read"):
        growformer.grow_checkpoint(source, tmp_path / "out", progress=shrink, **REQUEST)
    assert not (tmp_path / "out").exists()


def test_an_output_that_appears_meanwhile_is_left_alone(llama: Path, tmp_path: Path) -> None:
    def appear(done: int, total: int, name: str) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)

    with pytest.raises(OutputError, match="appeared while it was being written"):
        growformer.grow_checkpoint(llama, tmp_path / "out", progress=appear, **REQUEST)
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out").rmdir()
    grown = growformer.grow_checkpoint(llama, tmp_path / "out", **REQUEST)
    assert "had finished" in grown.resumed
    assert check_digests(grown.path).ok


@pytest.mark.parametrize("what", ["file", "link", "link as lock"])
def test_something_in_the_way_of_the_hidden_folder(llama: Path, tmp_path: Path, what: str) -> None:
    hidden, elsewhere = tmp_path / ".out.partial", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    if what == "file":
        hidden.write_text("mine")
    elif what == "link":
        hidden.symlink_to(elsewhere)
    else:
        hidden.mkdir()
        (hidden / ".growformer.lock").symlink_to(elsewhere / "precious")
    with pytest.raises(OutputError):
        growformer.grow_checkpoint(llama, tmp_path / "out", **REQUEST)
    assert (elsewhere / "precious").read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_a_refusal_by_the_class_discards_all(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from growformer.execute.class_check import ClassCheck

    monkeypatch.setattr(ClassCheck, "submit", lambda *arguments: None)
    monkeypatch.setattr(ClassCheck, "refusal", lambda self: growformer.RequestError("the class refuses"))
    with pytest.raises(growformer.RequestError, match="the class refuses"):
        growformer.grow_checkpoint(llama, tmp_path / "out", **REQUEST)
    assert list(tmp_path.iterdir()) == []


def test_digests_notice_every_kind_of_damage(llama: Path, tmp_path: Path) -> None:
    out = growformer.grow_checkpoint(llama, tmp_path / "out", **REQUEST).path
    assert check_digests(out).ok
    record = json.loads((out / "growformer.json").read_text())
    shards = sorted(out.glob("*.safetensors"))
    assert set(record["files"]["weights"]) == {path.name for path in shards}
    with shards[0].open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.truncate(shards[1], shards[1].stat().st_size - 1)
    shards[2].unlink()
    (out / "extra.safetensors").write_bytes(b"")
    found = check_digests(out)
    assert not found.ok
    assert found.files[shards[0].name] == "other bytes than were written"
    assert found.files[shards[1].name].startswith("damaged: ")
    assert found.files[shards[2].name] == "missing"
    assert found.files["extra.safetensors"] == "not in the record"
    assert sum(value == "ok" for value in found.files.values()) == len(shards) - 3


def test_the_lock_is_let_go(llama: Path, tmp_path: Path, partial: Path) -> None:
    descriptor = disk.open_to_write(partial / ".growformer.lock", fresh=False)
    assert disk.lock(descriptor)
    with pytest.raises(OutputError, match="another run is writing it"):
        growformer.grow_checkpoint(llama, tmp_path / "out", **REQUEST)
    os.close(descriptor)
    assert "had finished" in growformer.grow_checkpoint(llama, tmp_path / "out", **REQUEST).resumed
