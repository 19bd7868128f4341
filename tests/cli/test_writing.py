"""How checkpoints are written, as a user meets it: a real process, stopped, limited, and asked for odd things."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.support import contents

GROW = ["--hidden-size", "36", "--num-attention-heads", "9", "--num-key-value-heads", "3"]


def listen() -> None:
    """Let Ctrl-C reach a process, whatever runs the tests: what a shell starts in the background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(arguments: list[str], **options: object) -> subprocess.Popen[str]:
    options.setdefault("preexec_fn", listen)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "growformer", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment, **options,
    )  # fmt: skip


def test_ctrl_c_ends_within_a_second_and_the_same_command_goes_on(llama: Path, tmp_path: Path) -> None:
    out, hidden = tmp_path / "out", tmp_path / ".out.partial"
    arguments = ["grow", str(llama), str(out), *GROW, "--max-shard-size", "5KB"]
    process = start(arguments)
    while not list(hidden.glob("*.safetensors")) or not json.loads((hidden / "journal.json").read_text())["finished"]:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    # The shards are there; the check of the target config by the class still imports transformers.
    stopped = time.perf_counter()
    process.send_signal(signal.SIGINT)
    said, trouble = process.communicate(timeout=60)
    waited = time.perf_counter() - stopped
    assert process.returncode == 130
    assert waited < 10  # a second on an idle machine; no test measures time
    assert said == ""
    assert trouble.startswith("error: interrupted; the ")
    assert f"shards that are finished stay in {hidden}: the same command goes on from there" in trouble
    assert trouble.count("\n") == 1
    again = start(arguments)
    said, trouble = again.communicate(timeout=120)
    assert again.returncode == 0, trouble
    assert "An earlier run had finished" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama", "out"]


def test_a_file_size_limit_is_one_error(llama: Path, tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))

    process = start(["grow", str(llama), str(tmp_path / "out"), *GROW], preexec_fn=limited)
    _, trouble = process.communicate(timeout=120)
    assert process.returncode == 2
    assert trouble.startswith(f"error: {tmp_path / 'out'}: cannot be written: File too large (")
    assert trouble.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["llama"]


def test_a_parent_without_permission_is_one_error(run, llama: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    ran = run("grow", llama, closed / "out", *GROW)
    assert ran.code == 2
    assert f"no permission to write in {closed}" in ran.err


def test_threads_and_digests(run, llama: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        assert run("grow", llama, tmp_path / f"out{threads}", *GROW, "--threads", threads).code == 0
    assert contents(tmp_path / "out1") == contents(tmp_path / "out3")
    ran = run("verify", tmp_path / "out1", "--digests")
    assert ran.code == 0
    assert ran.out == "shard              digest\nmodel.safetensors  ok\n"
    ran = run("verify", llama, tmp_path / "out1", "--digests", "--checks", "constraints")
    assert ran.code == 0
    assert ran.out.startswith("Digests: 1 shard is as it was written")
    assert run("verify", tmp_path / "out1", "--digests", "--json").json()["digests"]["ok"] is True
    with (tmp_path / "out1" / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    ran = run("verify", tmp_path / "out1", "--digests")
    assert ran.code == 1
    assert "other bytes than were written" in ran.out
    assert run("verify", llama, tmp_path / "out1", "--digests").code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grow", "{llama}", "{out}", *GROW, "--threads", "0"], "error: 0 threads: expected 1 or more\n"),
        (["verify", "{llama}"], "error: name the grown checkpoint too, as in growformer verify MODEL OUT"),
        (
            ["verify", "{llama}", "--digests"],
            "growformer.json: missing; only a checkpoint written by",
        ),
    ],
)
def test_wrong_options_are_one_error(run, llama: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    ran = run(*(a.format(llama=llama, out=tmp_path / "out") for a in arguments))
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["llama"]


def test_code_stays_behind_unless_it_is_asked_for(run, llama: Path, tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    (llama / "modeling_own.py").write_text(f"open({str(trap)!r}, 'w')\n")
    config = json.loads((llama / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.Own"}
    (llama / "config.json").write_text(json.dumps(config))
    ran = run("grow", llama, tmp_path / "without", *GROW)
    assert ran.code == 0
    assert "modeling_own.py: code; a stock class loads the result (--keep-code carries it, unread)" in ran.out
    assert not (tmp_path / "without" / "modeling_own.py").exists()
    assert "auto_map" not in json.loads((tmp_path / "without" / "config.json").read_text())
    assert run("grow", llama, tmp_path / "with", *GROW, "--keep-code").code == 0
    assert (tmp_path / "with" / "modeling_own.py").read_bytes() == (llama / "modeling_own.py").read_bytes()
    assert json.loads((tmp_path / "with" / "config.json").read_text())["auto_map"] == config["auto_map"]
    assert not trap.exists()


def test_modules_in_the_working_folder_are_not_imported(llama: Path, tmp_path: Path) -> None:
    """The check of the target config runs in a process of its own, which must not import from a checkpoint's folder."""
    trap = tmp_path / "executed"
    for name in ("torch", "transformers"):
        (llama / f"{name}.py").write_text(f"open({str(trap)!r}, 'w')\n")
    entry = shutil.which("growformer", path=str(Path(sys.executable).parent))
    assert entry is not None
    ran = subprocess.run(
        [entry, "grow", ".", str(tmp_path / "out"), *GROW, "--no-verify"], cwd=llama, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert not trap.exists()
