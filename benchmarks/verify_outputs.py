"""``python benchmarks/verify_outputs.py``: memory and time of the outputs check, in memory and from disk.

Writes a Llama of random weights (1.56 GB in float32), grows it on disk, and compares outputs of both in processes of
their own, whose largest resident set the kernel keeps. From disk, weights of one layer lie in memory at a time, in
float64 at most; the figure beside it is what a process takes that has imported everything. Smoke run: ``--tiny``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

SIZES = {"hidden_size": 1536, "intermediate_size": 6144, "num_attention_heads": 12, "num_key_value_heads": 12,
         "head_dim": 128, "num_hidden_layers": 9, "vocab_size": 16000}  # fmt: skip
TINY = {**SIZES, "hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 6, "num_key_value_heads": 6,
        "head_dim": 16, "vocab_size": 256}  # fmt: skip


def main() -> None:
    """Measure both ways, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a look at whether it runs")
    parser.add_argument("--positions", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written, and removed again")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("SOURCE", "GROWN", "HOW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.positions)))
        return
    sizes = TINY if options.tiny else SIZES
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, grown = Path(folder, "source"), Path(folder, "grown")
        write(source, sizes)
        import growformer

        growformer.grow_checkpoint(source, grown, num_hidden_layers=sizes["num_hidden_layers"] + 1)
        num_bytes = sum(f.stat().st_size for f in source.glob("*.safetensors"))
        rows = {how: run(source, grown, how, options.positions) for how in ("imports", "in memory", "from disk")}
    h, inner, vocabulary = sizes["hidden_size"], sizes["intermediate_size"], sizes["vocab_size"]
    heads = sizes["num_attention_heads"] * sizes["head_dim"]
    layer = 8 * (4 * h * heads + 3 * h * inner)
    machine = f"{os.cpu_count()} x {platform.machine()}"
    print(f"{machine}, {date.today()}: a Llama of {num_bytes / 1e9:.2f} GB, one layer in float64 {layer / 1e6:.0f} MB,")
    print(f"the head {8 * h * vocabulary / 1e6:.0f} MB; {options.positions} positions in float32")
    print("| how | largest resident set | above imports | time |")
    print("|---|---|---|---|")
    for how, row in rows.items():
        above = row["peak_bytes"] - rows["imports"]["peak_bytes"]
        print(f"| {how} | {row['peak_bytes'] / 1e6:,.0f} MB | {above / 1e6:,.0f} MB | {row['seconds']:.0f} s |")
    if options.out is not None:
        record = {"machine": machine, "date": str(date.today()), "bytes": num_bytes, "layer_bytes": layer, "rows": rows}
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def write(folder: Path, sizes: dict[str, int]) -> None:
    """Write a checkpoint of random weights, one shard per layer; no more than a layer lies in memory."""
    import torch
    import transformers
    from safetensors.torch import save_file

    folder.mkdir()
    config = transformers.LlamaConfig(**sizes, architectures=["LlamaForCausalLM"], dtype="float32")
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in transformers.LlamaForCausalLM(config).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    shards: dict[str, list[str]] = {}
    for name in shapes:
        part = name.split(".layers.")[1].split(".")[0] if ".layers." in name else "other"
        shards.setdefault(f"model-{part}.safetensors", []).append(name)
    for file, names in shards.items():
        tensors = {n: torch.randn(shapes[n], generator=generator) * 0.02 + (len(shapes[n]) == 1) for n in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, names in shards.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def run(source: Path, grown: Path, how: str, positions: int) -> dict[str, Any]:
    """Measure one way in a process of its own."""
    command = [sys.executable, __file__, "--one", str(source), str(grown), how, "--positions", str(positions)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def measure(source: str, grown: str, how: str, positions: int) -> dict[str, Any]:
    """Compare outputs in this process; return its largest resident set, time and figure."""
    import growformer
    from growformer.storage.folder import open_folder
    from growformer.verification import run_outputs  # noqa: F401
    from growformer.verification.from_disk import skeleton

    start = time.perf_counter()
    ratio = None
    if how == "imports":
        skeleton(open_folder(source))
    else:
        found = growformer.verify(
            source, grown, checks=["outputs"], lengths=[positions], generate=0, from_disk=how == "from disk"
        )
        found.raise_if_failed()
        assert found.outputs is not None
        ratio = found.outputs.comparisons[0].ratio
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"peak_bytes": peak, "seconds": time.perf_counter() - start, "ratio": ratio}


if __name__ == "__main__":
    main()
