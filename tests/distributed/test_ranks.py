"""Several processes grow one model: what every rank holds afterwards is what one process would have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.distributed.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]


def run(folder: Path, size: int, *names: str) -> None:
    """Run scenarios on some ranks, and fail with what the first of them raised."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_HUB_OFFLINE": "1",
                   "TRANSFORMERS_VERBOSITY": "error"}  # fmt: skip
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    logs = [folder / f"log-{size}-{rank}.txt" for rank in range(size)]
    processes = []
    for rank, log in enumerate(logs):
        command = [sys.executable, "-m", "tests.distributed.run", str(folder), str(rank), str(size), *names]
        with log.open("w") as output:
            processes.append(subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, env=environment))
    for process in processes:
        process.wait()
    outcomes = []
    for rank, log in enumerate(logs):
        file = folder / f"outcome-{size}-{rank}.json"
        outcomes.append(json.loads(file.read_text()) if file.exists() else {"start": log.read_text()})
    wrong = [
        f"{name} on rank {rank}:\n{said}"
        for rank, outcome in enumerate(outcomes)
        for name, said in outcome.items()
        if said
    ]
    assert not wrong, "\n\n".join(wrong)
    assert all(list(outcome) == list(names) for outcome in outcomes)


@pytest.mark.parametrize(
    "size", [1, pytest.param(2, marks=pytest.mark.distributed), pytest.param(4, marks=pytest.mark.distributed)]
)
def test_every_scenario(tmp_path: Path, size: int) -> None:
    run(tmp_path, size, *SCENARIOS[size])


@pytest.mark.distributed
def test_a_run_grown_on_2_ranks_goes_on_on_4(tmp_path: Path) -> None:
    run(tmp_path, 2, "grow_and_save")
    run(tmp_path, 4, "resume")


def test_a_scenario_that_fails_is_reported(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="AttributeError"):
        run(tmp_path, 1, "no_such_scenario")
