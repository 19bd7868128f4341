"""Heads that norms read as a whole, and of which a part is rotated: one axis, at whose end new coordinates lie.

Those are never rotated, as the rotated share is lowered, so it does not matter here which coordinates make a plane.
"""

from __future__ import annotations

from typing import Any

from growformer.architecture.declaration import Arrow, Attention, Rotary, rms_norm
from growformer.architecture.families.parts import LAYER, attention

SIZES = {"pair": None, "freq": "int(head_dim * partial_rotary_factor) / 2", "key": "head_dim"}
NO_PLANES = {"pair": None}


def whole_heads(
    over: str = "", *, bias: bool | str = False, out: bool | str = False, offset: int = 0
) -> dict[str, Arrow]:
    """Return projections of attention, and norms of queries and keys.

    Args:
        over: empty where each head has a norm of its own, ``kv_heads`` where all have one together.
        bias: of queries, keys and values.
        out: bias of the output.
        offset: what is added to the norms' stored gains.
    """
    query, key = (f"({over} group key)", f"({over} key)") if over else ("key", "key")
    return {
        **attention("key", bias=bias, out=out, raw=True),
        f"{LAYER}.self_attn.q_norm": rms_norm("q_raw -> q", over=query, eps="rms_norm_eps", offset=offset),
        f"{LAYER}.self_attn.k_norm": rms_norm("k_raw -> k", over=key, eps="rms_norm_eps", offset=offset),
    }


def scores(**rotary: Any) -> dict[str, Any]:
    """Return contraction and rotation."""
    return {
        "attention": (
            Attention(query="q", key="k", value="v", output="attended", over=("key",), scale="1 / sqrt(head_dim)"),
        ),
        "rotary": (Rotary(frequency="freq", fraction="partial_rotary_factor", **rotary),),
    }
