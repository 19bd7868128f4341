"""Staged runs in processes of their own: killed by SIGKILL at random moments, and two that train together."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import transformers
from tests.training.runs import LENGTH

import growformer

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


@pytest.mark.slow
def test_two_ranks_grow_together(tmp_path: Path) -> None:
    for port, (folder, kill) in enumerate([("whole", None), ("killed", 5), ("killed", None)], 29_600):
        program = PROGRAM.format(root=str(ROOT)).replace("run(Path(sys.argv[1]))", f"run(Path(sys.argv[1]), {kill})")
        together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path / folder)],
                env={**os.environ, **together, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        said = [rank.communicate()[1] for rank in ranks]
        assert ["Killed" in text for text in said] == [kill is not None] * 2, said[0][-2000:]
        assert [rank.returncode for rank in ranks] == [int(kill is not None)] * 2, said[0][-2000:]
    from tests.training.runs import same

    ends = [transformers.LlamaForCausalLM.from_pretrained(tmp_path / n / "checkpoint-14") for n in ("whole", "killed")]
    assert same(*ends)
    log = growformer.GrowthLog.load(tmp_path / "whole" / "checkpoint-14")
    assert [event.stage for event in log.events] == [1, 2, 3]
    assert log.to_json() == growformer.GrowthLog.load(tmp_path / "killed" / "checkpoint-14").to_json()
    assert log.events[0].tokens == 4 * 2 * 2 * LENGTH  # of both ranks
