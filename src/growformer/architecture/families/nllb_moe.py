"""NLLB-MoE: M2M-100's layers under other names, every so many of them with experts."""

from dataclasses import replace

from growformer.architecture.declaration import Arrow, LayerKind, linear
from growformer.architecture.families.bart import SIDES
from growformer.architecture.families.pegasus import M2M_100

_NAMES = (
    ("encoder_attn", "cross_attention"), (".final_layer_norm", ".ff_layer_norm"), (".fc1", ".ffn.fc1"),
    (".fc2", ".ffn.fc2"),
)  # fmt: skip


def _sparse(side: str) -> str:
    return f"{side}_sparse_step > 0 and ({side}_layer + 1) % {side}_sparse_step == 0"


def _renamed(name: str) -> str:
    for old, new in _NAMES:
        name = name.replace(old, new)
    return name


def _layers() -> dict[str, Arrow | None]:
    found: dict[str, Arrow | None] = {}
    for name, arrow in M2M_100.arrows.items():
        own, side = _renamed(name), name.split(".")[0]
        if own != name:
            found[name] = None
            found[own] = replace(arrow, when=f"not ({_sparse(side)})") if ".ffn." in own else arrow
    for side in SIDES:
        at = f"{side}.layers.{{{side}_layer}}.ffn"
        normed, experts = f"{side}_mlp_normed", f"{at}.experts.expert_{{expert}}"
        found |= {
            f"{at}.router.classifier": linear(
                f"{normed} -> {side}_router:expert", bias="router_bias", when=_sparse(side)
            ),
            f"{experts}.fc1": linear(f"{normed} -> {side}_expert_mlp", bias=True, when=_sparse(side)),
            f"{experts}.fc2": linear(f"{side}_expert_mlp -> {side}_stream", bias=True, when=_sparse(side)),
        }
    return found


NLLB_MOE = M2M_100.extend(
    "nllb_moe",
    model_types=("nllb-moe",),
    sizes={"expert": "num_experts", **{f"{side}_expert_mlp": f"{side}_ffn_dim" for side in SIDES}},
    arrows={**_layers(), "final_logits_bias": None},
    defaults={"num_experts": 128, "router_bias": False, **{f"{side}_sparse_step": 4 for side in SIDES}},
    kinds=tuple(
        LayerKind(when=_sparse(side), because=f"which layers have experts follows from {side}_sparse_step")
        for side in SIDES
    ),
    fixed={"expert": "more experts change what the router picks"},
    heads=("lm_head",),
)
