"""The program around the commands: help, version, what it imports, errors, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from growformer.cli import main as cli
from growformer.errors import VerificationError

HEAVY = ("torch", "transformers", "numpy", "yaml", "safetensors", "huggingface_hub")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom growformer.cli.main import main\nassert main(['--help']) == 0\n"
        "assert 'pydantic' not in sys.modules\n"  # typer itself may want it for a command's options
        f"assert main(['plan', '--help']) == 0\nprint('HEAVY', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


def test_python_m_growformer() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "growformer", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"growformer {version('growformer')}\n", "")
    done = subprocess.run([sys.executable, "-m", "growformer", "inspct"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: no such command 'inspct'" in done.stderr
    assert "inspect" in done.stderr


def test_no_arguments_is_help(run) -> None:
    ran = run()
    assert ran.code == 0
    assert "inspect" in ran.out
    assert "Exit codes" in ran.out


@pytest.mark.parametrize("command", ["inspect", "plan", "grow", "verify"])
def test_every_help_has_an_example(run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0
    assert f"$ growformer {command} " in ran.out
    assert "--json" in ran.out


def test_help_groups_options(run) -> None:
    for command in ("plan", "grow"):
        out = run(command, "--help").out
        for group in ("Sizes", "New layers and weights", "Result", "Source"):
            assert group in out
        assert "growth" not in out.split("Options")[0].lower().replace("what a growth would do", "")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (VerificationError("not the same"), 1, "error: not the same\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; nothing unfinished was left behind\n"),
        (PermissionError(13, "Permission denied", "here/x"), 2, "error: here/x: Permission denied\n"),
        (OSError("strange"), 2, "error: strange\n"),
    ],
)
def test_exit_codes(run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("growformer.api.inspect", fail)
    monkeypatch.setattr("growformer.cli.request.open_source", lambda *a, **k: None)
    ran = run("inspect", "x")
    assert (ran.code, ran.out, ran.err) == (code, "", message)


def test_a_bug_is_not_taken_for_a_failed_check(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("growformer.cli.request.open_source", lambda *a, **k: 1 / 0)
    ran = run("inspect", "x")
    assert ran.code == 70
    assert "Traceback" in ran.err
    assert "this is a bug in growformer" in ran.err


def test_brackets_in_messages_survive(run, tmp_path: Path) -> None:
    ran = run("inspect", tmp_path / "a[bold]b[red][/]")
    assert ran.err.startswith(f"error: {tmp_path}/a[bold]b[red][/]: no such folder")


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_errors_wrap_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    message = (
        "some/long/path/to/a-model: the tensors do not fit:\n  missing model.layers.0.self_attn.q_proj.weight "
        "[and more] --max-shard-size"
    )
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    cli._complain(message)
    text = capsys.readouterr().err
    assert text.split() == ["error:", *message.split()]
    assert all(len(line) <= width or " " not in line.strip() for line in text.splitlines())
    assert any(line.startswith("  missing") for line in text.splitlines())


def test_errors_are_one_line_in_a_pipe(run, tmp_path: Path) -> None:
    ran = run("inspect", tmp_path / ("x" * 60 + " " + "y" * 60))
    assert ran.err.count("\n") == 1


def test_sigterm_cleans_up(run, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from growformer.execute.fill import BandFiller

    before = signal.getsignal(signal.SIGTERM)
    sent: list[bool] = []

    def terminate(self: BandFiller, *arguments: object) -> None:
        assert len(list(tmp_path.iterdir())) == 1  # the unfinished output is there
        if not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)

    monkeypatch.setattr(BandFiller, "fill", terminate)
    with pytest.raises(SystemExit) as stopped:
        run("grow", models["llama"], tmp_path / "out", "--hidden-size", 30)
    assert stopped.value.code == 143
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
