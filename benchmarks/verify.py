"""Time and memory of the constraints check, as a ratio to a plain read of both checkpoints in the same run.

    python benchmarks/verify.py                    # the table: a few minutes and 10 GB of disk
    python benchmarks/verify.py --job "1.1B, 2 layers"
    python benchmarks/verify.py --size tiny --runs 1      # a smoke run, on tiny models

One process per row reads both checkpoints in 8 MiB pieces and verifies them in turn, several times, each time with the
files out of the page cache (``--warm``: in it). The best of each are compared, as whatever else the machine does
only adds. The import of torch is not counted; memory is the kernel's own peak of the process, with torch in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow import MODELS, SOURCE, make, record

SIZES = {
    **MODELS,
    "0.4B": {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 16,
             "num_key_value_heads": 4, "head_dim": 96, "vocab_size": 32000},
}  # fmt: skip


@dataclass(frozen=True)
class Growth:
    """One row.

    Attributes:
        sizes: the target's sizes, as multiples of the source's (a number with a point) or increments.
        plain: whether growformer.json is taken away, and the record inferred.
    """

    sizes: dict[str, float | int]
    plain: bool = False

    def options(self, model: dict[str, int]) -> list[str]:
        """Return what to ask of ``growformer grow``."""
        found = []
        for name, change in self.sizes.items():
            size = round(model[name] * change) if isinstance(change, float) else model[name] + change
            found += ["--" + name.replace("_", "-"), str(size)]
        return found


ALL = {
    "hidden_size": 1.5, "intermediate_size": 1.25, "num_attention_heads": 2.0, "num_key_value_heads": 2.0,
    "head_dim": 2.0, "num_hidden_layers": 2,
}  # fmt: skip
JOBS = {
    "2 layers": Growth({"num_hidden_layers": 2}),
    "2 layers, record inferred": Growth({"num_hidden_layers": 2}, plain=True),
    "hidden size × 1.25": Growth({"hidden_size": 1.25}),
    "hidden size × 1.25, record inferred": Growth({"hidden_size": 1.25}, plain=True),
    "all six": Growth(ALL),
}

CHILD = """
import json, os, sys, time
from pathlib import Path
from growformer.api import verify
import torch, growformer.execute.provenance, growformer.verification.run_constraints

source, grown, runs, warm = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "warm"
files = [f for folder in (source, grown) for f in sorted(Path(folder).glob("*.safetensors"))]

def forget():
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_NORMAL if warm else os.POSIX_FADV_DONTNEED)
        os.close(descriptor)

def read():
    piece, total = bytearray(8 << 20), 0
    for file in files:
        with open(file, "rb", buffering=0) as handle:
            while count := handle.readinto(piece):
                total += count
    return total

plain, checked, cpu = [], [], []
for _ in range(runs):
    forget()
    start = time.perf_counter()
    total = read()
    plain.append(time.perf_counter() - start)
    forget()
    start, busy = time.perf_counter(), time.process_time()
    found = verify(source, grown, checks=["constraints"])
    checked.append(time.perf_counter() - start)
    cpu.append(time.process_time() - busy)
    assert found.ok, str(found)
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"plain": plain, "checked": checked, "cpu": cpu, "bytes": total, "peak": int(peak.split()[1]) * 1024,
                  "values": found.constraints.to_json()["values"], "record": found.constraints.record}))
"""


def verify_row(name: str, growth: Growth, size: str, folder: Path, runs: int, warm: bool) -> dict[str, Any]:
    """Grow, then read and verify in turn."""
    source, out = folder / size, folder / "out"
    options = growth.options(SIZES[size])
    command = [sys.executable, "-m", "growformer", "grow", str(source), str(out), *options, "--no-verify"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if growth.plain:
        (out / "growformer.json").unlink()
    arguments = [str(source), str(out), str(runs), "warm" if warm else "cold"]
    ran = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True)
    shutil.rmtree(out)
    if ran.returncode:
        raise SystemExit(f"{name}: {ran.stderr[-3000:]}")
    found = json.loads(ran.stdout.splitlines()[-1])
    seconds, plain = min(found["checked"]), min(found["plain"])
    return {
        "job": f"{size}, {name}", "cache": "warm" if warm else "cold", "read_bytes": found["bytes"],
        "seconds": round(seconds, 3), "read_seconds": round(plain, 3), "ratio": round(seconds / plain, 2),
        "goal": "≤ 1.3 × read, ≤ 600 MB", "met": seconds <= 1.3 * plain and found["peak"] <= 600_000_000,
        "cpu_seconds": round(min(found["cpu"]), 2), "peak_bytes": found["peak"], "record": found["record"],
        "values": found["values"], "runs": found["checked"], "reads": found["plain"],
    }  # fmt: skip


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    print("| job | both checkpoints | page cache | check | plain read | ratio | CPU | peak memory |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['job']} | {row['read_bytes'] / 1e9:.2f} GB | {row['cache']} | {row['seconds']} s "
            f"| {row['read_seconds']} s | {row['ratio']}{', met' if row['met'] else ', missed'} "
            f"| {row['cpu_seconds']} s | {row['peak_bytes'] / 1e6:.0f} MB |"
        )


def main() -> None:
    """Run the benchmark and print a table; ``--out`` keeps it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", action="append", choices=list(JOBS), help="only this row; may be repeated")
    parser.add_argument("--size", choices=list(SIZES), default="1.1B", help="of the source")
    parser.add_argument("--runs", type=int, default=5, help="of each; the best counts")
    parser.add_argument("--warm", action="store_true", help="leave the files in the page cache")
    parser.add_argument("--out", type=Path, help="keep the result as JSON")
    parser.add_argument("--folder", type=Path, help="where to work, on the disk to be measured (default: temporary)")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="growformer-benchmark-", dir=options.folder) as name:
        folder = Path(name)
        make(SOURCE, str(folder / options.size), json.dumps(SIZES[options.size]))
        for job in options.job or JOBS:
            rows.append(verify_row(job, JOBS[job], options.size, folder, options.runs, options.warm))
            print(f"{job}: {rows[-1]['seconds']} s", file=sys.stderr, flush=True)
    show(rows)
    if options.out:
        options.out.write_text(json.dumps(record(rows, options.runs), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
