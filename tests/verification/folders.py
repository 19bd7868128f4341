"""A small Llama in a folder, with all parameters random, for tests of what lies in folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import transformers
from tests.families.case import randomise

from growformer.architecture.registry import for_config

CONFIG = {
    "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "vocab_size": 31,
}  # fmt: skip


def save_llama(folder: Path, **fields: Any) -> Path:
    """Save it, with config fields beside ``CONFIG``."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG, **fields)).eval()
    randomise(model, for_config({"model_type": "llama"}), 0)
    model.save_pretrained(folder)
    return folder


def copied(made: Path, into: Path) -> tuple[Path, Path]:
    """Copy ``source`` and ``grown`` of one folder into another, to be changed there."""
    source, grown = (Path(shutil.copytree(made / name, into / name)) for name in ("source", "grown"))
    return source, grown
