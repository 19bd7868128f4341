"""Sizes that fit: the smallest, and the same outputs, also from the ranks that share them."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sizing import ranks as simulated
from tests.sizing.models import (
    BERT,
    FAMILIES,
    GPT2,
    LLAMA3_8B,
    QWEN2_7B,
    QWEN2_72B,
    SMOLLM2,
    family,
    llama,
    outputs,
    qwen2,
    randomised,
    tokens,
)

import growformer
from growformer.planning.explain import changes
from growformer.sizing.consumers import CONSUMERS, consumer_of
from growformer.sizing.padding import Fit, round_up
from growformer.sizing.shares import idle_ranks, shares

OUTPUTS = ("o_proj.weight", "attn.c_proj.weight", "attention.output.dense.weight")
H, HKV, MLP, HIDDEN = "num_attention_heads", "num_key_value_heads", "intermediate_size", "hidden_size"

#: (config, ranks, group size, consumer, options) -> what changes, and the class.
REAL: list[tuple[dict[str, Any], int, int, str, dict[str, Any], dict[str, int], str]] = [
    (QWEN2_7B, 8, 1, "vllm", {}, {H: 32}, "llama"),
    (QWEN2_7B, 8, 128, "vllm", {}, {H: 32, MLP: 19456}, "llama"),
    (QWEN2_7B, 8, 128, "vllm", {"keep_class": True}, {H: 32, MLP: 19456, HIDDEN: 4096}, "qwen2"),
    (QWEN2_7B, 8, 128, "sglang", {}, {H: 32, MLP: 19456}, "qwen2"),
    (QWEN2_7B, 8, 1, "transformers", {}, {H: 56, HKV: 8}, "qwen2"),
    (QWEN2_7B, 4, 128, "vllm", {}, {}, "qwen2"),
    (QWEN2_72B, 8, 128, "vllm", {}, {MLP: 29696}, "qwen2"),
    (QWEN2_72B, 16, 128, "sglang", {}, {MLP: 30720}, "qwen2"),
    (LLAMA3_8B, 16, 1, "vllm", {}, {}, "llama"),
    (LLAMA3_8B, 16, 1, "transformers", {}, {H: 64, HKV: 16}, "llama"),
    (SMOLLM2, 4, 128, "vllm", {}, {H: 16, HKV: 4}, "llama"),
    (SMOLLM2, 4, 128, "vllm", {"pad_hidden": True}, {H: 16, HKV: 4, HIDDEN: 640}, "llama"),
    (SMOLLM2, 2, 1, "vllm", {}, {H: 12, HKV: 4}, "llama"),
    (GPT2, 8, 1, "vllm", {}, {"n_head": 16, "n_embd": 1024}, "gpt2"),
    (BERT, 8, 1, "transformers", {}, {H: 24, HIDDEN: 1536}, "bert"),
]


@pytest.mark.parametrize(("config", "tp", "group", "consumer", "options", "expected", "kind"), REAL)
def test_real_sizes(
    config: dict[str, Any],
    tp: int,
    group: int,
    consumer: str,
    options: dict[str, Any],
    expected: dict[str, int],
    kind: str,
) -> None:
    plan = growformer.plan_padding(config, tensor_parallel=tp, multiple_of=group, consumer=consumer, **options)
    sizes = {c.field: c.after for c in changes(plan) if c.field in plan.architecture.size_fields()}
    assert sizes == expected
    assert plan.target_config["model_type"] == kind
    assert plan.init.name == "zero"


def test_notes_say_why() -> None:
    notes = "\n".join(growformer.plan_padding(QWEN2_7B, tensor_parallel=8, multiple_of=128, consumer="vllm").notes)
    assert "vllm 0.33.0 computes the head size of qwen2 as hidden_size // num_attention_heads" in notes
    assert "(vllm/model_executor/models/qwen2.py:150), 3584 // 32 = 112, where it is 128" in notes
    assert "the model is written as llama" in notes
    assert "to stay qwen2 (keep_class) would take" in notes
    assert "num_attention_heads = 32, hidden_size = 4096: 8,997,158,912 parameters" in notes
    assert "32 heads are 4 for each of 8 ranks; new ones stand in their groups, 7 -> 8 per kv head" in notes
    assert "4 kv heads for 8 ranks: vllm 0.33.0 gives each to 2 of them" in notes
    assert "intermediate_size 19456 is 2432 for each of 8 ranks, 19 groups of 128" in notes
    notes = "\n".join(growformer.plan_padding(QWEN2_7B, tensor_parallel=8).notes)
    assert "transformers 5.24.0 gives every rank whole kv heads of its own" in notes
    assert "4 of 8 ranks get only new heads, which compute nothing" in notes
    notes = "\n".join(growformer.plan_padding(SMOLLM2, tensor_parallel=6, multiple_of=128, consumer="vllm").notes)
    assert "hidden_size 576 is no multiple of 128" in notes
    assert "pad_hidden makes it 640" in notes
    vocabulary = {**SMOLLM2, "vocab_size": 64 * 100}
    notes = "\n".join(growformer.plan_padding(vocabulary, tensor_parallel=3, consumer="vllm").notes)
    assert "pads the vocabulary to 6400, which 3 ranks do not divide, and refuses" in notes


@settings(deadline=None, max_examples=60)
@given(
    kv=st.integers(1, 5), group=st.integers(1, 5), width=st.integers(8, 70), tp=st.sampled_from([1, 2, 3, 4, 6, 8]),
    unit=st.sampled_from([1, 4, 16]), name=st.sampled_from(sorted(CONSUMERS)),
)  # fmt: skip
def test_nothing_smaller_fits(kv: int, group: int, width: int, tp: int, unit: int, name: str) -> None:
    if tp == unit == 1:
        return
    head, hidden = 8, 60
    config = {
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": 31, "hidden_size": hidden,
        "head_dim": head, "intermediate_size": width, "num_hidden_layers": 2, "num_attention_heads": kv * group,
        "num_key_value_heads": kv, "sliding_window": None,
    }  # fmt: skip
    plan = growformer.plan_padding(config, tensor_parallel=tp, multiple_of=unit, consumer=name)
    found = plan.target_sizes

    def fits(heads: int, kv_heads: int) -> bool:
        shared = name != "transformers" and kv_heads < tp and tp % kv_heads == 0
        return heads % tp == 0 and (heads // tp * head) % unit == 0 and (kv_heads % tp == 0 or shared)

    def cost(heads: int, kv_heads: int) -> int:
        return heads + kv_heads

    assert fits(found[H], found[HKV])
    assert found[MLP] % (tp * unit) == 0
    assert found[MLP] < width + tp * unit
    options = [(cost(k * g, k), k) for k, g in product(range(kv, 25), range(group, 45)) if fits(k * g, k)]
    assert cost(found[H], found[HKV]) == min(options)[0]
    assert found[HIDDEN] == hidden


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_outputs_stay(name: str, trainable: bool) -> None:
    model, inputs = randomised(family(name)).double(), {"input_ids": tokens()}
    padded = growformer.pad(model, tensor_parallel=4, multiple_of=2, consumer="transformers", trainable=trainable)
    assert type(padded) is type(model)
    assert padded.config.num_attention_heads % 4 == 0
    assert padded.config.num_attention_heads > model.config.num_attention_heads
    with torch.no_grad():
        before, after = model(**inputs)[0], padded(**inputs)[0]
        after = after[..., : before.shape[-1]]  # BertModel returns its hidden states, which may be longer
        assert (before - after).abs().max() < 1e-12 * before.abs().max() + 1e-13
        weights = (p for n, p in padded.named_parameters() if n.endswith(OUTPUTS))
        last = next(weights)
        last.add_(0.1 * torch.randn_like(last))  # negative control: what is new does reach the outputs
        assert (before - padded(**inputs)[0][..., : before.shape[-1]]).abs().max() > 1e-6


def test_new_weights_are_zero_unless_trained() -> None:
    model = llama()
    zero = growformer.pad(model, tensor_parallel=4, consumer="vllm").state_dict()
    free = growformer.pad(model, tensor_parallel=4, consumer="vllm", trainable=True).state_dict()
    name = "model.layers.1.mlp.gate_proj.weight"
    assert zero[name].shape == (40, 48)
    assert not zero[name][37:].any()
    assert free[name][37:].all()
    assert torch.equal(zero[name][:37], model.state_dict()[name])
    down = "model.layers.1.mlp.down_proj.weight"
    assert not free[down][:, 37:].any()


# As ranks compute it.


def _alone(model: Any, plan: growformer.Plan) -> torch.Tensor:
    """Return what one rank computes that has all of the source."""
    config = {**plan.source_sizes, "rope_parameters": {"rope_theta": 1e6}}
    return simulated.logits(model.state_dict(), config, tokens(), 1, 8)


PARALLEL = [
    (8, 8, "vllm", 1), (8, 4, "sglang", 1), (4, 16, "vllm", 2), (2, 1, "transformers", 2), (3, 2, "vllm", 1),
    (6, 2, "vllm", 3),
]  # fmt: skip


@pytest.mark.parametrize(("tp", "group", "consumer", "kv"), PARALLEL)
def test_ranks_compute_what_the_source_does(tp: int, group: int, consumer: str, kv: int) -> None:
    model = qwen2(num_attention_heads=7 * kv, num_key_value_heads=kv, hidden_size=56 * kv).double()
    plan = growformer.plan_padding(model, tensor_parallel=tp, multiple_of=group, consumer=consumer, trainable=True)
    padded = growformer.pad(model, plan=plan)
    config = {**plan.target_sizes, "rope_parameters": {"rope_theta": 1e6}}
    rule = consumer_of(consumer).rule(config["model_type"])
    head = config[HIDDEN] // config[H] if rule.head_dim == "quotient" else config["head_dim"]
    assert head == 8
    assert config[H] // tp * head % group == 0
    assert config[MLP] // tp % group == 0
    found = simulated.logits(padded.state_dict(), config, tokens(), tp, head)
    expected = outputs(model)
    # The source computes its angles in float32, whatever the dtype of its weights.
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    one = _alone(model, plan)
    assert (found - one).abs().max() < 1e-12 * expected.abs().max()


def test_the_simulation_sees_heads_in_the_wrong_group() -> None:
    model = qwen2(num_attention_heads=14, num_key_value_heads=2, hidden_size=112)
    plan = growformer.plan_padding(model, tensor_parallel=8, consumer="vllm")
    config = {**plan.target_sizes, "rope_parameters": {"rope_theta": 1e6}}
    right = growformer.pad(model, plan=plan).state_dict()
    one = _alone(model, plan)
    assert (simulated.logits(right, config, tokens(), 8, 8) - one).abs().max() < 1e-10
    # The two new heads at the end instead of one in each group.
    naive = dict(right)
    for name, tensor in model.state_dict().items():
        if "q_proj" in name:
            naive[name] = torch.cat([tensor, torch.zeros(16, *tensor.shape[1:])])
        elif name.endswith("o_proj.weight"):
            naive[name] = torch.cat([tensor, torch.zeros(tensor.shape[0], 16)], 1)
    assert (simulated.logits(naive, config, tokens(), 8, 8) - one).abs().max() > 1e-2


def test_the_class_rule_matters() -> None:
    model = qwen2()
    plan = growformer.plan_padding(model, tensor_parallel=8, consumer="sglang")
    assert plan.target_config["model_type"] == "qwen2"
    assert plan.target_config["head_dim"] == 8
    padded = growformer.pad(model, plan=plan)
    config = {**plan.target_sizes, "rope_parameters": {"rope_theta": 1e6}}
    assert (simulated.logits(padded.state_dict(), config, tokens(), 8, 8) - outputs(model)).abs().max() < 1e-4
    with pytest.raises(RuntimeError):  # vLLM's Qwen2 would take 56 // 8 = 7 for a head
        simulated.logits(padded.state_dict(), config, tokens(), 8, config[HIDDEN] // config[H])


def test_shares() -> None:
    plan = growformer.plan_padding(QWEN2_7B, tensor_parallel=8, multiple_of=128, consumer="vllm")
    found = shares(plan, 8, consumer_of("vllm"))
    assert [s.heads for s in found] == [(4, 4), (4, 3)] * 4
    assert [s.kv_heads for s in found] == [(1, 1)] * 8
    assert [s.mlp for s in found] == [(2432, 2432)] * 7 + [(2432, 1920)]
    assert idle_ranks(found) == []
    plan = growformer.plan_padding(QWEN2_7B, tensor_parallel=8)
    assert idle_ranks(shares(plan, 8, consumer_of("transformers"))) == [4, 5, 6, 7]
    assert shares(plan, 5, consumer_of("transformers")) == []


# What cannot be.


def test_sliding_windows_stay_qwen2() -> None:
    windows = {**QWEN2_7B, "use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 14}
    plan = growformer.plan_padding(windows, tensor_parallel=8, consumer="vllm")
    assert plan.target_config["model_type"] == "qwen2"
    assert plan.target_config[HIDDEN] == 4096


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to fit: name tensor_parallel, multiple_of, or both"),
        ({"tensor_parallel": 0}, "tensor_parallel = 0: expected a whole number from 1 on"),
        ({"multiple_of": True}, "multiple_of = True: expected a whole number from 1 on"),
        (
            {"tensor_parallel": 2, "consumer": "vlm"},
            "unknown consumer 'vlm': expected one of transformers, vllm, sglang",
        ),
    ],
)
def test_wrong_requests(options: dict[str, Any], message: str) -> None:
    with pytest.raises(growformer.RequestError) as raised:
        growformer.plan_padding(SMOLLM2, **options)
    assert message in str(raised.value)


def test_nothing_fits() -> None:
    with pytest.raises(growformer.RequestError) as raised:
        growformer.plan_padding(BERT, tensor_parallel=11)
    assert "no sizes of bert fit tensor_parallel = 11 and multiple_of = 1 for transformers" in str(raised.value)


def test_out_and_live_models() -> None:
    with pytest.raises(growformer.RequestError, match="a live model is returned"):
        growformer.pad(llama(), "out", tensor_parallel=2)  # type: ignore[call-overload]
    with pytest.raises(growformer.RequestError, match="a folder is padded into another"):
        growformer.pad("folder", tensor_parallel=2)  # type: ignore[call-overload]
    plan = growformer.plan_padding(llama(), tensor_parallel=4, consumer="vllm")
    with pytest.raises(growformer.RequestError, match="tensor_parallel: the plan decides that already"):
        growformer.pad(llama(), plan=plan, tensor_parallel=4)


def test_round_up() -> None:
    assert [round_up(n, 8) for n in (1, 8, 9)] == [8, 8, 16]
    assert Fit(tensor_parallel=2).consumer.name == "transformers"
