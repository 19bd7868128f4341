"""Time and memory of `growformer grow`, as a ratio to a plain stream copy of the same output bytes in the same run.

    python benchmarks/grow.py --size 1.1B --runs 3        # about 5 minutes and 12 GB of disk
    python benchmarks/grow.py --size tiny --runs 1        # a smoke run

Both are whole processes, start-up included. The copy reads and writes the output's bytes in 8 MiB pieces and syncs.
Peak memory is the largest resident set of the process, as the kernel counts it.
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
import time
from datetime import datetime, timezone
from pathlib import Path

SIZES = {
    "tiny": {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152},
    "1.1B": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
             "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32000},
}  # fmt: skip

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
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(sys.argv[1])
"""


def make_source(folder: Path, sizes: dict[str, int]) -> None:
    """Write a random bfloat16 Llama checkpoint of these sizes, in a process of its own.

    A child counts the memory of the process that it was forked from as its own peak, so this one stays small.
    """
    subprocess.run(
        [sys.executable, "-c", SOURCE, str(folder), json.dumps(sizes)], check=True, stderr=subprocess.DEVNULL
    )


def measure(command: list[str]) -> tuple[float, int]:
    """Run a command; return its wall seconds and peak resident bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} failed:\n{error.decode()}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> None:
    """Run the benchmark and print a table; ``--out`` keeps it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="135M")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep the result as JSON")
    parser.add_argument("--folder", type=Path, help="where to work, on the disk to be measured (default: temporary)")
    options = parser.parse_args()
    sizes = SIZES[options.size]
    group = sizes["num_attention_heads"] // sizes["num_key_value_heads"]
    jobs = {
        "two layers": ["--num-hidden-layers", str(sizes["num_hidden_layers"] + 2)],
        "hidden size × 2": ["--hidden-size", str(2 * sizes["hidden_size"])],
        "all at once × 1.25": [
            "--hidden-size", str(sizes["hidden_size"] * 5 // 4),
            "--intermediate-size", str(sizes["intermediate_size"] * 5 // 4),
            "--num-attention-heads", str(group * (sizes["num_key_value_heads"] + 1)),
            "--num-key-value-heads", str(sizes["num_key_value_heads"] + 1),
            "--num-hidden-layers", str(sizes["num_hidden_layers"] * 5 // 4),
        ],
    }  # fmt: skip
    rows = []
    with tempfile.TemporaryDirectory(prefix="growformer-benchmark-", dir=options.folder) as name:
        folder = Path(name)
        make_source(folder / "source", sizes)
        for job, arguments in jobs.items():
            grow_runs, copy_runs = [], []
            for _ in range(options.runs):
                out = folder / "out"
                command = [sys.executable, "-m", "growformer", "grow", str(folder / "source"), str(out), *arguments]
                grow_runs.append(measure([*command, "--no-verify"]))
                size = sum(p.stat().st_size for p in out.glob("*.safetensors"))
                shard = next((folder / "source").glob("*.safetensors"))
                shutil.rmtree(out)
                copy_runs.append(measure([sys.executable, "-c", COPY, str(shard), str(size), str(folder / "copy")]))
                (folder / "copy").unlink()
            grow_seconds = statistics.median(seconds for seconds, _ in grow_runs)
            copy_seconds = statistics.median(seconds for seconds, _ in copy_runs)
            rows.append(
                {
                    "job": job, "output_bytes": size,
                    "grow_s": round(grow_seconds, 2), "copy_s": round(copy_seconds, 2),
                    "ratio": round(grow_seconds / copy_seconds, 2),
                    "peak_bytes": max(peak for _, peak in grow_runs),
                }
            )  # fmt: skip
    print(f"| {options.size} Llama, bfloat16 | output | grow | copy | ratio | peak memory |\n|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['job']} | {row['output_bytes'] / 1e9:.2f} GB | {row['grow_s']} s | {row['copy_s']} s "
            f"| {row['ratio']} | {row['peak_bytes'] / 1e6:.0f} MB |"
        )
    if options.out:
        record = {
            "date": datetime.now(timezone.utc).date().isoformat(), "machine": platform.machine(),
            "cores": os.cpu_count(), "python": platform.python_version(), "size": options.size, "runs": options.runs,
            "rows": rows,
        }  # fmt: skip
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
