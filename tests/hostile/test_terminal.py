"""Names and values that would speak to a terminal are spelled out where the command line prints them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.hostile.samples import file_of, header_of, tensors, write

from growformer.cli import render
from growformer.cli.main import main

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31m\u202edesrever\u2066\x9b1m\r\x7f\u2028\ud800"
SPELLED = r"\x1b]0;owned\x07\x1b[2J\x1b[31m\u202edesrever\u2066\x9b1m\x0d\x7f\u2028\ud800"


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capfd.readouterr()
    code = main([str(a) for a in arguments])
    captured = capfd.readouterr()
    text = captured.out + captured.err
    assert all(c.isprintable() or c == "\n" for c in text), repr(text)
    return code, text


def test_what_is_spelled_out_and_what_stays() -> None:
    assert render.escaped(HOSTILE) == SPELLED
    for text in ("größe 日本語 עברית 2 × 3", "👩\u200d👧", "می\u200cخواهم", "a\nb", "no\N{NO-BREAK SPACE}break"):
        assert render.escaped(text) == text
    assert render.escaped("a\nb\t", keep="") == r"a\x0ab\x09"
    assert render.escaped("\U000e0041") == r"\U000e0041"


def test_json_stays_json(capfd: pytest.CaptureFixture[str]) -> None:
    data = {HOSTILE.replace("\ud800", "é"): [HOSTILE.replace("\ud800", "\n日本語")]}
    render.print_json(data)
    out = capfd.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert json.loads(out) == data
    assert "日本語" in out


def test_names_of_tensors(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = write(tmp_path / "model")
    name = "\u202eexe.thgiew"
    (model / "model.safetensors").write_bytes(file_of(header_of({**tensors("llama"), name: ((1,), "int8")})))
    code, text = run(capfd, "inspect", model)
    assert code == 2
    assert r"\u202eexe.thgiew" in text
    (model / "model.safetensors").write_bytes(file_of(header_of({**tensors("llama"), "\x1b[2J": ((1,), "int8")})))
    assert run(capfd, "inspect", model)[0] == 2


@pytest.mark.parametrize("field", ["model_type", "architectures", "some_field", "rms_norm_eps", "dtype"])
def test_values_of_configs(capfd: pytest.CaptureFixture[str], tmp_path: Path, field: str) -> None:
    model = write(tmp_path / "model", **{field: [HOSTILE] if field == "architectures" else HOSTILE})
    for command in (
        ["inspect", model], ["inspect", model, "--json"], ["inspect", model / "config.json"],
        ["plan", model, "--intermediate-size", 14], ["grow", model, tmp_path / "out", "--intermediate-size", 14],
    ):  # fmt: skip
        assert run(capfd, *command)[0] in (0, 1, 2)


def test_names_of_files_and_folders(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = write(tmp_path / "\x1b[31mred\u202e")
    (model / "\x1b[2J.txt").write_text("carried")
    for command in (
        ["inspect", model], ["plan", model, "--intermediate-size", 14], ["inspect", f"{model}\x1b[2J"],
        ["grow", model, tmp_path / "out", "--intermediate-size", 14], ["verify", model, tmp_path / "out"],
    ):  # fmt: skip
        assert run(capfd, *command)[0] in (0, 1, 2)
    assert (tmp_path / "out" / "\x1b[2J.txt").read_text() == "carried"


def test_tracebacks(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError(HOSTILE.replace("\ud800", ""))

    monkeypatch.setattr("growformer.api.inspect", fail)
    code, text = run(capfd, "inspect", write(tmp_path / "model"))
    assert code == 70
    assert r"\x1b[2J" in text


def test_in_another_process(tmp_path: Path) -> None:
    """As a user sees it: one message, no traceback, exit code 2."""
    model = write(tmp_path / "model", architectures=[HOSTILE.replace("\ud800", "")], rms_norm_eps="\x1b[2J")
    done = subprocess.run(
        [sys.executable, "-m", "growformer", "inspect", str(model)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert all(c.isprintable() or c == "\n" for c in done.stderr)
