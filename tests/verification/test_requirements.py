"""Blocks are held against what must be there, and what is called free is free.

The second is tested against the classes of ``transformers``: all that the check calls free is filled at random, and
outputs must stay.
"""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.verification.support import (
    UNTIED,
    Grown,
    config_of,
    grown,
    request_of,
)

from growformer.architecture import Architecture, rms_norm
from growformer.architecture.exact import Root
from growformer.architecture.language import parse_arrow
from growformer.architecture.registry import architectures
from growformer.architecture.source import describe, from_config, specialised, stored_name
from growformer.execute.state_dict import grow_state_dict
from growformer.planning.blocks import Affine, Block, Constant, Fill
from growformer.planning.planner import make_plan
from growformer.verification.held import take
from growformer.verification.plan_check import check, check_plan, check_tensor
from growformer.verification.recorded import Recorded
from growformer.verification.regions import count, spread
from growformer.verification.requirements import Free, MeanOf, Value, requirements


def test_blocks_that_overlap_or_leave_gaps_are_found() -> None:
    made = grown("llama", "all")
    name = "layers.0.mlp.down_proj.weight"
    found = made.plan.tensor(name)
    for blocks, expected in (
        (found.blocks[1:], "values in blocks"),
        ((*found.blocks, found.blocks[0]), "expected one block, found two"),
        ((*found.blocks, Block((slice(0, 99), slice(0, 1)), Constant(0.0))), "a region inside of the tensor"),
    ):
        tensors = [replace(t, blocks=blocks) if t.name == name else t for t in made.plan.tensors()]
        (violation,) = check_plan(made.data, tensors)
        assert violation.where == f"model.{name}"
        assert expected in str(violation)


@UNTIED
def test_every_block_is_held_against_what_must_be_there(family: str) -> None:
    made = grown(family, "all")
    tried = set()
    rec = Recorded.read(made.data)
    for tensor in made.plan.tensors():
        needed = requirements(rec, tensor.template, dict(tensor.index))
        if all(isinstance(r.must, Free) for use in needed.uses for r in use):
            continue
        for at, block in enumerate(tensor.blocks):
            value = block.value
            if isinstance(value, Affine):
                others: list[Any] = [replace(value, scale=value.scale * Root.sqrt(Fraction(5, 4))), Constant(0.0)]
            elif isinstance(value, Constant):
                fresh = Fill(tensor.name, block.region, "weight")
                others = [Constant(value.value + 1.0), fresh]
            else:
                continue
            tried.add(type(value))
            for other in others[at % 2 :][:1]:
                blocks = (*tensor.blocks[:at], replace(block, value=other), *tensor.blocks[at + 1 :])
                kinds = {v.kind for v in check_tensor(needed, replace(tensor, blocks=blocks))}
                assert kinds == {"block"}, (tensor.name, block, other)
    assert tried == {Affine, Constant}


def test_means_are_taken_over_what_a_layer_norm_averages() -> None:
    """A LayerNorm on keys averages over each head apart, though all heads lie in one dimension."""
    llama = architectures()["llama"]
    norm = replace(rms_norm("k_raw -> k", over="(pair freq)", eps="rms_norm_eps"), centred=True, bias=True)
    key = replace(llama.arrows["layers.{layer}.self_attn.k_proj"], bias=False)
    source, target = parse_arrow("normed -> k_raw:(kv_heads pair freq)")
    family = llama.extend(
        "keys",
        model_types=("keys",),
        arrows={
            "layers.{layer}.self_attn.k_proj": replace(key, source=source, target=target),
            "layers.{layer}.self_attn.k_norm": norm,
        },
    )
    rec = Recorded.read(_record(family, "key"))
    found = requirements(rec, "layers.{layer}.self_attn.k_proj.weight", {"layer": 0})
    means = [r for r in found.uses[0] if isinstance(r.must, MeanOf)]
    assert [spread(r.must.region[0]).tolist() for r in means] == [list(range(8)), list(range(8, 16))]
    assert [spread(r.copies[0][0]).tolist() for r in means] == [[4, 5, 10, 11], [16, 17, 22, 23]]
    assert all(r.must.scale == Root.sqrt(Fraction(3, 2)) for r in means)


def _record(family: Architecture, growth: str) -> dict[str, Any]:
    """Return the record of a growth whose blocks are not looked at."""
    config = {**config_of(family, False), "attention_bias": False}
    plan = make_plan(family, from_config(family, config), request_of(family, growth))
    return json.loads(plan.to_json())


def test_a_branch_that_is_added_without_a_weight_is_silenced_in_new_layers() -> None:
    llama = architectures()["llama"]
    source, target = parse_arrow("mlp -> branch:stream")
    down = replace(llama.arrows["layers.{layer}.mlp.down_proj"], source=source, target=target)
    family = replace(
        llama.extend("branch", model_types=("branch",), arrows={"layers.{layer}.mlp.down_proj": down}),
        adds=(("branch", "stream"),),
    )
    rec = Recorded.read(_record(family, "layers"))
    new = next(i for i in rec.instances(("layer",)) if rec.is_new(i))
    (use,) = requirements(rec, "layers.{layer}.mlp.down_proj.weight", new).uses
    assert [(type(r.must), float(r.must)) for r in use] == [(Value, 0.0)]


def test_requirements_cover_every_tensor_once() -> None:
    for family in ("llama", "gpt2", "bert"):
        made = grown(family, "all")
        rec = Recorded.read(made.data)
        for spec, index in rec.specs():
            found = requirements(rec, spec.template, index)
            for use in found.uses:
                assert sum(count(region) for r in use for region in r.copies) == made.target[found.stored].numel()


# What is called free is free.


def _fill_at_random(made: Grown, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return the target with other free values, and with noise on copies that leaves their sums."""
    rec = Recorded.read(made.data)
    target = {name: tensor.clone() for name, tensor in made.target.items()}
    for spec, index in rec.specs():
        found = requirements(rec, spec.template, index)
        tensor = take(target[found.stored], found.held.piece)
        for region, _ in found.free_regions():
            where = np.ix_(*map(spread, region))
            tensor[where] = torch.randn(tensor[where].shape, generator=generator, dtype=tensor.dtype)
        for requirement in found.uses[0] if len(found.uses) == 1 else ():
            if len(requirement.copies) > 1:
                first, second = (np.ix_(*map(spread, region)) for region in requirement.copies[:2])
                noise = torch.randn(tensor[first].shape, generator=generator, dtype=tensor.dtype)
                tensor[first] += noise
                tensor[second] -= noise
    return target


CLASSES = {
    "llama": (
        "LlamaForCausalLM",
        {"attention_bias": True, "mlp_bias": True, "head_dim": 8, "num_key_value_heads": 2},
        {
            "hidden_size": 48,
            "intermediate_size": 23,
            "num_attention_heads": 12,
            "num_key_value_heads": 3,
            "head_dim": 16,
        },
    ),
    "llama tied": (
        "LlamaForCausalLM",
        {"tie_word_embeddings": True, "head_dim": 8, "num_key_value_heads": 2},
        {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 12},
    ),
    "qwen3": (
        "Qwen3ForCausalLM",
        {"attention_bias": True, "head_dim": 8, "num_key_value_heads": 2},
        {
            "hidden_size": 48,
            "intermediate_size": 23,
            "num_attention_heads": 12,
            "num_key_value_heads": 3,
            "head_dim": 12,
        },
    ),
    "gpt2": ("GPT2LMHeadModel", {}, {"n_embd": 36, "n_inner": 100, "n_head": 4}),
    "bert": ("BertForMaskedLM", {}, {"hidden_size": 48, "num_attention_heads": 8, "intermediate_size": 23}),
    "bert key": ("BertForMaskedLM", {}, {"hidden_size": 48, "num_attention_heads": 4}),
    "gemma2": (
        "Gemma2ForCausalLM",
        {"head_dim": 8, "num_key_value_heads": 2, "query_pre_attn_scalar": 5},
        {
            "hidden_size": 36, "intermediate_size": 23, "num_attention_heads": 6, "num_key_value_heads": 3,
            "head_dim": 16,
        },
    ),
    "olmo": (
        "OlmoForCausalLM",
        {"num_key_value_heads": 2, "tie_word_embeddings": False},
        {"hidden_size": 48, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 23},
    ),
    "olmo2": (
        "Olmo2ForCausalLM",
        {"num_key_value_heads": 2, "tie_word_embeddings": False},
        {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 23},
    ),
    "mixtral": (
        "MixtralForCausalLM",
        {"num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 8},
        {
            "hidden_size": 36, "intermediate_size": 23, "num_attention_heads": 6, "num_key_value_heads": 3,
            "head_dim": 16,
        },
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        {"num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 8},
        {"hidden_size": 36, "intermediate_size": 23, "num_attention_heads": 6, "num_key_value_heads": 3},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {
            "q_lora_rank": 6, "kv_lora_rank": 7, "qk_nope_head_dim": 5, "qk_rope_head_dim": 4, "v_head_dim": 6,
            "moe_intermediate_size": 9, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
            "first_k_dense_replace": 1, "num_key_value_heads": 4,
        },
        {
            "hidden_size": 36, "num_attention_heads": 6, "moe_intermediate_size": 11, "v_head_dim": 8,
            "qk_nope_head_dim": 7, "qk_rope_head_dim": 8, "kv_lora_rank": 9, "q_lora_rank": 8,
        },
    ),
    "bloom": ("BloomForCausalLM", {}, {"n_head": 8, "hidden_size": 48}),
    "gpt_neox": (
        "GPTNeoXForCausalLM",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4}},
        {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 23},
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", CLASSES)
def test_outputs_do_not_depend_on_what_is_free(model: str) -> None:
    family = model.split()[0]
    class_name, options, request = CLASSES[model]
    names = {"hidden": 24, "mlp": 20, "heads": 4, "layers": 2}
    architecture = architectures()[family]
    sizes = {architecture.roles[role]: size for role, size in names.items() if role in architecture.roles}
    model_class = getattr(transformers, class_name)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = model_class.config_class(vocab_size=50, **sizes, **options, **special)
    config._experts_implementation = "eager"  # the others know no float64
    generator = torch.Generator().manual_seed(0)
    source = model_class(config).eval().double()
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            gain = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64) + gain)
    state = source.state_dict()
    plain = {**json.loads(source.config.to_json_string(use_diff=False)), "architectures": [class_name]}
    tied = {head for head in architecture.ties if plain.get(str(architecture.tie_field))}
    prefix = f"{architecture.prefix}."
    aliases = {h: stored_name(architecture, prefix, architecture.ties[h]) for h in tied if h in state}
    shapes = {name: (tuple(t.shape), "float64") for name, t in state.items()}
    architecture = specialised(architecture, shapes)
    info = describe(architecture, plain, shapes, aliases=aliases)
    plan = make_plan(architecture, info, {**request, architecture.roles["layers"]: 4}, init="noise")
    assert check(plan) == []
    made = Grown(plan, dict(state), grow_state_dict(plan, state))
    target = _fill_at_random(made, generator)
    assert made.compare(target).ok
    larger_config = model_class.config_class.from_dict(dict(plan.target_config))
    larger_config._experts_implementation = "eager"
    larger = model_class(larger_config).eval().double()
    missing, unexpected = larger.load_state_dict(target, strict=False)
    assert not unexpected
    assert set(missing) <= set(aliases)
    larger.tie_weights()
    ids = torch.randint(0, 50, (2, 9), generator=generator)
    with torch.no_grad():
        before, after = source(ids).logits, larger(ids).logits
        # Norms and softmax run in float32 in these classes.
        assert (after - before).abs().max() < 2e-5 * before.abs().max()
        # And the random fill was not idle.
        changed = sum(int((target[n] != made.target[n]).sum()) for n in target)
        assert changed > 1000
