"""A small declaration that the tests vary, with configs before and after growth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from growformer.architecture import Architecture, Attention, embedding, linear, rms_norm
from growformer.architecture.exact import Root

TINY = Architecture(
    name="tiny",
    sizes={
        "layer": "layers", "vocab": "vocab", "stream": "hidden", "mlp": "inner", "heads": "heads", "key": "head",
        "value": "head_value",
    },
    arrows={
        "embed": embedding("vocab -> stream"),
        "{layer}.norm": rms_norm("stream -> normed", eps="eps"),
        "{layer}.q": linear("normed -> q:(heads key)"),
        "{layer}.k": linear("normed -> k:(heads key)"),
        "{layer}.v": linear("normed -> v:(heads value)"),
        "{layer}.o": linear("attended:(heads value) -> stream"),
        "{layer}.mlp_norm": rms_norm("stream -> mlp_normed", eps="eps"),
        "{layer}.up": linear("mlp_normed -> mlp"),
        "{layer}.down": linear("mlp -> stream"),
        "final": rms_norm("stream -> result", eps="eps"),
        "head": linear("result -> vocab"),
    },
    attention=(Attention(query="q", key="k", value="v", output="attended", over=("key",), scale="1"),),
    fixed={"vocab": "no"},
)  # fmt: skip
CONFIG: dict[str, Any] = {
    "layers": 2, "vocab": 5, "hidden": 6, "inner": 7, "heads": 2, "head": 3, "head_value": 4, "eps": 0.01,
}  # fmt: skip


def wider(config: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return a config with a larger stream, in the gain form: its epsilon shrinks with the mean square."""
    return {**config, "hidden": size, "eps": config["eps"] * config["hidden"] / size}


#: What a wider stream carries in ``TINY``.
STREAM = {name: {"stream": "silent"} for name in ("stream", "normed", "mlp_normed", "result")}
#: What new heads carry in ``TINY``.
HEADS = {name: {"heads": "live"} for name in ("q", "k", "v", "attended")}


def half() -> Root:
    return Root.parse("1/2")
