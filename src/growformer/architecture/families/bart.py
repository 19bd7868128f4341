"""BART: encoder and decoder with a LayerNorm behind each branch and behind the embeddings, all with a constant epsilon.

``stack`` and ``seq2seq`` spell out the layout for everything that shares it: norms in front or behind, embeddings with
or without a norm, positions from a table or computed.
"""

from __future__ import annotations

from typing import Any

from growformer.architecture.declaration import (
    Add,
    Architecture,
    Arrow,
    Attention,
    embedding,
    layer_norm,
    linear,
    parameter,
)
from growformer.architecture.families.gpt2 import LABELS, POSITIONS, VOCAB, no_head_dim

EPS = 1e-5
SIDES = ("encoder", "decoder")
SCALED = "sqrt(d_model) if scale_embedding else 1"
NO_TIES = "without it the class gives encoder, decoder and head tables of their own, which is not described"
COMPUTED = {"stream": "positions are sinusoids that the class computes from the width, and would change"}


def projections(
    at: str, tag: str, reads: str, memory: str, writes: str, *, heads: str = "", bias: bool | str, key_bias: bool | str
) -> dict[str, Arrow]:
    """Return the four projections of one attention; ``heads`` is the prefix of its axes."""
    return {
        f"{at}.q_proj": linear(f"{reads} -> {tag}q:({heads}heads {heads}key)", bias=bias),
        f"{at}.k_proj": linear(f"{memory} -> {tag}k:({heads}heads {heads}key)", bias=key_bias),
        f"{at}.v_proj": linear(f"{memory} -> {tag}v:({heads}heads {heads}value)", bias=bias),
        f"{at}.out_proj": linear(f"{tag}attended:({heads}heads {heads}value) -> {writes}", bias=bias),
    }


def stack(
    at: str, tag: str = "", *, pre: bool, memory: str | None = None, bias: bool | str = True,
    key_bias: bool | str | None = None, mlp_bias: bool | str | None = None,
) -> dict[str, Arrow]:  # fmt: skip
    """Return the layers of one side.

    Args:
        at: template of a layer's name.
        tag: prefix of its spaces and axes.
        pre: norms stand in front of branches, not behind.
        memory: space that a second attention reads; None: there is none.
        bias: of projections.
        key_bias: of keys, where it is not the same.
        mlp_bias: of the MLP, where it is not the same.
    """
    stream, summed = f"{tag}stream", f"{tag}summed"
    writes = f"{stream if pre else summed}:stream"
    biases = {"bias": bias, "key_bias": bias if key_bias is None else key_bias}
    mlp_bias = bias if mlp_bias is None else mlp_bias

    def norm(name: str, normed: str) -> dict[str, Arrow]:
        return {f"{at}.{name}": layer_norm(f"{stream} -> {normed}" if pre else f"{summed} -> {stream}", eps=EPS)}

    def branch(name: str, normed: str, arrows: dict[str, Arrow]) -> dict[str, Arrow]:
        return {**norm(name, normed), **arrows} if pre else {**arrows, **norm(name, normed)}

    reads = f"{tag}normed" if pre else stream
    arrows = branch(
        "self_attn_layer_norm",
        reads,
        projections(f"{at}.self_attn", tag, reads, reads, writes, heads=tag, **biases),
    )
    if memory is not None:
        reads = "cross_normed" if pre else stream
        arrows |= branch(
            "encoder_attn_layer_norm",
            reads,
            projections(f"{at}.encoder_attn", "cross_", reads, memory, writes, heads=tag, **biases),
        )
    reads = f"{tag}mlp_normed" if pre else stream
    arrows |= branch(
        "final_layer_norm",
        reads,
        {
            f"{at}.fc1": linear(f"{reads} -> {tag}mlp", bias=mlp_bias),
            f"{at}.fc2": linear(f"{tag}mlp -> {writes}", bias=mlp_bias),
        },
    )
    return arrows


def attention(tag: str, heads: str, hidden: str = "d_model", *, axes: str | None = None) -> Attention:
    """Return one contraction, whose scores are divided by the root of the head size."""
    axes = tag if axes is None else axes
    return Attention(
        query=f"{tag}q", key=f"{tag}k", value=f"{tag}v", output=f"{tag}attended", over=(f"{axes}key",),
        scale=f"1 / sqrt({hidden} / {heads})",
    )  # fmt: skip


def seq2seq(
    *, pre: bool, embed_norm: bool, positions: bool = True, final: bool | None = None, **biases: Any
) -> dict[str, Any]:
    """Return arrows and additions of encoder and decoder.

    Args:
        pre: norms stand in front of branches.
        embed_norm: a norm stands behind the embeddings.
        positions: there are tables of positions.
        final: a norm stands behind each side; where norms stand in front, unless it is said.
        biases: of ``stack``.
    """
    final = pre if final is None else final
    encoded, decoded = ("encoded", "decoded") if final else ("encoder_stream", "decoder_stream")
    arrows = {"shared": embedding("vocab -> embedded:stream")}
    adds: tuple[Any, ...] = ()
    for side in SIDES:
        stream = f"{side}_stream"
        enters = f"{side}_in" if embed_norm else stream
        adds += (Add(source="embedded", target=enters, factor=SCALED),)
        adds += () if pre else ((stream, f"{side}_summed"),)
        if positions:
            arrows[f"{side}.embed_positions"] = embedding(f"positions -> {enters}:stream")
        if embed_norm:
            arrows[f"{side}.layernorm_embedding"] = layer_norm(f"{enters} -> {stream}", eps=EPS)
        at = f"{side}.layers.{{{side}_layer}}"
        arrows |= stack(at, f"{side}_", pre=pre, memory=encoded if side == "decoder" else None, **biases)
        if final:
            out = encoded if side == "encoder" else decoded
            arrows[f"{side}.layer_norm"] = layer_norm(f"{stream} -> {out}", eps=EPS)
    arrows |= {
        "lm_head": linear(f"{decoded} -> vocab", optional=True),
        "final_logits_bias": parameter("-> vocab", leading=1, optional=True),
        "qa_outputs": linear(f"{decoded} -> labels", bias=True, optional=True),
        "classification_head.dense": linear(f"{decoded} -> pooled:stream", bias=True, optional=True),
        "classification_head.out_proj": linear("pooled -> labels", bias=True, optional=True),
    }
    return {"arrows": arrows, "adds": adds}


BART = Architecture(
    name="bart",
    model_types=("bart", "mvp"),
    sizes={
        "encoder_layer": "encoder_layers",
        "decoder_layer": "decoder_layers",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings + 2",
        "stream": "d_model",
        "encoder_mlp": "encoder_ffn_dim",
        "encoder_heads": "encoder_attention_heads",
        "encoder_key": "d_model / encoder_attention_heads",
        "encoder_value": "d_model / encoder_attention_heads",
        "decoder_mlp": "decoder_ffn_dim",
        "decoder_heads": "decoder_attention_heads",
        "decoder_key": "d_model / decoder_attention_heads",
        "decoder_value": "d_model / decoder_attention_heads",
        "labels": "labels",
    },
    **seq2seq(pre=False, embed_norm=True),
    attention=(
        attention("encoder_", "encoder_attention_heads"),
        attention("decoder_", "decoder_attention_heads"),
        attention("cross_", "decoder_attention_heads", axes="decoder_"),
    ),
    activated=("pooled",),
    ties={"lm_head.weight": "shared.weight"},
    tie_field="tie_word_embeddings",
    shared={f"{side}.embed_tokens.weight": "shared.weight" for side in SIDES},
    defaults={"scale_embedding": False, "tie_word_embeddings": True, "use_prompt": False, "init_std": 0.02},
    constants={
        "tie_word_embeddings": (True, NO_TIES),
        "use_prompt": (False, "prompts in front of keys and values are not described"),
    },
    inferred=("labels",),
    coupled=tuple(
        c for side in SIDES for c in no_head_dim("the class", "d_model", f"{side}_attention_heads", keeps=f"{side}_key")
    ),
    fixed={**VOCAB, **POSITIONS, **LABELS},
    aliases={
        "hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    },
    roles={
        "hidden": "d_model", "mlp": "encoder_ffn_dim", "heads": "encoder_attention_heads", "layers": "encoder_layers",
    },
    prefix="model",
    heads=("lm_head", "final_logits_bias", "qa_outputs", "classification_head"),
    ignored={r"(model\.)?(encoder|decoder)\.version": "a mark of older versions"},
    std="init_std",
)  # fmt: skip

PLBART = BART.extend("plbart", model_types=("plbart",), defaults={"scale_embedding": True})

BLENDERBOT_SMALL = BART.extend(
    "blenderbot_small",
    model_types=("blenderbot-small",),
    sizes={"positions": "max_position_embeddings"},
    # The decoder neither scales its embeddings nor adds positions before their norm.
    arrows={
        "decoder.embed_positions": embedding("positions -> decoder_stream:stream"),
        "decoder.layernorm_embedding": layer_norm("embedded -> decoder_stream", eps=EPS),
    },
    adds=tuple(add for add in BART.adds if add.target != "decoder_in"),
)
