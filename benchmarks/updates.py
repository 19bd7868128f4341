"""``python benchmarks/updates.py``: what per-region updates add to a training step, in time and in memory.

Grows a Llama in width and depth, then takes training steps with and without region updates, by turns in the same run,
and prints the ratio of medians. Smoke run: ``--tiny``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

import growformer
from growformer.training.updates import updates_of

SOURCE = {"hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 6, "num_key_value_heads": 6,
          "num_hidden_layers": 4, "head_dim": 64, "vocab_size": 8192}  # fmt: skip
TARGET = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 8,
          "num_hidden_layers": 6}  # fmt: skip
TINY = ({**SOURCE, "hidden_size": 96, "vocab_size": 256}, {**TARGET, "hidden_size": 128})
RULES: dict[str, growformer.UpdateRules] = {
    "bias correction": growformer.UpdateRules(),
    "bias correction, rate and ramp": growformer.UpdateRules(new_rate=1.3, ramp=10_000),
    "what is old frozen": growformer.UpdateRules(freeze_old=True),
    "function space": growformer.UpdateRules(policy="function_space"),
}


def main() -> None:
    """Measure every rule, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a look at whether it runs")
    parser.add_argument("--steps", type=int, default=15, help="of each kind, by turns")
    parser.add_argument("--tokens", type=int, default=2048, help="per step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    source, target = TINY if options.tiny else (SOURCE, TARGET)
    steps, tokens = (2, 128) if options.tiny else (options.steps, options.tokens)
    rows = {name: measure(rules, source, target, steps, tokens, options.device) for name, rules in RULES.items()}
    machine = torch.cuda.get_device_name() if options.device == "cuda" else f"{os.cpu_count()} x {platform.machine()}"
    print(f"{machine}, torch {torch.__version__}, {date.today()}: {tokens} tokens per step, median of {steps}")
    print("| rule | step | with region updates | added | memory while stepping, of the parameters' |")
    print("|---|---|---|---|---|")
    for name, row in rows.items():
        print(
            f"| {name} | {row['without'] * 1e3:.0f} ms | {row['with'] * 1e3:.0f} ms | {row['added']:+.1%} | "
            f"{row['kept']:.0%} |"
        )
    if options.out is not None:
        record = {"machine": machine, "torch": torch.__version__, "date": str(date.today()), "rules": rows}
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measure(
    rules: growformer.UpdateRules, source: dict[str, Any], target: dict[str, Any], steps: int, tokens: int, device: str
) -> dict[str, float]:
    """Return seconds per step without and with region updates, the difference as a share, and the memory they take."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**source, use_cache=False)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.999), fused=device == "cuda")
    inputs = torch.randint(source["vocab_size"], (tokens // min(128, tokens), min(128, tokens)), device=device)
    step(model, optimizer, inputs)
    model, optimizer = growformer.grow(model, optimizer=optimizer, updates=rules, **target)
    updates = updates_of(optimizer)
    regions = {p: updates.regions(p) for p in model.parameters()}
    times: dict[bool, list[float]] = {True: [], False: []}
    step(model, optimizer, inputs)
    for _ in range(steps):
        for active in (True, False):
            if active:
                updates.set_regions(updates.steps, regions)
            else:
                updates.set_regions(updates.steps, {})
            times[active].append(step(model, optimizer, inputs))
    plain, scaled = (statistics.median(times[active]) for active in (False, True))
    kept = sum(p.detach()[tuple(_along(i) for i in r.region)].numel() for p, some in regions.items() for r in some)
    return {
        "without": plain, "with": scaled, "added": scaled / plain - 1,
        "kept": kept / sum(p.numel() for p in model.parameters()),
    }  # fmt: skip


def _along(index: Any) -> Any:
    return index if isinstance(index, slice) else slice(0, index.size)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor) -> float:
    """Take one training step, and return its seconds."""
    began = _now(inputs)
    optimizer.zero_grad()
    model(inputs, labels=inputs).loss.backward()
    optimizer.step()
    return _now(inputs) - began


def _now(inputs: torch.Tensor) -> float:
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
