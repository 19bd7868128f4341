"""FLOPs from shapes against what PyTorch counts in a forward pass, and parameters against the model's own count."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from growformer.api import plan
from growformer.cli.costs import costs
from growformer.cli.render import count, num_bytes

TOKENS = 7


def counted(model: torch.nn.Module) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros((1, TOKENS), dtype=torch.long))
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("family", "request_"),
    [
        ("llama", {"hidden_size": 36, "num_attention_heads": 12, "head_dim": 12, "num_hidden_layers": 4}),
        ("gpt2", {"n_embd": 28, "n_inner": 53, "n_layer": 3}),  # its head is tied
        ("bert", {"hidden_size": 40, "num_hidden_layers": 3}),
    ],
)
def test_flops_are_what_pytorch_counts(models: dict[str, Path], tmp_path: Path, family: str, request_: dict) -> None:
    made = plan(models[family], **request_)
    source_class = getattr(transformers, made.source.config["architectures"][0])
    config = transformers.AutoConfig.from_pretrained(models[family])
    for cost, fields in zip(costs(made), ({}, made.target_config), strict=True):
        grown = config.to_dict() | {k: v for k, v in fields.items() if k != "dtype"}
        model = source_class._from_config(type(config).from_dict(grown), attn_implementation="eager").eval()
        expected = TOKENS * cost.flops + TOKENS * TOKENS * cost.context_flops
        if family == "bert":  # the pooler runs once per sequence
            expected -= (TOKENS - 1) * 2 * model.pooler.dense.weight.numel()
        assert counted(model) == expected
        assert cost.parameters == model.num_parameters()
        assert cost.weight_bytes == 4 * model.num_parameters()


def test_numbers_in_words() -> None:
    assert [count(n) for n in (0, 999, 1000, 134_515_008, 7.2e9, 1.1e12)] == [
        "0",
        "999",
        "1.0k",
        "134.5M",
        "7.2B",
        "1.1T",
    ]
    assert [num_bytes(n) for n in (12, 538_060_032, 5e9)] == ["12 bytes", "538.1 MB", "5.0 GB"]
