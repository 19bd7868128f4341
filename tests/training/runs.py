"""Tiny models whose parameters are all random, and plain loops that train them."""

from __future__ import annotations

from typing import Any

import torch
import transformers

import growformer
from growformer import GrowthSchedule, GrowthStage, ScheduledGrowth, WhenFlat

torch.set_num_threads(1)
BATCH, LENGTH, VOCAB = 3, 7, 29


def llama(seed: int = 3, **sizes: Any) -> Any:
    config = {
        "vocab_size": VOCAB, "hidden_size": 20, "intermediate_size": 23, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 32,
        "tie_word_embeddings": False, "attn_implementation": "eager", "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**config, **sizes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def batch(step: int) -> torch.Tensor:
    return torch.randint(VOCAB, (BATCH, LENGTH), generator=torch.Generator().manual_seed(100 + step))


def loss_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    return model(input_ids=tokens, labels=tokens).loss


def adam(model: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.97), weight_decay=0.1)


def train(run: ScheduledGrowth, first: int, last: int, scheduler: Any = None) -> list[float]:
    """Train steps first, …, last - 1 and grow when a growth is due; returns the losses."""
    losses = []
    for step in range(first, last):
        tokens = batch(step)
        loss = loss_of(run.model, tokens)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(float(loss.detach()))
        if run.after_step(loss=loss, tokens=tokens.numel()):
            run.grow()
    return losses


WIDER = {"hidden_size": 30, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 31}
DEEPER = {"num_hidden_layers": 3}
SCHEDULE = GrowthSchedule(
    (
        GrowthStage(at_step=4, sizes=WIDER, seed=5, updates=growformer.UpdateRules(new_rate=1.5, ramp=3)),
        GrowthStage(when_flat=WhenFlat(window=2, patience=2, min_delta=3.0, not_before=8), sizes=DEEPER),
        GrowthStage(at_tokens=14 * BATCH * LENGTH, sizes={"intermediate_size": 37}, state="zero-new"),
    )
)


def same(a: Any, b: Any) -> bool:
    """Whether two models have the same tensors, bit for bit."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
