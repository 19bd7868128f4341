"""Peak memory per rank of growing an FSDP2 model, against the bound: own shards of both models and one gathered tensor.

    python benchmarks/distributed.py                    # 2 ranks, 0.2B -> 0.4B parameters, gloo: about two minutes
    python benchmarks/distributed.py --ranks 4
    python benchmarks/distributed.py --tiny             # a smoke run of the last row

Every rank is a process. Memory is the kernel's peak of its resident set while it grows (reset before), less what it had
before any model was made, warmed up by growing a tiny one. The bound counts the rank's shards of parameters and
optimizer state of source and target, and the largest source tensor whole. ``whole`` is what a rank would hold that
gathered the source's state dict and cut its own shards from the whole grown one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

SOURCE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 10, "num_attention_heads": 16,
          "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 40000}  # fmt: skip
TARGET = {"hidden_size": 1344, "intermediate_size": 3520, "num_hidden_layers": 14, "num_attention_heads": 24}
TINY = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300}  # fmt: skip
TINY_TARGET = {"hidden_size": 72, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 6}
CASES = {
    "parameters": {"optimizer": False, "free_source": False},
    "parameters, source freed": {"optimizer": False, "free_source": True},
    "with AdamW": {"optimizer": True, "free_source": False},
    "with AdamW, source freed": {"optimizer": True, "free_source": True},
}


def resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status; this benchmark needs Linux")


def shard(model: Any) -> Any:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def sharded_source(sizes: dict[str, int]) -> Any:
    """Make a sharded model of random parameters without ever holding a whole one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from growformer.execute.empty import parameters_on_meta

    with parameters_on_meta():
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))
    shard(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to_empty(device="cpu")
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.to_local().normal_(std=0.02)
    return model


def measure(sizes: dict[str, int], target: dict[str, int], *, optimizer: bool, free_source: bool) -> dict[str, int]:
    import torch

    import growformer

    own = resident("VmRSS")
    model = sharded_source(sizes)
    used = torch.optim.AdamW(model.parameters(), lr=1e-3) if optimizer else None
    if used is not None:
        for parameter in model.parameters():
            used.state[parameter] = {"step": torch.tensor(1.0), "exp_avg": torch.ones_like(parameter),
                                     "exp_avg_sq": torch.ones_like(parameter)}  # fmt: skip

    def held(some: Any, *, whole: bool = False) -> int:
        of = list(some.parameters())
        count = sum(p.numel() if whole else p.to_local().numel() for p in of)
        return count * of[0].element_size() * (3 if optimizer else 1)

    largest = max(p.numel() * p.element_size() for p in model.parameters())
    before, before_whole = held(model), held(model, whole=True)
    Path("/proc/self/clear_refs").write_text("5")
    options = {"parallelize": shard, "free_source": free_source, **target}
    grown = growformer.grow(model, **options) if used is None else growformer.grow(model, optimizer=used, **options)[0]
    peak = resident("VmHWM") - own
    bound = before + held(grown) + largest
    return {"peak_bytes": peak, "bound_bytes": bound, "whole_bytes": before_whole + held(grown, whole=True)}


def work(folder: Path, rank: int, size: int, case: str, tiny: bool) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    measure(TINY, TINY_TARGET, **CASES[case])
    found = measure(TINY if tiny else SOURCE, TINY_TARGET if tiny else TARGET, **CASES[case])
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", nargs=3, metavar=("FOLDER", "RANK", "CASE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(Path(given.work[0]), int(given.work[1]), given.ranks, given.work[2], given.tiny)
        return 0
    rows: list[dict[str, Any]] = []
    print(f"{'case':28} {'rank':>4} {'peak':>10} {'bound':>10} {'ratio':>6} {'whole':>10}")
    for case in list(CASES)[-1:] if given.tiny else CASES:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--ranks", str(given.ranks), *(["--tiny"] if given.tiny else [])]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            started = [
                subprocess.Popen([*command, "--work", folder, str(rank), case], env=environment)
                for rank in range(given.ranks)
            ]
            if any(process.wait() for process in started):
                return 1
            for rank in range(given.ranks):
                found = json.loads((Path(folder) / f"{rank}.json").read_text())
                row = {"case": case, "rank": rank, **found, "ratio": found["peak_bytes"] / found["bound_bytes"]}
                rows.append(row)
                peak, bound, whole = (
                    f"{row[name] / 1e6:,.0f} MB" for name in ("peak_bytes", "bound_bytes", "whole_bytes")
                )
                print(f"{case:28} {rank:>4} {peak:>10} {bound:>10} {row['ratio']:>6.2f} {whole:>10}", flush=True)
    if given.out:
        record = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": platform.platform(),
            "ranks": given.ranks,
            "versions": {name: version(name) for name in ("growformer", "torch", "transformers")},
            "rows": rows,
        }
        given.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
