"""Time and memory of growing checkpoints, as ratios to a plain stream copy of the same output bytes in the same run.

    python benchmarks/grow.py                             # the table: about 25 minutes and 45 GB of disk
    python benchmarks/grow.py --job "1.1B, 2 layers"      # one row
    python benchmarks/grow.py --tiny --runs 1             # a smoke run of every row, on tiny models
    python benchmarks/grow.py --peers VENV                # beside it, what else grows checkpoints

Every run is a whole process, start-up and the check of the config's class included. Runs of growformer and of the copy
alternate; the medians are compared. The copy reads and writes the output's bytes in 8 MiB pieces and syncs. Memory is
the largest sum of resident sets of the process and all that it starts, sampled every 10 ms, and the kernel's own peak
of the largest one of them (which is the check's, with torch and transformers in it).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

MODELS: dict[str, dict[str, int]] = {
    "1.1B": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
             "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32000},
    "4B": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 40, "num_attention_heads": 40,
           "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 32000},
    "tiny": {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 8,
             "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512},
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One row of the table.

    Attributes:
        model: the source.
        factor: the goal is at most factor * copy + seconds.
        seconds: see there.
        sizes: the target's sizes, as multiples of the source's (a number with a point) or increments.
    """

    model: str
    factor: float
    seconds: float
    sizes: dict[str, float | int]

    def options(self, model: dict[str, int]) -> list[str]:
        """Return what to ask of ``growformer grow``."""
        found = []
        for name, change in self.sizes.items():
            size = round(model[name] * change) if isinstance(change, float) else model[name] + change
            found += ["--" + name.replace("_", "-"), str(size)]
        return found


JOBS = {
    "1.1B, 2 layers": Job("1.1B", 1.25, 3, {"num_hidden_layers": 2}),
    "1.1B, hidden size × 2": Job("1.1B", 1.5, 3, {"hidden_size": 2.0}),
    "4B, all six": Job("4B", 1.5, 3, {
        "hidden_size": 1.125, "intermediate_size": 1.125, "num_attention_heads": 1.125, "num_key_value_heads": 1,
        "head_dim": 2.0, "num_hidden_layers": 1.1,
    }),
}  # fmt: skip
TINY = {
    "tiny, 2 layers": Job("tiny", 1.25, 3, {"num_hidden_layers": 2}),
    "tiny, hidden size × 2": Job("tiny", 1.5, 3, {"hidden_size": 2.0}),
    "tiny, all six": Job("tiny", 1.5, 3, {
        "hidden_size": 1.5, "intermediate_size": 1.5, "num_attention_heads": 1.5, "num_key_value_heads": 1,
        "head_dim": 2.0, "num_hidden_layers": 1.5,
    }),
}  # fmt: skip
PLAN, HELP = "671B, plan from the config", "growformer --help"

COPY = """
import os, sys
total = int(sys.argv[2])
piece = bytearray(8 << 20)
with open(sys.argv[1], "rb", buffering=0) as source, open(sys.argv[3], "wb", buffering=0) as target:
    while total:
        count = source.readinto(memoryview(piece)[: min(len(piece), total)])
        if not count:
            source.seek(0)
            continue
        target.write(memoryview(piece)[:count])
        total -= count
    os.fsync(target.fileno())
"""

SOURCE = """
import json, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(**json.loads(sys.argv[2]), dtype="bfloat16")
torch.set_default_dtype(torch.bfloat16)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
"""

DEEPSEEK = """
import sys
from transformers import DeepseekV3Config

DeepseekV3Config(architectures=["DeepseekV3ForCausalLM"], dtype="bfloat16").save_pretrained(sys.argv[1])
"""


@dataclass(frozen=True)
class Run:
    """What one process took.

    Attributes:
        seconds: of the clock on the wall.
        cpu: of all cores together.
        tree: largest sum of resident bytes of it and all that it starts.
        peak: largest resident bytes of a single one of them, as the kernel counts it.
    """

    seconds: float
    cpu: float
    tree: int
    peak: int


def measure(command: Sequence[str], environment: dict[str, str] | None = None) -> Run:
    """Run a command and watch it."""
    before = os.times()
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **(environment or {})}
    )
    largest, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            largest[0] = max(largest[0], sum(map(_resident, _tree(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stderr is not None
    trouble = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} failed:\n{trouble.decode(errors='replace')[-3000:]}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(seconds, cpu, max(largest[0], usage.ru_maxrss * 1024), usage.ru_maxrss * 1024)


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
        except OSError:
            continue
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def make(script: str, *arguments: str) -> None:
    """Run a script in a process of its own: a child counts the memory of what it was forked from as its own peak."""
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, stderr=subprocess.DEVNULL)


def grow_row(name: str, job: Job, source: Path, folder: Path, runs: int) -> dict[str, Any]:
    """Time growformer and the copy in turn."""
    out, copy = folder / "out", folder / "copy"
    command = [sys.executable, "-m", "growformer", "grow", str(source), str(out), *job.options(MODELS[job.model])]
    grown, copied, size = [], [], 0
    for _ in range(runs):
        grown.append(measure([*command, "--no-verify"]))
        size = sum(path.stat().st_size for path in out.glob("*.safetensors"))
        shard = next(source.glob("*.safetensors"))
        shutil.rmtree(out)
        copied.append(measure([sys.executable, "-c", COPY, str(shard), str(size), str(copy)]))
        copy.unlink()
    seconds, plain = (statistics.median(run.seconds for run in some) for some in (grown, copied))
    return {
        "job": name, "output_bytes": size, "seconds": round(seconds, 2), "copy_seconds": round(plain, 2),
        "ratio": round(seconds / plain, 2), "limit_seconds": round(job.factor * plain + job.seconds, 2),
        "goal": f"≤ {job.factor:g} × copy + {job.seconds:g} s", "met": seconds <= job.factor * plain + job.seconds,
        "cpu_seconds": round(statistics.median(run.cpu for run in grown), 2),
        "tree_bytes": max(run.tree for run in grown), "peak_bytes": max(run.peak for run in grown),
        "runs": [asdict(run) for run in grown], "copies": [asdict(run) for run in copied],
    }  # fmt: skip


def command_row(name: str, command: Sequence[str], limit: float, runs: int) -> dict[str, Any]:
    """Time a command that writes nothing."""
    found = [measure(command) for _ in range(runs)]
    seconds = statistics.median(run.seconds for run in found)
    return {
        "job": name, "seconds": round(seconds, 2), "limit_seconds": limit, "goal": f"≤ {limit:g} s",
        "met": seconds <= limit, "cpu_seconds": round(statistics.median(run.cpu for run in found), 2),
        "tree_bytes": max(run.tree for run in found), "peak_bytes": max(run.peak for run in found),
        "runs": [asdict(run) for run in found],
    }  # fmt: skip


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    print("| job | output | time | goal | copy | ratio | CPU | memory, all processes | largest process |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        copied = "copy_seconds" in row
        output = f"{row['output_bytes'] / 1e9:.2f} GB" if copied else "–"
        goal = f"{row['goal']} = {row['limit_seconds']} s" if copied else row.get("goal", "–")
        if "met" in row:
            goal += ", met" if row["met"] else ", missed"
        print(
            f"| {row['job']} | {output} | {row['seconds']} s | {goal} "
            f"| {row['copy_seconds'] if copied else '–'} | {row['ratio'] if copied else '–'} | {row['cpu_seconds']} s "
            f"| {row['tree_bytes'] / 1e6:.0f} MB | {row['peak_bytes'] / 1e6:.0f} MB |"
        )


def record(rows: Sequence[dict[str, Any]], runs: int) -> dict[str, Any]:
    """Return rows with what they were measured on."""
    names = ("growformer", "numpy", "torch", "transformers")
    about = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in about if line.startswith("model name")), "")
    return {
        "date": datetime.now(timezone.utc).date().isoformat(), "machine": platform.machine(), "cpu": cpu,
        "cores": os.cpu_count(), "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(), "python": platform.python_version(),
        "versions": {name: version(name) for name in names}, "runs": runs, "rows": rows,
    }  # fmt: skip


def main() -> None:
    """Run the benchmark and print a table; ``--out`` keeps it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--job", action="append", choices=[*JOBS, *TINY, PLAN, HELP], help="only this row; may be repeated"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny models instead, to see that it runs")
    parser.add_argument("--runs", type=int, default=5, help="of each command; the median counts")
    parser.add_argument("--out", type=Path, help="keep the result as JSON")
    parser.add_argument("--folder", type=Path, help="where to work, on the disk to be measured (default: temporary)")
    parser.add_argument(
        "--peers", type=Path, metavar="VENV", help="time other tools too; mergekit from this environment"
    )
    options = parser.parse_args()
    jobs = {**JOBS, **TINY}
    wanted = options.job or [*(TINY if options.tiny else JOBS), PLAN, HELP]
    rows = []
    with tempfile.TemporaryDirectory(prefix="growformer-benchmark-", dir=options.folder) as name:
        folder = Path(name)
        for row in wanted:
            if row == HELP:
                rows.append(command_row(row, [sys.executable, "-m", "growformer", "--help"], 0.5, options.runs))
            elif row == PLAN:
                make(DEEPSEEK, str(folder / "deepseek"))
                config = str(folder / "deepseek" / "config.json")
                command = [sys.executable, "-m", "growformer", "plan", config, "--num-hidden-layers", "64"]
                rows.append(command_row(row, command, 5, options.runs))
            else:
                source = folder / jobs[row].model
                if not source.exists():
                    for other in jobs.values():  # one source at a time fits on the disk
                        shutil.rmtree(folder / other.model, ignore_errors=True)
                    make(SOURCE, str(source), json.dumps(MODELS[jobs[row].model]))
                rows.append(grow_row(row, jobs[row], source, folder, options.runs))
            print(f"{row}: {rows[-1]['seconds']} s", file=sys.stderr, flush=True)
        if options.peers:
            import peers

            model = "tiny" if options.tiny else "1.1B"
            if not (folder / model).exists():
                make(SOURCE, str(folder / model), json.dumps(MODELS[model]))
            rows += peers.rows(folder / model, MODELS[model], folder / "out", options.peers, options.runs, measure)
    show(rows)
    if options.out:
        options.out.write_text(json.dumps(record(rows, options.runs), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
