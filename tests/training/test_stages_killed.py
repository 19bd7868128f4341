"""Staged runs in a process of their own, killed by SIGKILL at random moments until they come to their end."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import transformers

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.training.test_stages import run
print("started", flush=True)
sys.stdout = sys.stderr
run(Path(sys.argv[1]))
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # its imports are over when it says so
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT)), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == b"started\n"
    return process


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    process, began = start(tmp_path / "whole"), time.monotonic()
    assert process.wait() == 0
    whole = time.monotonic() - began
    moments = random.Random(20)
    kills = 0
    for _ in range(6):
        process = start(tmp_path / "killed")
        try:
            process.wait(moments.uniform(0, 0.7 * whole))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    else:
        assert start(tmp_path / "killed").wait() == 0
    assert kills > 0
    ends = [transformers.LlamaForCausalLM.from_pretrained(tmp_path / n / "checkpoint-14") for n in ("whole", "killed")]
    from tests.training.runs import same

    assert same(*ends)
    first, second = ((tmp_path / n / "checkpoint-14" / "growth_log.json").read_bytes() for n in ("whole", "killed"))
    assert first == second
    assert not list((tmp_path / "killed").glob("*.part"))
