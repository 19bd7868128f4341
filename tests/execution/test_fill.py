"""The interpreter that writes checkpoints gives the same bits as the one for live models, piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.execution.conftest import CASES, LLAMA
from tests.families.growths import growths_of

import growformer
from growformer.execute.numbers import SPAN, OrderedSum, decode, encode
from growformer.execute.state_dict import grow_state_dict
from growformer.execute.values import _ordered_mean

State = dict[str, torch.Tensor]
STORED = {
    "transposed weights, means": "gpt2-GPT2LMHeadModel",
    "post-norm": "bert-BertForMaskedLM",
    "packed, interleaved, transposed": "gpt_oss-GptOssForCausalLM",
    "packed": "qwen3_moe-Qwen3MoeForCausalLM",
    "convolutions": "vit-ViTForImageClassification",
    "latent attention": "deepseek_v3-DeepseekV3ForCausalLM",
    "plain": LLAMA,
}


def contents(folder: Path) -> State:
    found: State = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def differing(one: State, other: State) -> list[str]:
    assert set(one) == set(other)
    return [
        name
        for name in one
        if (one[name].dtype, one[name].shape) != (other[name].dtype, other[name].shape)
        or not torch.equal(bits(one[name]), bits(other[name]))
    ]


def squared(fill: Any, normal: np.ndarray) -> np.ndarray:
    """A user's initialisation that depends on the whole block."""
    return normal * 0.1 + normal.mean()


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("init", ["normal", "copy", "orthogonal", "noise", "zero", squared])
@pytest.mark.parametrize("kind", STORED)
def test_disk_and_memory_agree_bit_by_bit(
    checkpoint: Callable[[str], Path], tmp_path: Path, kind: str, init: Any
) -> None:
    source, growth = checkpoint(STORED[kind]), growths_of(CASES[STORED[kind]]).accepted["all"]
    plan = growformer.plan(source, init=init, **growth.request)
    written = growformer.grow_checkpoint(source, tmp_path / "out", plan=plan)
    found, expected = contents(written.path), grow_state_dict(plan, contents(source))
    assert differing(found, expected) == []
    # The comparison notices one bit.
    name = next(name for name, value in found.items() if value.ndim > 1)
    bits(found[name])[3] ^= 1
    assert differing(found, expected) == [name]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("after", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("before", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes_are_converted_as_torch_does(
    checkpoint: Callable[[str], Path], tmp_path: Path, before: str, after: str
) -> None:
    original = checkpoint(STORED["transposed weights, means"])
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_bytes((original / "config.json").read_bytes())
    state = {name: value.to(getattr(torch, before)) for name, value in contents(original).items()}
    save_file(state, source / "model.safetensors")
    plan = growformer.plan(source, init="copy", n_embd=40, n_layer=3)
    written = growformer.grow_checkpoint(source, tmp_path / "out", plan=plan, dtype=after)
    found = contents(written.path)
    assert {str(value.dtype) for value in found.values()} == {f"torch.{after}"}
    assert differing(found, grow_state_dict(plan, state, dtype=getattr(torch, after))) == []


@given(
    st.lists(st.floats(width=64), min_size=1, max_size=50),
    st.sampled_from(["bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"]),
)
def test_encoding_rounds_as_torch_does(values: list[float], dtype: str) -> None:
    numbers = np.array(values)
    expected = torch.tensor(values, dtype=torch.float64).to(getattr(torch, dtype))
    encoded = encode(numbers, dtype)
    there = ~np.isnan(numbers)
    assert np.array_equal(bits(expected).numpy().view(encoded.dtype)[there], encoded[there])
    assert np.isnan(decode(encoded, dtype)[~there]).all()
    assert np.array_equal(decode(encoded, dtype).astype(np.float64), expected.double().numpy(), equal_nan=True)


@pytest.mark.parametrize("count", [1, 2, 3, 255, 256, 257, 1000])
def test_means_have_one_order(count: int) -> None:
    values = torch.randn(count, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e3
    expected = _ordered_mean(values, 0)[0].numpy()
    for step in (SPAN, 2 * SPAN, 5 * SPAN):
        total = OrderedSum()
        for first in range(0, count, step):
            total.add(values[first : first + step].numpy())
        assert total.total is not None
        assert np.array_equal(total.total / count, expected)
    assert np.allclose(expected, values.mean(0).numpy(), rtol=1e-12)
