"""T5: encoder and decoder with RMSNorm, no scale on scores, and a table of relative biases in the first layers.

MT5's MLPs are gated unless it says otherwise. UMT5 has a table in every layer.
"""

from growformer.architecture.declaration import (
    Add,
    Architecture,
    Arrow,
    Attention,
    embedding,
    linear,
    rms_norm,
)
from growformer.architecture.families.gpt2 import LABELS, VOCAB

EPS = "layer_norm_epsilon"
_GATED = "'gated-' in (feed_forward_proj or '')"
_GATED_UNLESS_SAID = "'gated-' in (feed_forward_proj or 'gated-gelu')"
# Written by newer versions; older ones say it by tie_word_embeddings, whatever is tied.
_SCALED = (
    "1 / sqrt(d_model) if (tie_word_embeddings if scale_decoder_outputs is None else scale_decoder_outputs) else 1"
)

# The class of a checkpoint says whether there is a decoder; is_encoder_decoder need not.
_ENCODER_ALONE = "(architectures or [''])[0] in ['T5EncoderModel', 'MT5EncoderModel', 'UMT5EncoderModel', " + (
    "'T5ForTokenClassification', 'MT5ForTokenClassification', 'UMT5ForTokenClassification']"
)


def _mlp(at: str, side: str, gated: str) -> dict[str, Arrow]:
    return {
        f"{at}.wi": linear(f"{side}_mlp_normed -> {side}_mlp:mlp", when=f"not {gated}"),
        f"{at}.wi_0": linear(f"{side}_mlp_normed -> {side}_mlp:mlp", when=gated),
        f"{at}.wi_1": linear(f"{side}_mlp_normed -> {side}_mlp:mlp", when=gated),
        f"{at}.wo": linear(f"{side}_mlp:mlp -> {side}_stream:stream"),
    }


def stack(side: str, *, attention: str = "SelfAttention", gated: str = _GATED, at: str = "0") -> dict[str, Arrow]:
    """Return the arrows of one side; ``at`` says which layers have a table of relative biases."""
    block, stream = f"{side}.block.{{{side}_layer}}.layer", f"{side}_stream"
    biased = f"{side}.block.{at}.layer.0.{attention}.relative_attention_bias"
    arrows = {
        f"{block}.0.layer_norm": rms_norm(f"{stream} -> {side}_normed", eps=EPS),
        f"{block}.0.{attention}.q": linear(f"{side}_normed -> {side}_q:(heads key)"),
        f"{block}.0.{attention}.k": linear(f"{side}_normed -> {side}_k:(heads key)"),
        f"{block}.0.{attention}.v": linear(f"{side}_normed -> {side}_v:(heads value)"),
        f"{block}.0.{attention}.o": linear(f"{side}_attended:(heads value) -> {stream}:stream"),
        biased: embedding(f"buckets -> {side}_bias:heads"),
    }
    if side == "decoder":
        arrows |= {
            f"{block}.1.layer_norm": rms_norm(f"{stream} -> cross_normed", eps=EPS),
            f"{block}.1.EncDecAttention.q": linear("cross_normed -> cross_q:(heads key)"),
            f"{block}.1.EncDecAttention.k": linear("encoded -> cross_k:(heads key)"),
            f"{block}.1.EncDecAttention.v": linear("encoded -> cross_v:(heads value)"),
            f"{block}.1.EncDecAttention.o": linear(f"cross_attended:(heads value) -> {stream}:stream"),
        }
    number = 1 if side == "encoder" else 2
    arrows |= {
        f"{block}.{number}.layer_norm": rms_norm(f"{stream} -> {side}_mlp_normed", eps=EPS),
        **_mlp(f"{block}.{number}.DenseReluDense", side, gated),
    }
    return arrows


def attention(prefix: str, *per_head: str) -> Attention:
    """Return one contraction, whose scores no constant scales."""
    return Attention(
        query=f"{prefix}_q", key=f"{prefix}_k", value=f"{prefix}_v", output=f"{prefix}_attended", over=("key",),
        scale="1", per_head=per_head,
    )  # fmt: skip


T5 = Architecture(
    name="t5",
    model_types=("t5",),
    variant=f"not ({_ENCODER_ALONE})",
    sizes={
        "encoder_layer": "num_layers",
        "decoder_layer": "num_decoder_layers",
        "vocab": "vocab_size",
        "stream": "d_model",
        "mlp": "d_ff",
        "heads": "num_heads",
        "key": "d_kv",
        "value": "d_kv",
        "buckets": "relative_attention_num_buckets",
        "labels": "labels",
    },
    arrows={
        "shared": embedding("vocab -> embedded:stream"),
        **stack("encoder"),
        "encoder.final_layer_norm": rms_norm("encoder_stream -> encoded:stream", eps=EPS),
        **stack("decoder"),
        "decoder.final_layer_norm": rms_norm("decoder_stream -> decoded:stream", eps=EPS),
        "lm_head": linear("head_input:stream -> vocab", optional=True),
        "qa_outputs": linear("decoded -> labels", bias=True, optional=True),
        "classification_head.dense": linear("decoded -> pooled:stream", bias=True, optional=True),
        "classification_head.out_proj": linear("pooled -> labels", bias=True, optional=True),
    },
    attention=(attention("encoder", "encoder_bias"), attention("decoder", "decoder_bias"), attention("cross")),
    adds=(
        ("embedded", "encoder_stream"),
        ("embedded", "decoder_stream"),
        Add(source="decoded", target="head_input", factor=_SCALED),
    ),
    activated=("pooled",),
    ties={"lm_head.weight": "shared.weight"},  # always, whatever tie_word_embeddings says
    shared={"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"},
    defaults={
        "num_decoder_layers": "num_layers",
        "d_kv": 64,
        "relative_attention_num_buckets": 32,
        "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": True,
        "scale_decoder_outputs": None,
        "feed_forward_proj": None,
        "architectures": None,
        "initializer_factor": 1.0,
    },
    inferred=("labels",),
    fixed={**VOCAB, **LABELS, "buckets": "more buckets change which bias a distance has"},
    aliases={
        "hidden_size": "d_model", "intermediate_size": "d_ff", "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers", "head_dim": "d_kv",
    },
    roles={
        "hidden": "d_model", "mlp": "d_ff", "heads": "num_heads", "key": "d_kv", "value": "d_kv",
        "layers": "num_layers",
    },
    heads=("lm_head", "qa_outputs", "classification_head"),
    renames=((r"^transformer\.", ""),),
    ignored={r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": "unused by the class"},
    std="",
)  # fmt: skip

MT5 = T5.extend(
    "mt5",
    model_types=("mt5",),
    arrows={**stack("encoder", gated=_GATED_UNLESS_SAID), **stack("decoder", gated=_GATED_UNLESS_SAID)},
    adds=(("embedded", "encoder_stream"), ("embedded", "decoder_stream"), ("decoded", "head_input")),
)
UMT5 = T5.extend(
    "umt5",
    model_types=("umt5",),
    arrows={
        **{name: None for name in T5.arrows if name.endswith("relative_attention_bias")},
        **stack("encoder", gated=_GATED_UNLESS_SAID, at="{encoder_layer}"),
        **stack("decoder", gated=_GATED_UNLESS_SAID, at="{decoder_layer}"),
    },
)


def _encoder_of(family: Architecture) -> Architecture:
    return family.extend(
        f"{family.name}_encoder",
        variant=_ENCODER_ALONE,
        sizes={"decoder_layer": None},
        arrows={
            **{name: None for name in family.arrows if not name.startswith("encoder.")},
            "shared": embedding("vocab -> encoder_stream:stream"),
            "classifier": linear("encoded -> labels", bias=True, optional=True),
        },
        attention=family.attention[:1],
        adds=(),
        activated=(),
        ties={"lm_head.weight": None},
        shared={"decoder.embed_tokens.weight": None},
        defaults={"num_decoder_layers": None},
        heads=("classifier",),
    )


T5_ENCODER, MT5_ENCODER, UMT5_ENCODER = _encoder_of(T5), _encoder_of(MT5), _encoder_of(UMT5)
