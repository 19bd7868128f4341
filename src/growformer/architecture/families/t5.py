"""T5: encoder and decoder with RMSNorm, no scale on scores, and a table of relative biases in the first layers."""

from growformer.architecture.declaration import Add, Architecture, Arrow, Attention, embedding, linear, rms_norm

_EPS = "layer_norm_epsilon"
_GATED = "is_gated_act"


def _stack(side: str, mlp: int) -> dict[str, Arrow]:
    """Return the arrows of one side; its MLP is the sublayer of this number."""
    block = f"{side}.block.{{{side}_layer}}.layer"
    stream = f"{side}_stream"
    arrows = {
        f"{block}.0.layer_norm": rms_norm(f"{stream} -> {side}_normed", eps=_EPS),
        f"{block}.0.SelfAttention.q": linear(f"{side}_normed -> {side}_q:(heads key)"),
        f"{block}.0.SelfAttention.k": linear(f"{side}_normed -> {side}_k:(heads key)"),
        f"{block}.0.SelfAttention.v": linear(f"{side}_normed -> {side}_v:(heads value)"),
        f"{block}.0.SelfAttention.o": linear(f"{side}_attended:(heads value) -> {stream}:stream"),
        f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias": embedding(f"buckets -> {side}_bias:heads"),
    }
    if side == "decoder":
        arrows |= {
            f"{block}.1.layer_norm": rms_norm(f"{stream} -> cross_normed", eps=_EPS),
            f"{block}.1.EncDecAttention.q": linear("cross_normed -> cross_q:(heads key)"),
            f"{block}.1.EncDecAttention.k": linear("encoded -> cross_k:(heads key)"),
            f"{block}.1.EncDecAttention.v": linear("encoded -> cross_v:(heads value)"),
            f"{block}.1.EncDecAttention.o": linear(f"cross_attended:(heads value) -> {stream}:stream"),
        }
    arrows |= {
        f"{block}.{mlp}.layer_norm": rms_norm(f"{stream} -> {side}_mlp_normed", eps=_EPS),
        f"{block}.{mlp}.DenseReluDense.wi": linear(f"{side}_mlp_normed -> {side}_mlp:mlp", when=f"not {_GATED}"),
        f"{block}.{mlp}.DenseReluDense.wi_0": linear(f"{side}_mlp_normed -> {side}_mlp:mlp", when=_GATED),
        f"{block}.{mlp}.DenseReluDense.wi_1": linear(f"{side}_mlp_normed -> {side}_mlp:mlp", when=_GATED),
        f"{block}.{mlp}.DenseReluDense.wo": linear(f"{side}_mlp:mlp -> {stream}:stream"),
    }
    return arrows


def _attention(prefix: str, per_head: tuple[str, ...] = ()) -> Attention:
    return Attention(
        query=f"{prefix}_q", key=f"{prefix}_k", value=f"{prefix}_v", output=f"{prefix}_attended", over=("key",),
        scale="1", per_head=per_head,
    )  # fmt: skip


T5 = Architecture(
    name="t5",
    model_types=("t5",),
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
    },
    arrows={
        "shared": embedding("vocab -> embedded:stream"),
        **_stack("encoder", 1),
        "encoder.final_layer_norm": rms_norm("encoder_stream -> encoded:stream", eps=_EPS),
        **_stack("decoder", 2),
        "decoder.final_layer_norm": rms_norm("decoder_stream -> decoded:stream", eps=_EPS),
        "lm_head": linear("head_input:stream -> vocab", optional=True),
    },
    attention=(
        _attention("encoder", per_head=("encoder_bias",)),
        _attention("decoder", per_head=("decoder_bias",)),
        _attention("cross"),
    ),
    adds=(
        ("embedded", "encoder_stream"),
        ("embedded", "decoder_stream"),
        Add(source="decoded", target="head_input", factor="1 / sqrt(d_model) if scale_decoder_outputs else 1"),
    ),
    ties={"lm_head.weight": "shared.weight"},
    tie_field="tie_word_embeddings",
    shared={"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"},
    defaults={
        "num_decoder_layers": "num_layers",
        "d_kv": 64,
        "relative_attention_num_buckets": 32,
        "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": True,
        "scale_decoder_outputs": "tie_word_embeddings",
        "is_gated_act": False,
        "initializer_factor": 1.0,
    },
    fixed={
        "vocab": "a larger vocabulary changes the output distribution; use resize_token_embeddings",
        "buckets": "more buckets change which bias a distance has",
    },
    aliases={
        "hidden_size": "d_model", "intermediate_size": "d_ff", "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers", "head_dim": "d_kv",
    },
    roles={
        "hidden": "d_model", "mlp": "d_ff", "heads": "num_heads", "key": "d_kv", "value": "d_kv",
        "layers": "num_layers",
    },
    heads=("lm_head",),
    ignored={r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": "unused by the class"},
    std="",
)  # fmt: skip
