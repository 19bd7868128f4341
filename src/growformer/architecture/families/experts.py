"""What families with experts share: gated MLPs one by one, as on disk, how classes pack them, which layers have any."""

from __future__ import annotations

from typing import Any

from growformer.architecture.declaration import Arrow, LayerKind, Packed, linear, parameter

LAYER = "layers.{layer}"


def gated(
    name: str,
    mlp: str,
    *,
    when: str | None = None,
    bias: bool | str = False,
    reads: str = "mlp_normed",
    writes: str = "stream",
) -> dict[str, Arrow]:
    """Return the three matrices of a gated MLP, which is this module of a layer and has this axis inside."""
    return {
        f"{LAYER}.{name}.gate_proj": linear(f"{reads} -> {mlp}", bias=bias, when=when),
        f"{LAYER}.{name}.up_proj": linear(f"{reads} -> {mlp}", bias=bias, when=when),
        f"{LAYER}.{name}.down_proj": linear(f"{mlp} -> {writes}", bias=bias, when=when),
    }


def experts(
    router: str = "gate",
    *,
    block: str = "mlp",
    when: str | None = None,
    bias: bool = False,
    correction: str | None = None,
    shared: str | None = None,
    shared_bias: bool | str = False,
    **ends: str,
) -> dict[str, Arrow]:
    """Return a router with its experts.

    Args:
        router: its module.
        block: the module that holds it all.
        when: in which layers.
        bias: of the router and of every expert.
        correction: a bias on scores, by which classes balance the load of experts.
        shared: module of an expert that is always asked.
        shared_bias: its biases.
        ends: what they read and write, as for ``gated``.
    """
    reads = ends.get("reads", "mlp_normed")
    found = {f"{LAYER}.{block}.{router}": linear(f"{reads} -> router:expert", bias=bias, when=when)}
    if correction is not None:
        found[f"{LAYER}.{block}.{correction}"] = parameter("-> router:expert", when=when)
    found |= gated(f"{block}.experts.{{expert}}", "expert_mlp", when=when, bias=bias, **ends)
    if shared is not None:
        found |= gated(f"{block}.{shared}", "shared_mlp", when=when, bias=shared_bias, **ends)
    return found


def some_experts(when: str, router: str = "gate", *, bias: bool | str = False, **how: Any) -> dict[str, Arrow]:
    """Return experts in the layers where a condition holds, and an MLP in all others.

    ``bias``: of the MLP and of an expert that is always asked; the rest is as for ``experts``.
    """
    ends = {name: how[name] for name in ("reads", "writes") if name in how}
    dense = gated("mlp", "mlp", when=f"not ({when})", bias=bias, **ends)
    return {**dense, **experts(router, when=when, shared_bias=bias, **how)}


def packed(
    block: str = "mlp.experts", *, bias: bool = False, transposed: bool = False, interleaved: bool = False
) -> dict[str, Packed]:
    """Return how classes hold experts in memory: all in one, gate and up beside each other or interleaved."""
    at = f"{LAYER}.{block}"
    return {
        f"{at}.{whole}{ending}": Packed(
            parts=tuple(f"{at}.{{expert}}.{name}.{part}" for name in names), stack="expert",
            interleaved=interleaved, transposed=transposed,
        )
        for whole, names in {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.items()
        for part, ending in {"weight": "", "bias": "_bias"}.items()
        if bias or part == "weight"
    }  # fmt: skip


NO_MLP = dict.fromkeys(gated("mlp", "mlp"))
ASKED = {"expert": "num_experts_per_tok"}
NO_MORE_EXPERTS = {"expert": "more experts change what the router picks"}
NO_NEXT_TOKENS = "it predicts further tokens, from layers that are changed now"
NEXT = {"layer": ("num_nextn_predict_layers", NO_NEXT_TOKENS)}

SPARSE = "layer not in mlp_only_layers and (layer + 1) % decoder_sparse_step == 0"
STEPS = LayerKind(
    when=SPARSE,
    settle={"decoder_sparse_step": "1", "mlp_only_layers": "others"},
    because="whether a layer has experts follows from its number (decoder_sparse_step, mlp_only_layers)",
)
LATER = "layer >= first_k_dense_replace"
FIRST_DENSE = LayerKind(
    when=LATER,
    settle={"first_k_dense_replace": "num_others"},
    because="the first layers (first_k_dense_replace) have no experts and all others do",
)
LISTED = "mlp_layer_types[layer] == 'sparse'"
LISTS = ("layer_types", "mlp_layer_types")
