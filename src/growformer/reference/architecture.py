"""The declaration of the reference transformer: sizes with ``[layer]`` and ``[head]``, and heads as an index axis."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from growformer.architecture.declaration import (
    Architecture,
    Arrow,
    Attention,
    embedding,
    linear_transposed,
    rms_norm,
)

_FLAGS = {"pre_branch_norm": True, "post_branch_norm": False, "final_norm": False}


def reference_architecture(config: Mapping[str, Any]) -> Architecture:
    """Return the declaration of a reference transformer with the norms that its config asks for."""
    return _declare(**{name: bool(config.get(name, default)) for name, default in _FLAGS.items()})


@lru_cache(maxsize=8)
def _declare(*, pre_branch_norm: bool, post_branch_norm: bool, final_norm: bool) -> Architecture:
    layer, head, eps = "layers.{layer}", "layers.{layer}.heads.{head}", "norm_eps"
    reads = ("mha_input", "mlp_input") if pre_branch_norm else ("stream", "stream")
    writes = ("mha_output", "mlp_output") if post_branch_norm else ("stream", "stream")
    result = "final" if final_norm else "stream"

    def norm(arrow: str, when: bool) -> dict[str, Arrow]:
        return {"": rms_norm(arrow, eps=eps)} if when else {}

    def named(name: str, found: dict[str, Arrow]) -> dict[str, Arrow]:
        return {name + suffix: arrow for suffix, arrow in found.items()}

    # The space of a branch's output is spelled out where a norm of its own follows.
    branch = [name if name == "stream" else f"{name}:stream" for name in writes]
    return Architecture(
        name="reference",
        model_types=("reference",),
        sizes={
            "layer": "num_hidden_layers",
            "head": "num_heads[layer]",
            "stream": "hidden_size",
            "mlp": "mlp[layer]",
            "key": "key[layer][head]",
            "value": "value[layer][head]",
            "input": "input_size",
            "position": "max_positions",
            "output": "output_size",
        },
        arrows={
            "embedding": embedding("input -> stream"),
            "positions": embedding("position -> stream"),
            **named(f"{layer}.mha_norm", norm(f"stream -> {reads[0]}", pre_branch_norm)),
            f"{head}.query": linear_transposed(f"{reads[0]} -> q:key"),
            f"{head}.key": linear_transposed(f"{reads[0]} -> k:key"),
            f"{head}.value": linear_transposed(f"{reads[0]} -> v:value"),
            f"{head}.output": linear_transposed(f"attended:value -> {branch[0]}"),
            **named(f"{layer}.mha_post_norm", norm(f"{writes[0]} -> stream", post_branch_norm)),
            **named(f"{layer}.mlp_norm", norm(f"stream -> {reads[1]}", pre_branch_norm)),
            f"{layer}.mlp.up": linear_transposed(f"{reads[1]} -> mlp", bias=True),
            f"{layer}.mlp.down": linear_transposed(f"mlp -> {branch[1]}", bias=True),
            **named(f"{layer}.mlp_post_norm", norm(f"{writes[1]} -> stream", post_branch_norm)),
            **named("norm", norm(f"stream -> {result}", final_norm)),
            "output": linear_transposed(f"{result} -> output"),
        },
        attention=(
            Attention(
                query="q", key="k", value="v", output="attended", over=("key",), scale="1 / sqrt(key[layer][head])"
            ),
        ),
        defaults={**_FLAGS, "norm_eps": 1e-6, "initializer_range": 0.02},
        constants={
            name: (value, "another declaration; take reference_architecture(config)")
            for name, value in (
                ("pre_branch_norm", pre_branch_norm),
                ("post_branch_norm", post_branch_norm),
                ("final_norm", final_norm),
            )
        },
        fixed={
            "input": "other inputs are another function",
            "position": "more positions are not covered by any theorem of the paper",
            "output": "more outputs are another function",
        },
        aliases={"intermediate_size": "mlp", "num_attention_heads": "num_heads", "num_layers": "num_hidden_layers"},
        roles={
            "hidden": "hidden_size",
            "mlp": "mlp",
            "heads": "num_heads",
            "key": "key",
            "value": "value",
            "layers": "num_hidden_layers",
        },
    )


REFERENCE = _declare(**_FLAGS)
"""The paper's own transformer: a norm in front of each branch, and no other."""

__all__ = ["REFERENCE", "reference_architecture"]
