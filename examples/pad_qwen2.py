"""``python examples/pad_qwen2.py [7b|72b]``: Qwen2's real sizes, padded for eight GPUs and quantisation groups of 128.

Random weights in the shapes of Qwen2-7B or Qwen2-72B, with one layer and a small vocabulary, go through
``growformer pad`` for vLLM: written to disk, padded to another folder, checked block by block, and run, one after the
other, so that never more than one model is in memory. Exits with 1 if a logit moves by more than the tolerance. Needs
3 GB of memory and of disk for 7b (half a minute on two cores), and 6 GB and 8 GB for 72b (two minutes).

On the command line, with the real checkpoint:

    growformer pad Qwen2-7B Qwen2-7B-tp8 --tensor-parallel 8 --multiple-of 128 --for vllm
"""

from __future__ import annotations

import gc
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import growformer
from growformer.planning.explain import changes
from growformer.sizing.consumers import consumer_of
from growformer.sizing.shares import shares

COMMON = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 152064, "rope_theta": 1e6}
MODELS: dict[str, dict[str, Any]] = {
    "7b": {
        **COMMON,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "num_hidden_layers": 28,
    },
    "72b": {
        **COMMON,
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "num_hidden_layers": 80,
    },
}
FIT = {"tensor_parallel": 8, "multiple_of": 128, "consumer": "vllm"}
VOCABULARY = 1000
#: Largest difference of a logit in float32, relative to the largest logit: sums of thousands of terms in another order.
TOLERANCE = 2e-5


def write_source(config: dict[str, Any], folder: Path) -> None:
    """Write one layer of a model with every parameter random."""
    torch.manual_seed(0)
    sizes = {**config, "num_hidden_layers": 1, "vocab_size": VOCABULARY}
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p) * 0.1)
    model.save_pretrained(folder)


@torch.inference_mode()
def logits(folder: Path) -> torch.Tensor:
    """Load a checkpoint with the class that its config names, and return its logits of the same tokens."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.randint(0, VOCABULARY, (1, 64), generator=torch.Generator().manual_seed(1))
    found: torch.Tensor = model(tokens).logits.clone()
    print(f"  {folder.name}: {type(model).__name__}, {model.num_parameters():,} parameters")
    del model
    gc.collect()
    return found


def show_plan(config: dict[str, Any]) -> None:
    """Print what becomes of the whole model: sizes, parameters, shares of the ranks, and why."""
    plan = growformer.plan_padding(config, **FIT)
    for change in changes(plan):
        print(f"  {change.field:<20} {change.before!s:>8} -> {change.after!s:<8}")
    before, after = plan.num_parameters()
    print(f"  {'parameters':<20} {before:>8,} -> {after:,} (+{after / before - 1:.2%})")
    for share in shares(plan, FIT["tensor_parallel"], consumer_of(FIT["consumer"])):
        print(f"  rank {share.rank}: heads, kv heads, MLP units {share.heads} {share.kv_heads} {share.mlp}")
    for note in plan.notes:
        print(f"  note: {note}")


def main() -> int:
    """Pad, compare, and return the exit code."""
    transformers.utils.logging.disable_progress_bar()
    worst = 0.0
    for name in sys.argv[1:] or ["7b"]:
        config = MODELS[name]
        print(
            f"Qwen2-{name.upper()}, all {config['num_hidden_layers']} layers (of each rank's share, from the source):"
        )
        show_plan(config)
        with tempfile.TemporaryDirectory() as folder:
            source, padded = Path(folder, "source"), Path(folder, "padded")
            write_source(config, source)
            print("One layer, random weights, float32:")
            expected = logits(source)
            start = time.perf_counter()
            growformer.pad(source, padded, **FIT)
            print(f"  padded in {time.perf_counter() - start:.1f} s")
            growformer.verify(source, padded, checks=["constraints"]).raise_if_failed()
            print("  every block compared with the source: all constraints hold")
            found = logits(padded)
        difference = ((found - expected).abs().max() / expected.abs().max()).item()
        print(f"  largest difference of a logit, relative to the largest: {difference:.2g}")
        worst = max(worst, difference)
    print(f"Peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
