"""FLOPs by declaration against what PyTorch counts, forward and backward, on models of several families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

import growformer
from growformer import RequestError
from growformer.api import inspect
from growformer.sizing.flops import Flops, count_flops

BATCH, LENGTH = 3, 11
TINY = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "attn_implementation": "eager"}
MOE = {**TINY, "experts_implementation": "eager"}


def llama(**sizes: Any) -> Any:
    config = {
        "vocab_size": 31, "hidden_size": 20, "intermediate_size": 23, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 32,
    }  # fmt: skip
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**config, **sizes}, **TINY))


MODELS: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "llama, tied": lambda: llama(tie_word_embeddings=True),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=29, n_positions=32, n_embd=21, n_layer=2, n_head=3, n_inner=47, **TINY)
    ),
    "bert": lambda: transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=43, hidden_size=20, intermediate_size=29, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=32, **TINY,
        )
    ),
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=37, d_model=18, d_kv=7, d_ff=25, num_layers=2, num_decoder_layers=3, num_heads=3,
            decoder_start_token_id=0, **TINY,
        )
    ),
    "mixtral": lambda: transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=31, hidden_size=24, intermediate_size=23, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2, max_position_embeddings=32, **MOE,
        )
    ),
    "qwen3_moe, one dense layer": lambda: transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            vocab_size=31, hidden_size=20, intermediate_size=27, moe_intermediate_size=13, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, head_dim=6, num_experts=7, num_experts_per_tok=3,
            mlp_only_layers=[1], decoder_sparse_step=1, max_position_embeddings=32, **MOE,
        )
    ),
    "deepseek_v3, latent attention": lambda: transformers.DeepseekV3ForCausalLM(
        transformers.DeepseekV3Config(
            vocab_size=31, hidden_size=20, intermediate_size=27, moe_intermediate_size=13, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=4, q_lora_rank=9, kv_lora_rank=11, qk_nope_head_dim=6,
            qk_rope_head_dim=4, v_head_dim=10, n_routed_experts=6, num_experts_per_tok=2, n_group=2, topk_group=1,
            n_shared_experts=1, first_k_dense_replace=1, max_position_embeddings=32, **MOE,
        )
    ),
}  # fmt: skip


def counted(name: str) -> tuple[Any, int, int]:
    """Return a model, and what PyTorch counts in its forward and in its backward pass."""
    torch.manual_seed(5)
    model = MODELS[name]().train()
    ids = torch.randint(3, 29, (BATCH, LENGTH))
    with FlopCounterMode(display=False) as forward:
        loss = model(input_ids=ids, labels=ids).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return model, forward.get_total_flops(), backward.get_total_flops()


def said(model: Any, **sizes: Any) -> Flops:
    found = inspect(model)
    flops = count_flops(found.architecture, found.source, sizes)
    assert flops is not None
    return flops


@pytest.mark.parametrize("name", MODELS)
def test_flops_are_what_pytorch_counts(name: str) -> None:
    model, forward, backward = counted(name)
    flops = said(model)
    assert flops.forward(BATCH * LENGTH, LENGTH) == forward
    assert flops.training(BATCH * LENGTH, LENGTH) == forward + backward


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_wrong_count_would_be_seen(name: str) -> None:
    """What is counted follows from the declaration: without an arrow or a contraction it is another number."""
    model, forward, _ = counted(name)
    found = inspect(model)
    architecture = found.architecture
    without = count_flops(replace(architecture, attention=()), found.source)
    assert without is not None
    assert without.forward(BATCH * LENGTH, LENGTH) != forward
    if architecture.active:
        every = count_flops(replace(architecture, active={"expert": "num_local_experts"}), found.source)
        assert every is not None
        assert every.forward(BATCH * LENGTH, LENGTH) > forward


def test_at_other_sizes_it_is_what_a_model_of_those_sizes_costs() -> None:
    sizes = {"num_hidden_layers": 5, "intermediate_size": 41, "vocab_size": 53}
    assert said(llama(), **sizes) == said(llama(**sizes))
    assert said(llama(), **sizes) != said(llama())


def test_what_the_declaration_does_not_say_is_not_counted() -> None:
    config = transformers.ViTConfig(hidden_size=20, num_hidden_layers=1, num_attention_heads=4, intermediate_size=7)
    found = inspect(transformers.ViTModel(config))
    assert count_flops(found.architecture, found.source) is None
    with pytest.raises(RequestError, match="vit: how many tokens meet every weight is not declared"):
        growformer.flops(transformers.ViTModel(config))
    assert growformer.flops(llama()) == said(llama())


@pytest.mark.parametrize("name", MODELS)
def test_a_config_alone_costs_what_its_model_costs(name: str) -> None:
    model = MODELS[name]()
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    found = inspect(config)
    assert found.num_parameters == inspect(model).num_parameters
    assert count_flops(found.architecture, found.source) == said(model)
