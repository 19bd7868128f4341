"""What a decoder keeps of every token: its keys and values in all layers, from the declaration."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from growformer.architecture.declaration import Architecture, Arrow, spaces_in
from growformer.architecture.facts import Attention
from growformer.architecture.source import SourceInfo
from growformer.sizing.counting import sizes_over

_MATRICES = ("linear", "linear_transposed")
_DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def count_cache(architecture: Architecture, source: SourceInfo, sizes: Mapping[str, Any] | None = None) -> int | None:
    """Return how many numbers a cache of keys and values holds per token, or None where there is no decoder.

    Keys and values of every layer; of latent attention, the latent and the keys that heads share, as ``transformers``
    caches them for DeepSeek. Windows of layers that slide are not looked at: their caches stop growing. Cross-attention
    keeps nothing per generated token.

    Args:
        architecture: the declaration.
        source: says which tensors there are, and by its config's ``architectures`` whether it is a decoder.
        sizes: config fields -> values, over the source's own.

    Raises:
        ArchitectureError: a size would not be a whole number.
    """
    if not str((source.config.get("architectures") or [""])[0]).endswith(_DECODERS):
        return None
    config = sizes_over(architecture, source, sizes or {})
    present = [s for s in architecture.tensors.values() if s.template in source.templates]
    written = {space for spec in present for space in spaces_in(architecture.arrows[spec.owner].target)}
    caching = [c for c in architecture.attention if {*c.keys, c.value} <= written and _is_causal(architecture, c)]
    return sum(_entries(architecture, c, config) for c in caching) if caching else None


def _is_causal(architecture: Architecture, c: Attention) -> bool:
    """Tell whether tokens attend to those before them: not so in encoders, nor where another sequence is read."""
    outer = architecture.spaces[c.value].index
    if any("encoder" in axis or "vision" in axis for axis in outer):
        return False
    if not any("decoder" in axis for axis in outer):
        return True
    reads = [
        {s for a in architecture.arrows.values() if a.kind != "carried" and name in set(spaces_in(a.target))
         for s in spaces_in(a.source)}
        for name in (c.queries[0], c.keys[0])
    ]  # fmt: skip
    return reads[0] == reads[1]


def _entries(architecture: Architecture, c: Attention, config: Mapping[str, Any]) -> int:
    """Return what is kept of one token in all layers."""
    spaces, total = architecture.spaces, 0
    heads = list(dict.fromkeys(a for k in c.keys for a in spaces[k].axes if a not in c.over))
    latent = _latent(architecture, c)
    from_latent = set() if latent is None else {s for a in _reading(architecture, latent) for s in spaces_in(a.target)}
    direct = [k for k in c.keys if k not in from_latent]
    for index in architecture.instances(spaces[c.value].index, config):
        named = {a for s in (*c.keys, c.value, *([latent] if latent else ())) for a in spaces[s].axes}
        size = {a: architecture.size(a, config, index) for a in named}
        if latent is not None:
            total += prod(size[a] for a in spaces[latent].axes)
            total += sum(prod(size[a] for a in spaces[k].axes) for k in direct)
            continue
        # A part of keys that heads share is held by each of them.
        keys = sum(prod(size[a] for a in spaces[k].axes if a in c.over) for k in c.keys)
        total += prod(size[a] for a in heads) * keys + prod(size[a] for a in spaces[c.value].axes)
    return total


def _latent(architecture: Architecture, c: Attention) -> str | None:
    """Return the space that values are made from, where that is a norm of something smaller of the same layer."""
    spaces, arrows = architecture.spaces, architecture.arrows.values()
    made_from = {
        s for a in arrows if a.kind in _MATRICES and c.value in set(spaces_in(a.target)) for s in spaces_in(a.source)
    }
    for norm in (a for a in arrows if a.kind == "norm" and set(spaces_in(a.target)) & made_from):
        if all(spaces[s].index for s in spaces_in(norm.source)):
            return next(iter(spaces_in(norm.target)))
    return None


def _reading(architecture: Architecture, space: str) -> list[Arrow]:
    return [a for a in architecture.arrows.values() if a.kind in _MATRICES and space in set(spaces_in(a.source))]


__all__ = ["count_cache"]
