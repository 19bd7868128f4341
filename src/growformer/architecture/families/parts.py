"""Fragments that decoders of Llama's layout share: projections of grouped heads, MLPs, what rotates."""

from __future__ import annotations

from typing import Any

from growformer.architecture.declaration import Arrow, Attention, Coupling, Multiple, Rotary, linear

HALVES, INTERLEAVED = "pair freq", "freq pair"
"""How a rotated head lies in memory: the first coordinates of all planes before the second ones, or plane by plane."""

HEAD = "hidden_size / num_attention_heads"
"""The size of a head where the class has no field for it."""

MULTIPLE_OF_HEADS = (
    Multiple(
        field="hidden_size",
        of="num_attention_heads",
        because="its config class wants hidden_size to be a multiple of num_attention_heads, even with a head_dim of "
        "its own",
    ),
)
LLAMA3 = {
    "rope_type": "llama3", "original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
"""Rotary parameters of Llama 3, without base and factor."""

LAYER = "layers.{layer}"


def attention(
    head: str = HALVES,
    *,
    bias: bool | str = False,
    out: bool | str = False,
    rest: bool = False,
    raw: bool = False,
    reads: str = "normed",
    writes: str = "stream",
) -> dict[str, Arrow]:
    """Return the projections of attention with grouped heads.

    Args:
        head: axes of a rotated head in memory order.
        bias: whether queries, keys and values have biases.
        out: whether the output has one.
        rest: only the first part of a head is rotated.
        raw: norms read what queries and keys are projected to.
        reads: the space in front of it.
        writes: the space behind it.
    """
    q, k = ("q_raw", "k_raw") if raw else ("q", "k")
    query, key = f"{q}:(kv_heads group {head})", f"{k}:(kv_heads {head})"
    if rest:
        query = f"(kv_heads group [{q}:({head}) {q}_rest:rest])"
        key = f"(kv_heads [{k}:({head}) {k}_rest:rest])"
    return {
        f"{LAYER}.self_attn.q_proj": linear(f"{reads} -> {query}", bias=bias),
        f"{LAYER}.self_attn.k_proj": linear(f"{reads} -> {key}", bias=bias),
        f"{LAYER}.self_attn.v_proj": linear(f"{reads} -> v:(kv_heads value)", bias=bias),
        f"{LAYER}.self_attn.o_proj": linear(f"attended:(kv_heads group value) -> {writes}", bias=out),
    }


def gated_mlp(*, bias: bool | str = False, reads: str = "mlp_normed", writes: str = "stream") -> dict[str, Arrow]:
    """Return an MLP whose two halves meet coordinate by coordinate."""
    return {
        f"{LAYER}.mlp.gate_proj": linear(f"{reads} -> mlp", bias=bias),
        f"{LAYER}.mlp.up_proj": linear(f"{reads} -> mlp", bias=bias),
        f"{LAYER}.mlp.down_proj": linear(f"mlp -> {writes}", bias=bias),
    }


def plain_mlp(
    up: str = "up_proj", down: str = "down_proj", *, bias: bool | str = False, reads: str = "mlp_normed"
) -> dict[str, Arrow | None]:
    """Return an MLP of two matrices, in place of a gated one."""
    return {
        f"{LAYER}.mlp.gate_proj": None, f"{LAYER}.mlp.up_proj": None, f"{LAYER}.mlp.down_proj": None,
        f"{LAYER}.mlp.{up}": linear(f"{reads} -> mlp", bias=bias),
        f"{LAYER}.mlp.{down}": linear("mlp -> stream", bias=bias),
    }  # fmt: skip


def fused_mlp(*, writes: str = "stream") -> dict[str, Arrow | None]:
    """Return a gated MLP whose two halves are one matrix, the gate first."""
    return {
        f"{LAYER}.mlp.gate_proj": None, f"{LAYER}.mlp.up_proj": None,
        f"{LAYER}.mlp.gate_up_proj": linear("mlp_normed -> [mlp:mlp mlp:mlp]"),
        f"{LAYER}.mlp.down_proj": linear(f"mlp -> {writes}"),
    }  # fmt: skip


def rotary_heads(
    size: str = "head_dim",
    *,
    partial: bool = False,
    scale: str | None = None,
    per_head: tuple[str, ...] = (),
    because: str = "",
    **rotary: Any,
) -> dict[str, Any]:
    """Return what a family says of its heads: sizes, contraction, rotation, and couplings where it has no head_dim.

    Args:
        size: ``head_dim``, or ``HEAD``.
        partial: only a share of a head is rotated (``partial_rotary_factor``).
        scale: on the scores; ``1 / sqrt(size)`` unless it is said.
        per_head: spaces with one number per head that enters the scores.
        because: the class's rule, where it has no head_dim.
        rotary: of ``Rotary``.
    """
    rotated = f"int({size} * partial_rotary_factor)"
    sizes = {"freq": f"{size} / 2", "value": size}
    if partial:
        sizes = {"freq": f"{rotated} / 2", "rest": f"{size} - {rotated}", "value": size}
        rotary = {"fraction": "partial_rotary_factor", "of": size, **rotary}
    found: dict[str, Any] = {
        "sizes": sizes,
        "attention": (
            Attention(
                query=("q", "q_rest") if partial else "q", key=("k", "k_rest") if partial else "k", value="v",
                output="attended", over=("pair", "freq", "rest") if partial else ("pair", "freq"),
                scale=scale or f"1 / sqrt({size})", per_head=per_head,
            ),
        ),
        "rotary": (Rotary(frequency="freq", **rotary),),
    }  # fmt: skip
    return found | (no_head_dim(because) if size == HEAD else {})


def no_head_dim(because: str) -> dict[str, Any]:
    """Return what a family says that has no head_dim of its own, so that heads follow hidden_size."""
    coupling = Coupling(field="num_attention_heads", keeps="value", formula="hidden_size / keep", because=because)
    return {
        "coupled": (coupling,),
        "follows": {"head_dim": "hidden_size // num_attention_heads"},
        "roles": {"key": None, "value": None},
    }
