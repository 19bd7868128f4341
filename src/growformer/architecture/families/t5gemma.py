"""T5Gemma: Gemma 2's layers as encoder and decoder, each with its own config, width and table."""

from __future__ import annotations

from growformer.architecture.declaration import (
    Add,
    Architecture,
    Arrow,
    Attention,
    Multiple,
    Rotary,
    embedding,
    linear,
    rms_norm,
)
from growformer.architecture.families.bart import SIDES
from growformer.architecture.families.gpt2 import VOCAB


def _norm(side: str, arrow: str) -> Arrow:
    return rms_norm(arrow, eps=f"{side}.rms_norm_eps", offset=1)


def _attention(at: str, side: str, tag: str, memory: str) -> dict[str, Arrow]:
    head, bias = f"pair {side}_freq", f"{side}.attention_bias"
    return {
        f"{at}.q_proj": linear(f"{tag}_normed -> {tag}_q:({side}_kv_heads {side}_group {head})", bias=bias),
        f"{at}.k_proj": linear(f"{memory} -> {tag}_k:({side}_kv_heads {head})", bias=bias),
        f"{at}.v_proj": linear(f"{memory} -> {tag}_v:({side}_kv_heads {side}_value)", bias=bias),
        f"{at}.o_proj": linear(
            f"{tag}_attended:({side}_kv_heads {side}_group {side}_value) -> {tag}_raw:{side}_stream", bias=bias
        ),
    }


def _stack(side: str) -> dict[str, Arrow]:
    at, stream = f"{side}.layers.{{{side}_layer}}", f"{side}_stream"
    arrows = {
        f"{side}.embed_tokens": embedding(f"{side}_vocab -> {side}_embedded:{stream}"),
        f"{at}.pre_self_attn_layernorm": _norm(side, f"{stream} -> {side}_normed"),
        **_attention(f"{at}.self_attn", side, side, f"{side}_normed"),
        f"{at}.post_self_attn_layernorm": _norm(side, f"{side}_raw -> {stream}"),
    }
    if side == "decoder":
        arrows |= {
            f"{at}.pre_cross_attn_layernorm": _norm(side, f"{stream} -> cross_normed"),
            **_attention(f"{at}.cross_attn", side, "cross", "encoded"),
            f"{at}.post_cross_attn_layernorm": _norm(side, f"cross_raw -> {stream}"),
        }
    return arrows | {
        f"{at}.pre_feedforward_layernorm": _norm(side, f"{stream} -> {side}_mlp_normed"),
        f"{at}.mlp.gate_proj": linear(f"{side}_mlp_normed -> {side}_mlp"),
        f"{at}.mlp.up_proj": linear(f"{side}_mlp_normed -> {side}_mlp"),
        f"{at}.mlp.down_proj": linear(f"{side}_mlp -> {side}_mlp_raw:{stream}"),
        f"{at}.post_feedforward_layernorm": _norm(side, f"{side}_mlp_raw -> {stream}"),
        f"{side}.norm": _norm(side, f"{stream} -> {'encoded' if side == 'encoder' else 'decoded'}"),
    }


def _sizes(side: str) -> dict[str, str]:
    return {
        f"{side}_layer": f"{side}.num_hidden_layers",
        f"{side}_vocab": f"{side}.vocab_size",
        f"{side}_stream": f"{side}.hidden_size",
        f"{side}_mlp": f"{side}.intermediate_size",
        f"{side}_kv_heads": f"{side}.num_key_value_heads",
        f"{side}_group": f"{side}.num_attention_heads / {side}.num_key_value_heads",
        f"{side}_freq": f"{side}.head_dim / 2",
        f"{side}_value": f"{side}.head_dim",
    }


def _scores(side: str, tag: str) -> Attention:
    return Attention(
        query=f"{tag}_q", key=f"{tag}_k", value=f"{tag}_v", output=f"{tag}_attended", over=("pair", f"{side}_freq"),
        scale=f"1 / sqrt({side}.query_pre_attn_scalar)",
    )  # fmt: skip


T5GEMMA = Architecture(
    name="t5gemma",
    model_types=("t5gemma",),
    sizes={**_sizes("encoder"), **_sizes("decoder"), "pair": "2"},
    arrows={
        **_stack("encoder"),
        **_stack("decoder"),
        "lm_head.out_proj": linear("decoded -> decoder_vocab", optional=True),
    },
    attention=(_scores("encoder", "encoder"), _scores("decoder", "decoder"), _scores("decoder", "cross")),
    adds=tuple(
        Add(
            source=f"{side}_embedded", target=f"{side}_stream", factor=f"sqrt({side}.hidden_size)",
            rounded=f"{side}.embed_tokens.weight",
        )
        for side in SIDES
    ),
    rotary=tuple(Rotary(frequency=f"{side}_freq", parameters=f"{side}.rope_parameters") for side in SIDES),
    multiples=tuple(
        Multiple(
            field=f"{side}.hidden_size", of=f"{side}.num_attention_heads",
            because="its config class wants hidden_size to be a multiple of num_attention_heads, even with a head_dim "
            "of its own",
        )
        for side in SIDES
    ),
    ties={"lm_head.out_proj.weight": "decoder.embed_tokens.weight"},
    tie_field="tie_word_embeddings",
    defaults={
        "tie_word_embeddings": True,
        **{
            f"{side}.{name}": value
            for side in SIDES
            for name, value in (
                ("num_key_value_heads", 4), ("head_dim", 256), ("rms_norm_eps", 1e-6), ("attention_bias", False),
                ("query_pre_attn_scalar", 256), ("initializer_range", 0.02),
            )
        },
    },
    fixed={
        "encoder_vocab": VOCAB["vocab"],
        "decoder_vocab": VOCAB["vocab"],
        "pair": "a rotary plane has two coordinates",
    },
    follows={"decoder.cross_attention_hidden_size": "encoder.hidden_size"},
    layer_lists=tuple(f"{side}.layer_types" for side in SIDES),
    layer_rules={
        f"{side}.layer_types": f"'sliding_attention' if ({side}_layer + 1) % 2 else 'full_attention'" for side in SIDES
    },
    nested=SIDES,
    roles={
        "hidden": "decoder.hidden_size", "mlp": "decoder.intermediate_size", "heads": "decoder.num_attention_heads",
        "kv_heads": "decoder.num_key_value_heads", "key": "decoder.head_dim", "value": "decoder.head_dim",
        "layers": "decoder.num_hidden_layers",
    },
    prefix="model",
    heads=("lm_head",),
    std="decoder.initializer_range",
)  # fmt: skip
