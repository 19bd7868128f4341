"""Tiny models of three families, and what tests of the command line share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=61, hidden_size=24, intermediate_size=37, num_hidden_layers=3, num_attention_heads=6,
            num_key_value_heads=2, head_dim=10, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
        )
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=53, n_positions=32, n_embd=21, n_layer=2, n_head=3, n_inner=47, bos_token_id=1, eos_token_id=2
        )
    ),
    "bert": lambda: transformers.BertModel(
        transformers.BertConfig(
            vocab_size=43, hidden_size=20, intermediate_size=29, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=32,
        )
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """What a command answered."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.out, self.err
        return json.loads(self.out)


def set_config(folder: Path, **fields: Any) -> None:
    """Change fields of a checkpoint's config; None removes one."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder, with its bytes."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
