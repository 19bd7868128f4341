"""Certificates on the command line: ``growformer verify`` writes one, ``growformer verify --certificate`` checks it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

FILE = "growformer.verify.json"
Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def made(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    from growformer.cli.main import main

    folder = tmp_path_factory.mktemp("certified")
    source, grown = Path(shutil.copytree(models["llama"], folder / "source")), folder / "grown"
    assert main(["grow", str(source), str(grown), "--intermediate-size", "41", "--no-verify"]) == 0
    assert main(["verify", str(source), str(grown), "--checks", "constraints"]) == 0
    return source, grown


@pytest.fixture
def pair(made: Pair, tmp_path: Path) -> Pair:
    source, grown = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in made)
    return source, grown


def test_verify_writes_one_beside_the_weights(run, pair: Pair) -> None:
    (pair[1] / FILE).unlink()
    ran = run("verify", *pair, "--checks", "constraints")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == f"Certificate: {pair[1] / FILE}"
    data = json.loads((pair[1] / FILE).read_text())
    assert data["options"] == {
        "checks": ["constraints"], "dtypes": None, "prompt": None, "seed": 0, "input_files": [], "lengths": None,
        "from_disk": None, "strict": False, "record": None,
    }  # fmt: skip
    found = run("verify", *pair, "--checks", "constraints", "--json").json()
    assert found["certificate"] == {"file": str(pair[1] / FILE)}


def test_elsewhere_or_not_at_all(run, pair: Pair, tmp_path: Path) -> None:
    (pair[1] / FILE).unlink()
    ran = run("verify", *pair, "--checks", "constraints", "--no-certificate")
    assert (ran.code, "ertificate" in ran.out) == (0, False)
    assert run("verify", *pair, "--checks", "constraints", "--certificate-to", tmp_path / "c.json").code == 0
    assert not (pair[1] / FILE).exists()
    assert run("verify", "--certificate", tmp_path / "c.json").code == 0  # both folders lie beside it
    ran = run("verify", *pair, "--no-certificate", "--certificate-to", tmp_path / "d.json")
    assert (ran.code, ran.err) == (2, "error: --no-certificate and --certificate-to: leave one out\n")
    ran = run("verify", *pair, "--certificate-to", pair[1] / "config.json")
    assert ran.code == 2
    assert "no certificate that could be replaced" in ran.err


def test_a_place_that_cannot_be_written_is_a_note(run, pair: Pair) -> None:
    (pair[1] / FILE).write_text('{"mine": 1}')
    ran = run("verify", *pair, "--checks", "constraints")
    assert ran.code == 0
    assert ran.out.splitlines()[-1].startswith("no certificate was written: ")
    assert "is in the way" in ran.out
    assert (pair[1] / FILE).read_text() == '{"mine": 1}'
    found = run("verify", *pair, "--checks", "constraints", "--json").json()
    assert found["ok"] is True
    assert "is in the way" in found["certificate"]["not_written"]


def test_a_read_only_folder_is_a_note(run, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair[1].chmod(0o555)
    if os.geteuid() == 0:  # who may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    try:
        ran = run("verify", *pair, "--checks", "constraints")
    finally:
        pair[1].chmod(0o755)
    assert ran.code == 0
    assert "the folder is read-only" in ran.out


def test_a_certificate_that_holds(run, pair: Pair) -> None:
    ran = run("verify", "--certificate", pair[1] / FILE)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith("Preserved: constraints (checked at ")
    assert lines[2].split() == ["side", "where", "files"]
    assert [line.split()[:3] for line in lines[3:5]] == [["source", "ok", "../source"], ["grown", "ok", "."]]
    found = run("verify", "--certificate", pair[1], "--json").json()
    assert found["ok"] is True
    assert found["source"]["state"] == "the same"


def test_a_source_that_is_not_here(run, pair: Pair, tmp_path: Path) -> None:
    pair[0].rename(tmp_path / "moved")
    ran = run("verify", "--certificate", pair[1] / FILE)
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "Preserved: constraints, as far as can be told here: source not checked"
    assert "not checked: ../source is not on this machine" in ran.out
    assert run("verify", "--certificate", pair[1] / FILE, "--json").json()["ok"] is None
    ran = run("verify", "--certificate", pair[1] / FILE, tmp_path / "moved", pair[1])
    assert ran.out.splitlines()[0].startswith("Preserved: constraints (checked at ")
    assert str(tmp_path / "moved") in ran.out
    assert "../source" not in ran.out
    ran = run("verify", "--certificate", pair[1] / FILE, pair[1])  # one folder is the grown one
    assert "source not checked" in ran.out


def test_less_than_was_certified_is_said(run, pair: Pair) -> None:
    assert run("verify", *pair, "--checks", "constraints,outputs").code == 0
    ran = run("verify", *pair, "--checks", "constraints")
    assert ran.out.splitlines()[-1].startswith(f"Certificate: {pair[1] / FILE} (it replaces one that also had outputs;")
    assert run("verify", *pair, "--checks", "constraints").out.splitlines()[-1] == f"Certificate: {pair[1] / FILE}"


def test_other_bytes_are_exit_code_1(run, pair: Pair) -> None:
    config = pair[1] / "config.json"
    config.write_text(config.read_text().replace("silu", "relu"))
    ran = run("verify", "--certificate", pair[1] / FILE)
    assert ran.code == 1
    assert ran.out.splitlines()[0] == "The certificate is of other files: grown differ from what was checked"
    assert "config.json: other bytes than were checked" in ran.out
    assert "FAILED" in ran.out


def test_a_failure_is_certified_and_exit_code_1(run, pair: Pair) -> None:
    weights = pair[1] / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-6] ^= 64
    weights.write_bytes(raw)
    assert run("verify", *pair, "--checks", "constraints").code == 1
    ran = run("verify", "--certificate", pair[1] / FILE)
    assert ran.code == 1
    assert ran.out.splitlines()[0].startswith("NOT preserved: constraints failed, when it was checked at ")


def test_an_edited_verdict_is_exit_code_1(run, pair: Pair) -> None:
    data = json.loads((pair[1] / FILE).read_text())
    data["checks"]["constraints"]["violations"] = [{"kind": "zero"}]
    (pair[1] / FILE).write_text(json.dumps(data))
    ran = run("verify", "--certificate", pair[1] / FILE)
    assert ran.code == 1
    assert ran.out.startswith("Not a valid certificate: constraints is said to pass, but constraints: 1 violations")


def test_none_is_exit_code_2(run, pair: Pair) -> None:
    (pair[1] / FILE).unlink()
    ran = run("verify", "--certificate", pair[1] / FILE)
    assert (ran.code, ran.out) == (2, "")
    assert "missing; growformer verify SOURCE GROWN writes one beside the grown weights" in ran.err
    assert run("verify").code == 2


def test_all_three_checks_are_certified(run, pair: Pair) -> None:
    ran = run("verify", *pair, "--checks", "constraints,outputs,trainability")
    assert ran.code == 0
    assert "new regions learn within 2 steps" in ran.out
    data = json.loads((pair[1] / FILE).read_text())
    assert [data["checks"][name]["ok"] for name in ("constraints", "outputs", "trainability")] == [True] * 3
    assert run("verify", "--certificate", pair[1]).code == 0
