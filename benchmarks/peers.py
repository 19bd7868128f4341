"""What else grows a checkpoint on disk, on the same jobs as ``grow.py``, each as a whole process.

mergekit       a passthrough merge that repeats two layers with their outputs scaled to zero; from an environment of
its own (python -m venv VENV; VENV/bin/pip install torch==2.13.0 mergekit), since it pins other versions
load and save  transformers: load the model, build the larger one, copy the state dict, save
doubling       the width doubling of ml-hypercloning, written down naively: every matrix tiled, halved where it reads
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

LOAD_AND_SAVE = """
import sys, torch
from transformers import AutoConfig, LlamaForCausalLM
source, out = sys.argv[1:3]
model = LlamaForCausalLM.from_pretrained(source, dtype="auto")
config = AutoConfig.from_pretrained(source)
config.num_hidden_layers += 2
grown = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
grown.load_state_dict(model.state_dict(), strict=False)
for layer in grown.model.layers[-2:]:
    torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    torch.nn.init.zeros_(layer.mlp.down_proj.weight)
grown.save_pretrained(out)
"""

DOUBLING = """
import sys, torch
from transformers import AutoConfig, LlamaForCausalLM
source, out = sys.argv[1:3]
model = LlamaForCausalLM.from_pretrained(source, dtype="auto")
config = AutoConfig.from_pretrained(source)
config.hidden_size *= 2
grown = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
with torch.no_grad():
    for (name, new), old in zip(grown.named_parameters(), model.parameters()):
        times = [n // o for n, o in zip(new.shape, old.shape)]
        reads = new.ndim == 2 and times[1] == 2 and "embed_tokens" not in name
        new.copy_(old.repeat(*times) / (2 if reads else 1))
grown.save_pretrained(out)
"""


def rows(
    source: Path, model: dict[str, int], out: Path, venv: Path, runs: int, measure: Callable[..., Any]
) -> list[dict[str, Any]]:
    """Return one row per peer."""
    layers = model["num_hidden_layers"]
    recipe = source.parent / "mergekit.yaml"
    zero = [{"filter": "o_proj", "value": 0.0}, {"filter": "down_proj", "value": 0.0}, {"value": 1.0}]
    place = str(source)
    recipe.write_text(
        json.dumps(
            {
                "merge_method": "passthrough",
                "dtype": "bfloat16",
                "slices": [
                    {"sources": [{"model": place, "layer_range": [0, layers]}]},
                    {"sources": [{"model": place, "layer_range": [layers - 2, layers], "parameters": {"scale": zero}}]},
                ],
            }
        )
    )
    offline = {"HF_HUB_OFFLINE": "1"}
    commands = {
        "mergekit, 2 layers": [str(venv / "bin" / "mergekit-yaml"), str(recipe), str(out)],
        "transformers: load and save, 2 layers": [sys.executable, "-c", LOAD_AND_SAVE, str(source), str(out)],
        "naive doubling, hidden size × 2": [sys.executable, "-c", DOUBLING, str(source), str(out)],
    }
    found = []
    for name, command in commands.items():
        if not Path(command[0]).exists():
            raise SystemExit(f"{command[0]}: missing; see the head of benchmarks/peers.py")
        measured = []
        for _ in range(runs):
            shutil.rmtree(out, ignore_errors=True)
            measured.append(measure(command, offline))
        shutil.rmtree(out, ignore_errors=True)
        found.append(
            {
                "job": f"peer: {name}",
                "seconds": round(statistics.median(run.seconds for run in measured), 2),
                "cpu_seconds": round(statistics.median(run.cpu for run in measured), 2),
                "tree_bytes": max(run.tree for run in measured),
                "peak_bytes": max(run.peak for run in measured),
                "runs": [asdict(run) for run in measured],
            }
        )
        print(f"{name}: {found[-1]['seconds']} s", file=sys.stderr, flush=True)
    return found
