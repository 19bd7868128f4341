"""``python -m examples.progressive_vit``: a ViT on Fashion-MNIST that grows twice, beside one from scratch.

``--steps 200`` for a look. The images are Debian's and Ubuntu's package
``dataset-fashion-mnist`` (60,000 to learn from, 10,000 to be judged by), which is fetched where it is not
installed. ViT has LayerNorm: growth keeps the loss, and gradients of the source change.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import platform
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from examples.debian import folder_of
from torch import nn

import growformer

START = {"hidden_size": 48, "intermediate_size": 128, "num_attention_heads": 3, "num_hidden_layers": 2}
GROWTHS: tuple[tuple[float, dict[str, Any]], ...] = (
    (0.35, {"num_hidden_layers": 5}),
    (0.6, {"hidden_size": 80, "intermediate_size": 224, "num_attention_heads": 5}),
)
FIXED = {"image_size": 28, "patch_size": 4, "num_channels": 1, "num_labels": 10, "qkv_bias": True}
BATCH, RATE, DECAY = 64, 2e-3, 0.1


def main() -> None:
    """Train both, and print their losses and accuracies against FLOPs and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="of either run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the curves go, as JSON")
    options = parser.parse_args()
    images = load()
    curves = {}
    for name, grows in (("scratch", False), ("grown", True)):
        curves[name] = train(images, grows=grows, steps=options.steps, seed=options.seed)
        last = curves[name][-1]
        print(
            f"{name:8} {last['flops']:.2e} FLOPs, {last['seconds']:.0f} s: loss {last['loss']:.4f}, "
            f"accuracy {last['accuracy']:.2%}"
        )
    if options.out is not None:
        record = {
            "command": f"python -m examples.progressive_vit {' '.join(sys.argv[1:])}",
            "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
            "machine": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "steps": options.steps,
            "seed": options.seed,
            "curves": curves,
        }
        options.out.write_text(json.dumps(record) + "\n", encoding="utf-8")


def train(
    images: dict[str, tuple[torch.Tensor, torch.Tensor]], *, grows: bool, steps: int, seed: int
) -> list[dict[str, float]]:
    """Return the points of one run: step, FLOPs, seconds, loss and accuracy on the test images."""
    growths = {round(part * steps): sizes for part, sizes in GROWTHS} if grows else {}
    model = build(START if grows else {**START, **{k: v for _, sizes in GROWTHS for k, v in sizes.items()}}, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    pixels, labels = images["train"]
    points: list[dict[str, float]] = []
    flops, seconds = 0.0, 0.0
    for step in range(1, steps + 1):
        if step - 1 in growths:
            before, _ = judge(model, images["test"])
            model, optimizer = growformer.grow(model, optimizer=optimizer, **growths[step - 1])
            after, _ = judge(model, images["test"])
            print(f"step {step - 1}: {growths[step - 1]}, loss {before:.6f} -> {after:.6f}")
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / (0.05 * steps), (steps + 1 - step) / (0.2 * steps))
        picked = torch.randint(len(labels), (BATCH,), generator=torch.Generator().manual_seed(seed * 1_000_003 + step))
        loss = nn.functional.cross_entropy(model(pixels[picked]).logits, labels[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds += time.perf_counter() - began
        flops += step_flops(model)
        if step % max(1, steps // 30) == 0 or step == steps:
            found, accuracy = judge(model, images["test"])
            points.append({"step": step, "flops": flops, "seconds": seconds, "loss": found, "accuracy": accuracy})
    return points


def build(sizes: dict[str, Any], seed: int) -> nn.Module:
    """Return a random ViT."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(**FIXED, **sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model: nn.Module = ViTForImageClassification(config).train()
    return model


def step_flops(model: nn.Module) -> float:
    """Return floating-point operations of a step, forward and backward: matrices over all patches, and attention."""
    c = model.config
    patches = (c.image_size // c.patch_size) ** 2 + 1
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    attention = 2 * c.num_hidden_layers * c.hidden_size * patches
    return 3.0 * BATCH * patches * (2 * matrices + 2 * attention)


@torch.no_grad()
def judge(model: nn.Module, images: tuple[torch.Tensor, torch.Tensor], count: int = 2000) -> tuple[float, float]:
    """Return loss and accuracy on the first test images."""
    pixels, labels = images[0][:count], images[1][:count]
    logits = torch.cat([model(some).logits for some in pixels.split(250)])
    return float(nn.functional.cross_entropy(logits, labels)), float((logits.argmax(-1) == labels).double().mean())


def load() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return images [N, 1, 28, 28] with mean 0 and labels [N], of both parts."""
    folder = folder_of("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist")
    found = {}
    for part, name in (("train", "train"), ("test", "t10k")):
        pixels = _read(folder, f"{name}-images", 16).reshape(-1, 1, 28, 28)
        found[part] = ((pixels.float() / 255 - 0.2860) / 0.3530, _read(folder, f"{name}-labels", 8).long())
    return found


def _read(folder: Path, name: str, header: int) -> torch.Tensor:
    (path,) = [p for p in folder.rglob(f"{name}*") if p.is_file()]
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    count = math.prod(int.from_bytes(raw[at : at + 4], "big") for at in range(4, header, 4))
    if len(raw) != header + count:
        raise SystemExit(f"{path}: {len(raw)} bytes, its header says {header + count}")
    return torch.frombuffer(bytearray(raw[header:]), dtype=torch.uint8)


if __name__ == "__main__":
    main()
