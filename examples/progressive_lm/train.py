"""One training run: a Llama on bytes, warmup-stable-decay, that may grow on its way. Returns the curve."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from examples.progressive_lm.arms import Arm
from examples.progressive_lm.corpus import Corpus
from examples.progressive_lm.settings import Setting
from torch import nn

import growformer


@dataclass(slots=True)
class Curve:
    """What one run gave.

    Attributes:
        points: (step, tokens, FLOPs so far, seconds so far, validation loss in nats per byte). Seconds are those of the
            processor, which do not depend on what else it does; on a GPU, those of the clock.
        growths: for every growth, the step, and the validation loss on the same text before and after.
    """

    points: list[tuple[int, int, float, float, float]] = field(default_factory=list)
    growths: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def build(sizes: dict[str, Any], seed: int) -> nn.Module:
    """Return a random Llama of these sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model: nn.Module = LlamaForCausalLM(LlamaConfig(**sizes, attention_dropout=0.0, use_cache=False))
    return model


def flops_per_step(model: nn.Module, setting: Setting) -> float:
    """Return floating-point operations of a step, forward and backward, attention included."""
    return float(growformer.flops(model).training(setting.tokens_per_step, setting.length))


def rate_at(step: int, steps: int, setting: Setting) -> float:
    """Return the learning rate of a step, from 1 to steps."""
    up, down = setting.warm_up * steps, setting.decay * steps
    return setting.rate * min(1.0, step / up, (steps + 1 - step) / down)


def train(arm: Arm, seed: int, setting: Setting, corpus: Corpus, steps: int) -> Curve:
    """Train one arm from its beginning to its end.

    Args:
        arm: how it grows.
        seed: of the weights and of the order of the text.
        setting: sizes and rates.
        corpus: the text.
        steps: of the optimizer; the schedule is that of a run which is that long.
    """
    growths = dict(_growths(setting, steps)) if arm.grow is not None else {}
    model = build({**setting.fixed, **(setting.start if arm.grow is not None else setting.target)}, seed)
    model = model.to(setting.device)
    optimizer = torch.optim.AdamW(
        _groups(model, setting.weight_decay), lr=setting.rate, betas=setting.betas, fused=setting.device == "cuda"
    )
    validation = corpus.held_out(setting.held_out, setting.length).to(setting.device)
    clock = time.perf_counter if setting.device == "cuda" else time.process_time
    curve, spent, seconds, cost = Curve(), 0.0, 0.0, flops_per_step(model, setting)
    for step in range(1, steps + 1):
        began = clock()
        if step in growths and arm.grow is not None:
            before = evaluate(model, validation, setting)
            began = clock()
            model, optimizer = arm.grow(model, optimizer, growths[step])
            seconds += clock() - began
            after, cost = evaluate(model, validation, setting), flops_per_step(model, setting)
            curve.growths.append({"step": step - 1, "sizes": growths[step], "before": before, "after": after})
            began = clock()
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, setting)
        tokens = corpus.batch(step, seed, setting.sequences, setting.length).to(setting.device)
        loss = loss_of(model, tokens, setting)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        spent += cost
        if step % setting.log_every == 0 or step == steps:
            if setting.device == "cuda":
                torch.cuda.synchronize()
            seconds += clock() - began
            found = evaluate(model, validation, setting)
            if not math.isfinite(found):
                raise RuntimeError(f"the loss is {found} at step {step}")
            curve.points.append((step, step * setting.tokens_per_step, spent, seconds, found))
        else:
            seconds += clock() - began
    return curve


def matched_steps(setting: Setting) -> int:
    """Return the steps after which a model of the last size has spent what a grown run spends in all."""
    marks = [0, *(first - 1 for first, _ in _growths(setting, setting.steps)), setting.steps]
    sizes = [dict(setting.start)]
    for _, more in setting.growths:
        sizes.append({**sizes[-1], **more})
    costs = []
    for some in sizes:
        costs.append(flops_per_step(build({**setting.fixed, **some}, 0), setting))
    grown = sum((end - begin) * cost for begin, end, cost in zip(marks[:-1], marks[1:], costs, strict=True))
    return round(grown / costs[-1])


@torch.no_grad()
def evaluate(model: nn.Module, tokens: torch.Tensor, setting: Setting) -> float:
    """Return the mean loss over held-out sequences, in nats per byte."""
    losses = [float(loss_of(model, some, setting)) * len(some) for some in tokens.split(setting.sequences)]
    return sum(losses) / len(tokens)


def loss_of(model: nn.Module, tokens: torch.Tensor, setting: Setting) -> torch.Tensor:
    """Return the cross-entropy of the next byte; tokens: [sequences, length + 1]."""
    with torch.autocast(setting.device, torch.bfloat16, enabled=setting.device == "cuda"):
        logits = model(tokens[:, :-1]).logits
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


def _growths(setting: Setting, steps: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for fraction, sizes in setting.growths:
        yield round(fraction * steps) + 1, sizes


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
