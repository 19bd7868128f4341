"""Switch Transformers: T5 with a router and experts in every so many layers, each token sent to one."""

from growformer.architecture.declaration import Add, Arrow, LayerKind, linear
from growformer.architecture.families.bart import NO_TIES
from growformer.architecture.families.t5 import T5


def _sparse(side: str) -> str:
    layers = "num_layers" if side == "encoder" else "num_decoder_layers"
    step = f"({side}_sparse_step or {layers} // (num_sparse_{side}_layers or 1))"
    return f"{step} == 1 or {side}_layer % {step} == 1"


def _switch(side: str) -> dict[str, Arrow | None]:
    number = 1 if side == "encoder" else 2
    block, sparse = f"{side}.block.{{{side}_layer}}.layer.{number}", _sparse(side)
    return {
        **{name: None for name in T5.arrows if name.startswith(f"{block}.DenseReluDense")},
        f"{block}.mlp.wi": linear(f"{side}_mlp_normed -> {side}_mlp:mlp", when=f"not ({sparse})"),
        f"{block}.mlp.wo": linear(f"{side}_mlp:mlp -> {side}_stream:stream", when=f"not ({sparse})"),
        f"{block}.mlp.router.classifier": linear(
            f"{side}_mlp_normed -> {side}_router:expert", bias="router_bias", when=sparse
        ),
        f"{block}.mlp.experts.expert_{{expert}}.wi": linear(
            f"{side}_mlp_normed -> {side}_expert_mlp:expert_mlp", when=sparse
        ),
        f"{block}.mlp.experts.expert_{{expert}}.wo": linear(
            f"{side}_expert_mlp:expert_mlp -> {side}_stream:stream", when=sparse
        ),
    }


SWITCH_TRANSFORMERS = T5.extend(
    "switch_transformers",
    model_types=("switch_transformers",),
    variant=None,
    sizes={"expert": "num_experts", "expert_mlp": "d_ff"},
    arrows={**_switch("encoder"), **_switch("decoder")},
    adds=(
        ("embedded", "encoder_stream"),
        ("embedded", "decoder_stream"),
        Add(source="decoded", target="head_input", factor="1 / sqrt(d_model)"),
    ),
    defaults={
        "num_sparse_encoder_layers": 3, "num_sparse_decoder_layers": 3, "encoder_sparse_step": None,
        "decoder_sparse_step": None, "num_decoder_layers": 12, "num_experts": 8, "router_bias": False,
    },
    constants={"tie_word_embeddings": (True, NO_TIES)},
    kinds=tuple(
        LayerKind(when=_sparse(side), because=f"which layers have experts follows from {side}_sparse_step")
        for side in ("encoder", "decoder")
    ),
    fixed={"expert": "more experts change what the router picks"},
)  # fmt: skip
