"""The output's bytes depend on source, plan and options alone: not on threads, ranks, or the order of work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import growformer

REQUEST: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 101, "num_hidden_layers": 5}
OPTIONS = ["--hidden-size", "48", "--intermediate-size", "101", "--num-hidden-layers", "5", "--max-shard-size", "40KB"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def tensors(folder: Path) -> dict[str, bytes]:
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= {name: value.numpy().tobytes() for name, value in load_file(file).items()}
    return found


@pytest.fixture
def alone(llama: Path, tmp_path: Path) -> dict[str, bytes]:
    """Return the files that one thread of one process writes."""
    growformer.grow_checkpoint(llama, tmp_path / "alone", threads=1, max_shard_bytes=40_000, **REQUEST)
    found = files(tmp_path / "alone")
    assert sum(name.endswith(".safetensors") for name in found) > 3
    return found


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("threads", [2, 4, 13])
def test_threads(llama: Path, tmp_path: Path, alone: dict[str, bytes], threads: int) -> None:
    for attempt in range(3):
        out = tmp_path / f"out{attempt}"
        growformer.grow_checkpoint(llama, out, threads=threads, max_shard_bytes=40_000, **REQUEST)
        assert files(out) == alone


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks(llama: Path, tmp_path: Path, alone: dict[str, bytes], ranks: int) -> None:
    ran = torchrun(ranks, [str(llama), str(tmp_path / "out"), *OPTIONS])
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("Load it") == 1
    assert files(tmp_path / "out") == alone


def test_an_error_on_one_rank_ends_all(llama: Path, tmp_path: Path) -> None:
    broken = (
        "import os\n"
        "from growformer.storage import disk\n"
        "if os.environ.get('RANK') == '1':\n"
        "    def fail(*arguments): raise OSError(5, 'Input/output error')\n"
        "    disk._pwrite = fail\n"
        "from growformer.cli.main import main\n"
        "raise SystemExit(main())\n"
    )
    (tmp_path / "broken.py").write_text(broken)
    ran = torchrun(2, [str(llama), str(tmp_path / "out"), *OPTIONS], script=tmp_path / "broken.py")
    assert ran.returncode != 0
    assert "cannot be written: Input/output error" in ran.stderr
    assert "rank 1 failed, so nothing was published" in ran.stderr
    assert (
        'Traceback (most recent call last):\n  File "' not in ran.stderr.split("ChildFailedError")[0].split("torch/")[0]
    )
    assert not (tmp_path / "out").exists()


def test_shard_sizes(llama: Path, tmp_path: Path) -> None:
    found = {}
    for size in (1, 10_000, 10**9):
        out = tmp_path / f"out{size}"
        growformer.grow_checkpoint(llama, out, max_shard_bytes=size, **REQUEST)
        found[size] = tensors(out)
        shards = list(out.glob("*.safetensors"))
        assert len(shards) == {1: len(found[size]), 10**9: 1}.get(size, len(shards))
        regions = [json.loads((out / "growformer.json").read_text())[key] for key in ("tensors", "new_regions")]
        found[size]["record"] = json.dumps(regions).encode()
    assert found[1] == found[10_000] == found[10**9]


def test_another_seed_gives_other_bytes(llama: Path, tmp_path: Path, alone: dict[str, bytes]) -> None:
    growformer.grow_checkpoint(llama, tmp_path / "out", max_shard_bytes=40_000, seed=1, **REQUEST)
    assert files(tmp_path / "out") != alone


def torchrun(ranks: int, arguments: list[str], *, script: Path | None = None) -> subprocess.CompletedProcess[str]:
    what = ["-m", "growformer"] if script is None else [str(script)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "grow", *arguments], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
