"""Tiny models under stock Trainer, and what its checkpoints hold, by the names of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import Dataset

VOCABULARY = 53
GROWTHS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 36, "intermediate_size": 47, "num_hidden_layers": 4, "new_layers_at": [1]},
    "gpt2": {"n_embd": 40, "n_layer": 4, "new_layers_at": [2]},
    "mixtral": {"hidden_size": 36, "intermediate_size": 36, "num_hidden_layers": 4, "new_layers_at": [1]},
}
"""Sizes that are no doublings, and a layer in the middle."""


def random_model(kind: str, *, layers: int = 3, **fields: Any) -> Any:
    """A tiny model with every parameter random; without dropout, whose masks have other shapes after growth."""
    common = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, **fields}
    llama = {
        "hidden_size": 24, "intermediate_size": 44, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4,
        "num_hidden_layers": layers, "max_position_embeddings": 64, **common,
    }  # fmt: skip
    config = {
        "llama": lambda: transformers.LlamaConfig(**llama),
        "qwen2": lambda: transformers.Qwen2Config(
            hidden_size=56,
            intermediate_size=44,
            num_attention_heads=7,
            num_key_value_heads=1,
            num_hidden_layers=layers,
            max_position_embeddings=64,
            **common,
        ),
        "gpt2": lambda: transformers.GPT2Config(
            n_embd=24, n_head=6, n_layer=layers, n_positions=64, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0, **common
        ),
        "mixtral": lambda: transformers.MixtralConfig(
            **{**llama, "intermediate_size": 28}, num_local_experts=3, num_experts_per_tok=2
        ),
    }[kind]()
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


class Texts(Dataset[dict[str, torch.Tensor]]):
    """Random token ids, each text its own."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(0, VOCABULARY, (11,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": ids}


def trainer_of(
    model: Any, output: Path, *, steps: int = 8, every: int = 4, callbacks: Sequence[Any] = (), **options: Any
) -> Any:
    """Stock Trainer, with a schedule, weight decay and shuffled data."""
    passed = {name: options.pop(name) for name in ("optimizers", "optimizer_cls_and_kwargs") if name in options}
    arguments = transformers.TrainingArguments(
        str(output), max_steps=steps, save_steps=every, logging_steps=1, per_device_train_batch_size=4,
        learning_rate=5e-3, weight_decay=0.1, warmup_steps=2, lr_scheduler_type="cosine", report_to=[],
        disable_tqdm=True, use_cpu=True, seed=11, **options,
    )  # fmt: skip
    made = transformers.Trainer(model, arguments, train_dataset=Texts(), callbacks=list(callbacks), **passed)
    made.remove_callback(transformers.PrinterCallback)
    return made


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def optimizer_of(folder: Path, model: Any, **options: Any) -> torch.optim.Optimizer:
    """The optimizer that Trainer makes of a model, with a checkpoint's state; Trainer gives states their owners."""
    made = trainer_of(model, folder.with_name("unused"), **options)
    optimizer: torch.optim.Optimizer = made.create_optimizer()
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    return optimizer


def states_of(optimizer: torch.optim.Optimizer, model: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Every slot by the name of its parameter."""
    return {name: optimizer.state[p] for name, p in model.named_parameters() if p in optimizer.state}


def differences(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> list[str]:
    """Slots that are not the same, bit by bit."""
    found = sorted(set(one) ^ set(other))
    for name in set(one) & set(other):
        found += [f"{name}: {slot}" for slot in set(one[name]) ^ set(other[name])]
        for slot in set(one[name]) & set(other[name]):
            a, b = one[name][slot], other[name][slot]
            if not (torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b):
                found.append(f"{name}: {slot}")
    return found


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def rates_of(trainer: Any) -> list[float]:
    return [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
