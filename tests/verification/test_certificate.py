"""Certificates: what they hold, that they are tied to the bytes, and that none passes whose figures do not."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blake3
import pytest
import torch
import transformers
from tests.integration.cases import CASES

import growformer
from growformer.errors import OutputError, SourceError
from growformer.execute.provenance import load_provenance
from growformer.storage import disk
from growformer.verification.certificate import identities, read_certificate, write_certificate
from growformer.verification.certificate_check import CertificateCheck, check_certificate

FILE = "growformer.verify.json"
Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Return a source with a tokenizer's files, and what was grown from it, in shards, with its certificate."""
    home = tmp_path_factory.mktemp("certified")
    source, grown = home / "source", home / "grown"
    CASES["llama"].build().save_pretrained(source)  # type: ignore[operator]
    (source / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    (source / "README.md").write_text("about it")
    growformer.grow_checkpoint(source, grown, intermediate_size=53, hidden_size=36, max_shard_bytes=30_000)
    found = growformer.verify(source, grown, checks=["constraints", "outputs", "trainability"])
    assert found.ok
    assert write_certificate(found, source, grown, options={"seed": 0}) == grown / FILE
    return source, grown


@pytest.fixture
def pair(made: Pair, tmp_path: Path) -> Pair:
    """Return copies that a test may change."""
    source, grown = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in made)
    return source, grown


def change(grown: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Edit a certificate as anybody may."""
    file = grown / FILE
    data = json.loads(file.read_text())
    edit(data)
    file.write_text(json.dumps(data))
    return file


# What it holds


def test_it_holds_what_was_checked_and_the_bytes_of_both_sides(made: Pair) -> None:
    source, grown = made
    data = json.loads((grown / FILE).read_text())
    assert list(data) == [
        "format", "verdict", "ok", "checked_at", "versions", "options", "source", "grown", "checks",
    ]  # fmt: skip
    assert (data["format"], data["ok"]) == (1, True)
    assert data["verdict"] == "Preserved: constraints, outputs, trainability"
    assert set(data["versions"]) == {"growformer", "torch", "transformers", "python"}
    assert data["versions"]["torch"] == torch.__version__
    assert data["options"] == {"seed": 0}
    assert data["source"]["location"] == "../source"
    assert data["grown"]["location"] == "."
    assert all(data["checks"][name]["ok"] for name in ("constraints", "outputs", "trainability"))
    for folder, side in ((source, data["source"]), (grown, data["grown"])):
        shards = {p.name for p in folder.glob("*.safetensors")}
        assert {*shards, "config.json", "generation_config.json", "tokenizer_config.json"} <= side["files"].keys()
        assert not {FILE, "README.md"} & side["files"].keys()
        assert side["num_bytes"] == {name: (folder / name).stat().st_size for name in side["files"]}
        for name in side["files"].keys() - shards:  # as b3sum gives it
            assert side["files"][name] == f"blake3:{blake3.blake3((folder / name).read_bytes()).hexdigest()}"
    assert len([n for n in data["grown"]["files"] if n.endswith(".safetensors")]) > 2
    recorded = load_provenance(grown).files["weights"]
    assert recorded == {n: d for n, d in data["grown"]["files"].items() if n.endswith(".safetensors")}


def test_progress_counts_every_byte_once(pair: Pair, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    found = growformer.verify(*pair, checks=["constraints"])
    file = write_certificate(found, *pair, to=tmp_path / "c.json", progress=lambda *at: seen.append(at))
    data = json.loads(file.read_text())
    totals = [sum(data[side]["num_bytes"].values()) for side in ("source", "grown")]
    assert [total for done, total, _ in seen if done == total] == totals
    assert all(done <= total for done, total, _ in seen)


def test_it_is_checked_again(made: Pair) -> None:
    source, grown = made
    checked = check_certificate(grown / FILE)
    assert checked.ok
    assert not checked.failed
    assert checked.verdict.startswith("Preserved: constraints, outputs, trainability (checked at ")
    assert {side.state for side in checked.sides().values()} == {"the same"}
    assert check_certificate(grown).ok  # the folder stands for the file in it
    assert checked.to_json()["ok"] is True
    assert checked.grown.num_bytes == sum(checked.certificate.grown.num_bytes.values())
    assert growformer.check_certificate(grown / FILE, source, grown).ok


# It does not disturb


def test_it_does_not_disturb_what_reads_the_folder(pair: Pair, tmp_path: Path) -> None:
    _, grown = pair
    model, info = transformers.AutoModelForCausalLM.from_pretrained(grown, output_loading_info=True)
    assert not any(info.values())
    assert model.config.hidden_size == 36
    assert growformer.check_digests(grown).ok
    assert growformer.inspect(grown).num_parameters
    # The next growth leaves it behind, and says so; its own certificate is of its own bytes.
    again = tmp_path / "again"
    growformer.grow_checkpoint(grown, again, intermediate_size=61)
    assert not (again / FILE).exists()
    assert "certificate" in load_provenance(again).dropped[FILE]
    write_certificate(growformer.verify(grown, again, checks=["constraints"]), grown, again)
    assert check_certificate(again).ok
    assert FILE not in read_certificate(again / FILE).source.files


# Bytes that are others


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)


CHANGES: dict[str, tuple[Callable[[Path, Path], Any], str, str, str]] = {
    "one bit of a grown shard": (
        lambda source, grown: _flip(sorted(grown.glob("*.safetensors"))[1]), "grown", "model-00002", "other bytes",
    ),
    "one bit of the source": (
        lambda source, grown: _flip(source / "model.safetensors"), "source", "model.safetensors", "other bytes",
    ),
    "the config": (
        lambda source, grown: (grown / "config.json").write_text((grown / "config.json").read_text() + " "),
        "grown", "config.json", "were checked",
    ),
    "a tokenizer": (
        lambda source, grown: (grown / "tokenizer_config.json").write_text('{"model_max_length": 78}'),
        "grown", "tokenizer_config.json", "other bytes",
    ),
    "a file that is gone": (
        lambda source, grown: (grown / "generation_config.json").unlink(), "grown", "generation_config.json", "missing",
    ),
    "weights that were added": (
        lambda source, grown: shutil.copy(source / "model.safetensors", grown / "model.safetensors"),
        "grown", "the folder", "model.safetensors, which transformers loads",
    ),
    "code that was added": (
        lambda source, grown: (grown / "modeling.py").write_text("1"), "grown", "modeling.py", "was not there",
    ),
    "a shard that is a link out": (
        lambda source, grown: _link_out(grown / "config.json", source / "config.json"), "grown", "config.json", "link",
    ),
}  # fmt: skip


def _link_out(path: Path, to: Path) -> None:
    path.unlink()
    path.symlink_to(to)


@pytest.mark.parametrize("name", CHANGES)
def test_other_bytes_are_noticed(pair: Pair, name: str) -> None:
    edit, side, file, said = CHANGES[name]
    edit(*pair)
    checked = check_certificate(pair[1] / FILE)
    assert checked.failed
    assert not checked.ok
    assert checked.to_json()["ok"] is False
    assert checked.sides()[side].state == "differs"
    wrong = {n: why for n, why in checked.sides()[side].files.items() if why != "ok"}
    assert any(n.startswith(file) and said in why for n, why in wrong.items()), wrong
    assert checked.verdict.startswith("The certificate is of other files: ")


def test_texts_about_it_may_be_added(pair: Pair) -> None:
    (pair[1] / "README.md").write_text("new")
    (pair[1] / "LICENSE.txt").write_text("new")
    assert check_certificate(pair[1]).ok


def test_a_source_that_is_not_here_is_not_checked_and_never_ok(pair: Pair) -> None:
    shutil.rmtree(pair[0])
    checked = check_certificate(pair[1])
    assert (checked.ok, checked.failed, checked.to_json()["ok"]) == (False, False, None)
    assert checked.source.state == "not checked"
    assert str(checked.source) == "not checked: ../source is not on this machine"
    assert checked.verdict.endswith("as far as can be told here: source not checked")
    with pytest.raises(SourceError, match="no such folder; a certificate is checked against files that are here"):
        check_certificate(pair[1], pair[0], pair[1])


def test_folders_may_lie_elsewhere(pair: Pair, tmp_path: Path) -> None:
    moved = [tmp_path / "elsewhere" / name for name in ("a", "b")]
    for folder, to in zip(pair, moved, strict=True):
        to.parent.mkdir(exist_ok=True)
        folder.rename(to)
    assert check_certificate(moved[1]).source.state == "not checked"
    assert check_certificate(moved[1] / FILE, moved[0], moved[1]).ok
    file = tmp_path / "alone.json"
    (moved[1] / FILE).rename(file)
    assert check_certificate(file, moved[0], moved[1]).ok
    with pytest.raises(SourceError, match="not in its folder; name both"):
        check_certificate(file)


# Where it is written


def test_another_file_is_never_replaced(pair: Pair) -> None:
    found = growformer.verify(*pair, checks=["constraints"])
    target = pair[1] / "config.json"
    before = target.read_bytes()
    with pytest.raises(OutputError, match="is in the way, and no certificate that could be replaced"):
        write_certificate(found, *pair, to=target)
    assert target.read_bytes() == before
    link = pair[1] / "link.json"
    link.symlink_to(target)
    with pytest.raises(OutputError, match="is a link, and not replaced"):
        write_certificate(found, *pair, to=link)
    with pytest.raises(OutputError, match="there is no folder"):
        write_certificate(found, *pair, to=pair[1] / "none" / "c.json")
    first = (pair[1] / FILE).read_text()
    write_certificate(found, *pair)  # a certificate is replaced
    assert (pair[1] / FILE).read_text() != first
    assert read_certificate(pair[1] / FILE).checks.outputs is None


def test_a_failed_write_leaves_the_old_one(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    found = growformer.verify(*pair, checks=["constraints"])
    before = {p.name: p.read_bytes() for p in pair[1].iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "_fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_certificate(found, *pair)
    assert {p.name: p.read_bytes() for p in pair[1].iterdir()} == before


def test_a_folder_that_is_read_only(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    found = growformer.verify(*pair, checks=["constraints"])
    pair[1].chmod(0o555)
    if os.geteuid() == 0:  # who may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    try:
        with pytest.raises(OutputError, match="the folder is read-only"):
            write_certificate(found, *pair)
    finally:
        pair[1].chmod(0o755)


def test_the_hub_cache_is_not_written_to(pair: Pair, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    pair[1].rename(snapshot)
    found = growformer.verify(pair[0], snapshot, checks=["constraints"])
    with pytest.raises(OutputError, match="lies in the hub's cache"):
        write_certificate(found, pair[0], snapshot)
    file = write_certificate(found, pair[0], snapshot, to=tmp_path / "c.json")
    side = read_certificate(file).grown
    assert (side.location, side.revision) == ("owner/name", "0" * 40)


def test_what_changed_while_it_was_checked_gets_none(pair: Pair) -> None:
    seen = identities(*pair)
    found = growformer.verify(*pair, checks=["constraints"])
    _flip(pair[0] / "model.safetensors")
    (pair[1] / FILE).unlink()
    with pytest.raises(SourceError, match="changed while it was read"):
        write_certificate(found, *pair, seen=seen)
    assert not (pair[1] / FILE).exists()


# A verdict that does not follow from the figures


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def edit(data: dict[str, Any]) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return edit


VIOLATION = {"kind": "zero", "where": "w", "region": "", "expected": "zero", "found": "1", "deviation": 1.0}
DEAD = {"tensor": "w", "region": [], "first_step": None, "dead_units": 3}
EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    "a violation": _set("checks", "constraints", "violations", to=[VIOLATION]),
    "nothing was compared": _set("checks", "constraints", "checked", to=0),
    "a ratio above its limit": _set("checks", "outputs", "comparisons", 0, "ratio", to=2.5),
    "a ratio that is no number": _set("checks", "outputs", "comparisons", 0, "ratio", to=None),
    "a ratio of other errors": _set("checks", "outputs", "comparisons", 0, "grown_error", to=0.5),
    "a limit of its own": lambda data: data["checks"]["outputs"]["comparisons"][0].update(limit=1e9),
    "a comparison that failed": _set("checks", "outputs", "comparisons", 0, "ok", to=False),
    "no comparison": _set("checks", "outputs", "comparisons", to=[]),
    "a region without gradient": _set("checks", "trainability", "reach", 0, "first_step", to=None),
    "dead units": _set("checks", "trainability", "dead", to=[DEAD]),
    "locked units": _set("checks", "trainability", "locked", to=[{"tensor": "w", "units": [[1, 2]]}]),
    "a region that is not listed": _set("checks", "trainability", "reach", to=[]),
    "a gradient out of scale": _set("checks", "trainability", "reach", 0, "ratio", to=1e4),
    "a check that failed": _set("checks", "constraints", "ok", to=False),
    "no checks": lambda data: data["checks"].update(constraints=None, outputs=None, trainability=None),
    "its checks failed": _set("checks", "ok", to=False),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_certificate_does_not_pass(pair: Pair, name: str) -> None:
    change(pair[1], EDITS[name])
    checked = check_certificate(pair[1])
    assert checked.failed, checked.verdict
    assert not checked.ok
    assert checked.verdict.startswith("Not a valid certificate: ")


def test_a_verdict_is_not_believed(pair: Pair) -> None:
    change(pair[1], _set("verdict", to="Preserved: everything, certified by the king"))
    checked = check_certificate(pair[1])
    assert checked.failed
    assert checked.verdict.startswith("Not a valid certificate: its verdict is 'Preserved: everything, certified by")


def test_a_certificate_of_a_failure_is_valid_and_fails(pair: Pair) -> None:
    _flip(sorted(pair[1].glob("*.safetensors"))[0])
    found = growformer.verify(*pair, checks=["constraints", "outputs"])
    assert not found.ok
    write_certificate(found, *pair)
    checked = check_certificate(pair[1])
    assert checked.failed
    assert checked.contradictions == ()
    assert checked.verdict.startswith("NOT preserved: constraints")
    # Said to be fine, its figures still say otherwise.
    for edit in (_set("ok", to=True), _set("checks", "ok", to=True), _set("checks", "constraints", "ok", to=True)):
        change(pair[1], edit)
        assert check_certificate(pair[1]).failed
    assert check_certificate(pair[1]).contradictions


def test_figures_that_are_no_numbers_are_written_as_none(pair: Pair) -> None:
    found = copy.copy(growformer.verify(*pair, checks=["constraints"]))
    file = write_certificate(found, *pair, options={"x": float("nan"), "y": [float("inf"), 1.5]})
    assert read_certificate(file).options == {"x": None, "y": [None, 1.5]}


def test_public_names() -> None:
    assert growformer.check_certificate is check_certificate
    assert growformer.CertificateCheck is CertificateCheck
