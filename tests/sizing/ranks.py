"""Llama and Qwen2 as ranks of tensor parallelism compute them, written out: contiguous heads, kv heads and MLP units.

As vLLM has it (QKVParallelLinear, MergedColumnParallelLinear, RowParallelLinear): rank r takes query heads from r * n,
kv heads likewise or, where there are fewer than ranks, the one that it shares, and MLP units from r * m; it attends
with local heads grouped on local kv heads; the partial outputs are summed, and a bias of the output is added once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

State = Mapping[str, torch.Tensor]


def logits(state: State, config: Mapping[str, Any], tokens: torch.Tensor, ranks: int, head: int) -> torch.Tensor:
    """Return the logits that the ranks compute together, in float64.

    Args:
        state: the checkpoint's tensors.
        config: its config.
        tokens: [batch, position].
        ranks: how many.
        head: the size of a head, as the consumer reads or computes it.
    """
    w = {name: tensor.double() for name, tensor in state.items()}
    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        part = {name.removeprefix(f"model.layers.{layer}."): t for name, t in w.items() if f".layers.{layer}." in name}
        normed = _norm(x, part["input_layernorm.weight"], config)
        x = x + sum(_attend(part, normed, config, r, ranks, head) for r in range(ranks))
        x = x + part.get("self_attn.o_proj.bias", torch.zeros(()))
        normed = _norm(x, part["post_attention_layernorm.weight"], config)
        x = x + sum(_mlp(part, normed, r, ranks) for r in range(ranks))
    table = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return _norm(x, w["model.norm.weight"], config) @ table.T


def _norm(x: torch.Tensor, gain: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    return gain * x / (x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt()


def _rows(part: State, name: str, start: int, count: int, x: torch.Tensor) -> torch.Tensor:
    """Apply the rows of a column-parallel matrix that a rank holds, and their bias."""
    weight = part[f"{name}.weight"]
    assert start + count <= weight.shape[0]
    found = x @ weight[start : start + count].T
    return found + part[f"{name}.bias"][start : start + count] if f"{name}.bias" in part else found


def _attend(part: State, x: torch.Tensor, config: Mapping[str, Any], rank: int, ranks: int, head: int) -> torch.Tensor:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    assert heads % ranks == 0
    local = heads // ranks
    if kv_heads >= ranks:
        assert kv_heads % ranks == 0
        local_kv, first_kv = kv_heads // ranks, rank * (kv_heads // ranks)
    else:
        assert ranks % kv_heads == 0
        local_kv, first_kv = 1, rank // (ranks // kv_heads)
    batch, length, _ = x.shape

    def split(name: str, first: int, count: int) -> torch.Tensor:
        return _rows(part, f"self_attn.{name}", first * head, count * head, x).view(batch, length, count, head)

    q = _rotate(split("q_proj", rank * local, local), config)
    k = _rotate(split("k_proj", first_kv, local_kv), config).repeat_interleave(local // local_kv, 2)
    v = split("v_proj", first_kv, local_kv).repeat_interleave(local // local_kv, 2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / head**0.5
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(batch, length, local * head)
    columns = part["self_attn.o_proj.weight"][:, rank * local * head : (rank + 1) * local * head]
    return mixed @ columns.T


def _rotate(x: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    half = x.shape[-1] // 2
    theta = config["rope_parameters"]["rope_theta"]
    angle = torch.arange(x.shape[1]).double()[:, None] * theta ** (-torch.arange(half).double() / half)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _mlp(part: State, x: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    width = part["mlp.down_proj.weight"].shape[1]
    assert width % ranks == 0
    count = width // ranks
    gate = torch.nn.functional.silu(_rows(part, "mlp.gate_proj", rank * count, count, x))
    up = _rows(part, "mlp.up_proj", rank * count, count, x)
    return (gate * up) @ part["mlp.down_proj.weight"][:, rank * count : (rank + 1) * count].T
