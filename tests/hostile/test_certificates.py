"""Certificates that somebody else wrote: refused with one message, and no path, size or text in them is obeyed."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.hostile.samples import GROWTH, write
from tests.hostile.targets import listing, time_limit

import growformer
from growformer.cli import render
from growformer.cli.main import main
from growformer.errors import GrowformerError, SourceError
from growformer.verification.certificate import read_certificate, write_certificate
from growformer.verification.certificate_check import check_certificate

FILE = "growformer.verify.json"
DIGEST = "blake3:" + "0" * 64
CONTROL = "\x1b]0;owned\x07\x1b[2J\u202edesrever"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("hostile")
    source, grown = write(home / "source", "llama"), home / "grown"
    growformer.grow_checkpoint(source, grown, **GROWTH["llama"])
    write_certificate(growformer.verify(source, grown, checks=["constraints"]), source, grown)
    assert check_certificate(grown).ok
    return home


@pytest.fixture
def grown(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "home")) / "grown"


def put(grown: Path, *path: Any, value: Any) -> Path:
    file = grown / FILE
    data = json.loads(file.read_text())
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.write_text(json.dumps(data))
    return file


@pytest.mark.parametrize(
    "name",
    [
        "../source/config.json", "/etc/passwd", "a/../../b", "a/./b", "a//b", "./a", "..", "", "C:\\x", "a\\b", "a\0b",
        "\x1b[2J", "x" * 2000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("side", ["source", "grown"])
def test_no_file_outside_of_its_folder_is_named(grown: Path, side: str, name: str) -> None:
    put(grown, side, "files", name, value=DIGEST)
    put(grown, side, "num_bytes", name, value=3)
    with pytest.raises(SourceError, match=r"not a certificate|too large|not JSON"):
        read_certificate(grown / FILE)


@pytest.mark.parametrize(
    "location", ["..", "../source", "/", "/etc", "../../other/grown", "x" * 5000, "a\0b", "", "no"]
)
def test_the_grown_folder_is_looked_for_in_its_own_place_only(grown: Path, location: str) -> None:
    put(grown, "grown", "location", value=location)
    with pytest.raises(SourceError):
        check_certificate(grown)


def test_a_location_through_a_link_does_not_lead_out(grown: Path) -> None:
    (grown / "inside").symlink_to(grown.parent / "source")
    put(grown, "grown", "location", value="inside")
    with pytest.raises(SourceError, match="not in its folder"):
        check_certificate(grown)


@pytest.mark.parametrize("location", ["/proc/self", "no/such", "owner/name", "\x1b[2J", "../" * 900])
def test_a_source_that_is_nowhere_is_not_checked(grown: Path, location: str) -> None:
    """And nothing is downloaded: the tests have no network."""
    put(grown, "source", "location", value=location)
    put(grown, "source", "revision", value="main")
    assert check_certificate(grown).source.state == "not checked"


def test_pipes_and_links_are_not_opened(grown: Path) -> None:
    (grown / "generation_config.json").unlink(missing_ok=True)
    put(grown, "grown", "files", "pipe.json", value=DIGEST)
    put(grown, "grown", "num_bytes", "pipe.json", value=0)
    os.mkfifo(grown / "pipe.json")
    put(grown, "grown", "files", "link.json", value=DIGEST)
    put(grown, "grown", "num_bytes", "link.json", value=5)
    (grown / "link.json").symlink_to("/etc/hostname")
    with time_limit(20):
        checked = check_certificate(grown)
    assert checked.failed
    assert "a named pipe" in checked.grown.files["pipe.json"]
    assert "outside of the model's folder" in checked.grown.files["link.json"]


def test_a_file_of_another_size_is_not_read(grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = grown / "model.safetensors"
    with weights.open("ab") as file:
        file.truncate(weights.stat().st_size + (1 << 40))  # a terabyte of nothing
    with time_limit(20):
        checked = check_certificate(grown)
    assert "bytes, where" in checked.grown.files["model.safetensors"]


EDITS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "another format": (("format",), 2),
    "a format that equals 1": (("format",), True),
    "a digest of nothing": (("grown", "files", "config.json"), "blake3:"),
    "a digest with a command": (("grown", "files", "config.json"), "blake3:" + "\x1b" * 64),
    "a digest that is a list": (("grown", "files", "config.json"), [DIGEST]),
    "a size that is negative": (("grown", "num_bytes", "config.json"), -1),
    "a size that is a text": (("grown", "num_bytes", "config.json"), "3"),
    "a size without a file": (("grown", "num_bytes", "other"), 3),
    "no files": (("grown", "files"), {}),
    "an unknown field": (("signature",), "trust me"),
    "ok that is a number": (("ok",), 1),
    "ok that is a text": (("checks", "constraints", "ok"), "true"),
    "checks that are a list": (("checks",), []),
    "a check that is a text": (("checks", "outputs"), "fine"),
    "violations that are a text": (("checks", "constraints", "violations"), "none"),
    "tensors that are not a number": (("checks", "constraints", "checked"), "all"),
    "a check that is not known": (("checks", "trust"), {"ok": True}),
    "a verdict of a megabyte": (("verdict",), "x" * 1_000_000),
}


@pytest.mark.parametrize("name", EDITS)
def test_another_form_is_refused(grown: Path, name: str) -> None:
    path, value = EDITS[name]
    put(grown, *path, value=value)
    with pytest.raises(SourceError, match="not a certificate"):
        check_certificate(grown)


def test_no_weights_among_the_files(grown: Path) -> None:
    put(grown, "grown", "files", value={"config.json": DIGEST})
    put(grown, "grown", "num_bytes", value={"config.json": 3})
    with pytest.raises(SourceError, match="no file with weights is among them"):
        check_certificate(grown)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"[]", b"null", b"\xff", b'{"format": 1, "format": 1}', b'{"format": NaN}', b"[" * 100_000,
        b'{"format": 1}', b'{"format": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_what_is_not_a_certificate_at_all(grown: Path, raw: bytes) -> None:
    (grown / FILE).write_bytes(raw)
    with pytest.raises(SourceError):
        check_certificate(grown)


def test_it_does_not_speak_to_the_terminal(grown: Path, capfd: pytest.CaptureFixture[str]) -> None:
    put(grown, "verdict", value=CONTROL)
    put(grown, "checks", "verdict", value=CONTROL)
    put(grown, "checks", "notes", value=[CONTROL])
    put(grown, "checked_at", value=CONTROL)
    put(grown, "versions", value={CONTROL: CONTROL})
    put(grown, "source", "location", value=CONTROL)
    put(grown, "source", "revision", value=CONTROL)
    for options in ([], ["--json"]):
        capfd.readouterr()
        code = main(["verify", "--certificate", str(grown / FILE), *options])
        captured = capfd.readouterr()
        text = captured.out + captured.err
        assert code == 1  # the verdict is not that of its figures
        assert all(c.isprintable() or c == "\n" for c in text), repr(text)
    assert json.loads(captured.out)["ok"] is False
    put(grown, CONTROL, value=1)
    assert main(["verify", "--certificate", str(grown / FILE)]) == 2
    text = "".join(capfd.readouterr())
    assert all(c.isprintable() or c == "\n" for c in text), repr(text)
    assert render.escaped(CONTROL) != CONTROL


def _mutations(raw: bytes, seed: int) -> bytes:
    choose = random.Random(seed)
    data = bytearray(raw)
    for _ in range(choose.randrange(1, 6)):
        at = choose.randrange(len(data))
        what: list[Callable[[], None]] = [
            lambda at=at: data.__setitem__(at, choose.randrange(256)),  # type: ignore[misc]
            lambda at=at: data.__delitem__(slice(at, at + choose.randrange(1, 40))),  # type: ignore[misc]
            lambda at=at: data.__setitem__(slice(at, at), choose.choice([b"null", b"-1", b"{}", b'".."', b"1e999"])),  # type: ignore[misc]
        ]
        choose.choice(what)()
        if not data:
            return b""
    return bytes(data)


def test_mutations_end_in_a_verdict_or_in_one_message(grown: Path) -> None:
    """Random damage: never another error, never a file changed; and what still passes says what it said before."""
    raw = (grown / FILE).read_bytes()
    refused = 0
    for seed in range(150):
        (grown / FILE).write_bytes(_mutations(raw, seed))
        before = listing(grown.parent)
        try:
            with time_limit(20):
                checked = check_certificate(grown)
        except GrowformerError:
            refused += 1
        else:
            if checked.ok:
                assert checked.verdict.startswith("Preserved: constraints (checked at ")
        assert listing(grown.parent) == before
    assert refused > 50
