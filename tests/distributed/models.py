"""Small models whose growth needs everything that a region of a tensor may hold, and how scripts shard them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)


def _llama() -> LlamaConfig:
    return LlamaConfig(
        hidden_size=24,
        intermediate_size=36,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        vocab_size=53,
        max_position_embeddings=32,
        tie_word_embeddings=True,
    )


def _gpt2() -> GPT2Config:
    return GPT2Config(n_embd=20, n_inner=28, n_head=2, n_layer=2, vocab_size=53, n_positions=32, embd_pdrop=0.0,
                      attn_pdrop=0.0, resid_pdrop=0.0, bos_token_id=1, eos_token_id=2)  # fmt: skip


def _bert() -> BertConfig:
    return BertConfig(
        hidden_size=20,
        intermediate_size=28,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=53,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def _gpt_oss() -> GptOssConfig:
    config = GptOssConfig(
        hidden_size=24,
        intermediate_size=20,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=2,
        num_local_experts=3,
        num_experts_per_tok=2,
        vocab_size=53,
        max_position_embeddings=32,
        layer_types=["full_attention", "full_attention"],
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config._experts_implementation = "eager"  # others want widths that are multiples of 16 bytes
    return config


MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (
        LlamaForCausalLM,
        _llama,
        {"hidden_size": 42, "intermediate_size": 47, "head_dim": 8, "num_attention_heads": 6, "num_hidden_layers": 3},
    ),
    "gpt2": (GPT2LMHeadModel, _gpt2, {"n_embd": 30, "n_head": 3, "n_inner": 41, "n_layer": 3}),
    "bert": (BertForMaskedLM, _bert, {"hidden_size": 40, "num_attention_heads": 4, "intermediate_size": 41}),
    "gpt_oss": (GptOssForCausalLM, _gpt_oss, {"intermediate_size": 26, "hidden_size": 34, "num_hidden_layers": 3}),
}
"""Tied embeddings, rotary buffers; fused and transposed projections, means; copies with noise; interleaved experts."""


def make(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, dict[str, Any]]:
    """Return a model whose every parameter is random, the same on every rank, and the sizes that it grows to."""
    kind, config, sizes = MODELS[name]
    model: nn.Module = kind(config()).to(dtype)
    numbers = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=numbers) * 0.2)
    return model, sizes


def mesh_of(*shape: int, names: tuple[str, ...] | None = None) -> DeviceMesh:
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers, as a training script finds them."""
    return [part for lists in model.modules() if isinstance(lists, nn.ModuleList) for part in lists]


def shard(model: nn.Module, mesh: DeviceMesh | None = None, **options: Any) -> nn.Module:
    """Shard a model block by block and then the rest, as training scripts do."""
    mesh = mesh or mesh_of(torch.distributed.get_world_size())
    for block in blocks_of(model):
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model


def whole_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all tensors of a model, gathered. A collective operation."""
    return {
        name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()
        for name, tensor in model.state_dict().items()
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Tell whether two state dicts are equal bit by bit."""
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 53, (2, 16), generator=torch.Generator().manual_seed(seed))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> float:
    """Take one step on the same tokens on every rank, and return the loss before it."""
    optimizer.zero_grad()
    inputs = tokens(seed)
    loss = model(inputs, labels=inputs).loss
    loss.backward()
    optimizer.step()
    return float(loss.detach())
