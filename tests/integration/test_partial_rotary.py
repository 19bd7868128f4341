"""A share of a head is rotated: what is new goes to the part that is not, and the class must round to the same size."""

from __future__ import annotations

import torch
from tests.families.case import Case
from tests.integration.cases import tokens

import growformer
from growformer.verification.outputs import compare_outputs

GLM = Case(
    model_type="glm",
    model="GlmForCausalLM",
    config={
        "vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 2, "head_dim": 40, "pad_token_id": None, "bos_token_id": 0,
        "eos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
    },
)  # fmt: skip


def test_a_share_that_rounds_down_by_one_is_not_written() -> None:
    """int(44 * (30 / 44)) is 29: with 30 / 44 as the share, a plane would be cut in half."""
    model = GLM.build()
    assert int(40 * 0.75) == 30
    assert int(44 * (30 / 44)) == 29
    plan = growformer.plan(model, head_dim=44, init="noise")
    grown = growformer.grow(model, plan=plan)
    rotated = [m.model.rotary_emb.inv_freq for m in (model, grown)]  # type: ignore[union-attr]
    assert torch.equal(*rotated)
    assert rotated[0].numel() == 15
    assert compare_outputs(model, grown, tokens(GLM)).ok
