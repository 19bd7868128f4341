"""Memory and time of the trainability check, against what is estimated from shapes before anything is loaded.

    python benchmarks/trainability.py            # SmolLM2-135M's sizes, random weights, grown to 264M: needs 4 GB
    python benchmarks/trainability.py --tiny     # a smoke run

The peak is the kernel's, reset once the model is there. It counts Python and its libraries; the estimate does not.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

SOURCE = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
          "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}  # fmt: skip
TARGET = {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12, "num_key_value_heads": 4,
          "num_hidden_layers": 36}  # fmt: skip
TINY = {**SOURCE, "vocab_size": 61, "hidden_size": 36, "intermediate_size": 96, "num_hidden_layers": 2}
TINY_TARGET = {"hidden_size": 48, "intermediate_size": 128, "num_attention_heads": 12, "num_key_value_heads": 4}
TOKENS = (2, 64)


def resident(field: str) -> int:
    """Return a field of this process' memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main() -> None:
    """Grow, check, and print one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a smoke run")
    parser.add_argument("--out", type=Path, help="write the row as JSON")
    arguments = parser.parse_args()
    import torch
    import transformers

    import growformer
    from growformer.verification.run_trainability import memory_needed, run_trainability

    torch.manual_seed(0)
    source, target = (TINY, TINY_TARGET) if arguments.tiny else (SOURCE, TARGET)
    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**source))
    plan = growformer.plan(model, **target)
    model = growformer.grow(model, plan=plan)
    gc.collect()
    inputs = {"input_ids": torch.randint(0, model.config.vocab_size, TOKENS)}
    shapes = [tuple(p.shape) for p in model.parameters()]
    row: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "estimated_bytes": memory_needed(shapes, TOKENS[0] * TOKENS[1], in_place=True),
    }
    Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.perf_counter(), time.process_time()
    report = run_trainability(model, plan, inputs, in_place=True)
    row |= {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_bytes": resident("VmHWM"),
        "regions": len(report.regions),
        "ok": report.ok,
    }
    shown = {name: f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" for name, value in row.items()}
    print(", ".join(f"{name} {value}" for name, value in shown.items()))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"rows": [row]}))


if __name__ == "__main__":
    main()
