"""wav2vec 2.0 and its like: convolutions over sound and over positions, then post-norm or pre-norm layers.

The convolution over positions is made of groups of channels. Its class so ties hidden_size to many places, and only
what lies inside of the layers grows; all the rest goes on as it is.
"""

from dataclasses import replace

from growformer.architecture.declaration import (
    Architecture,
    Arrow,
    Attention,
    embedding,
    layer_norm,
    linear,
)

_EPS = "layer_norm_eps"
_LAYER = "encoder.layers.{layer}"
_HEAD = "hidden_size / num_attention_heads"


def _layers(pre_norm: bool) -> dict[str, Arrow]:
    """Return the arrows of the layers, and of the norm in front of them or behind them."""
    reads, writes, mlp_reads = ("normed", "stream", "mlp_normed") if pre_norm else ("stream", "summed", "stream")
    first = layer_norm("stream -> normed" if pre_norm else "summed -> stream", eps=_EPS)
    second = layer_norm("stream -> mlp_normed" if pre_norm else "summed -> stream", eps=_EPS)
    norm = {"encoder.layer_norm": layer_norm("stream -> final" if pre_norm else "summed -> stream", eps=_EPS)}
    attention = {
        f"{_LAYER}.attention.q_proj": linear(f"{reads} -> q:(heads key)", bias=True),
        f"{_LAYER}.attention.k_proj": linear(f"{reads} -> k:(heads key)", bias=True),
        f"{_LAYER}.attention.v_proj": linear(f"{reads} -> v:(heads value)", bias=True),
        f"{_LAYER}.attention.out_proj": linear(f"attended:(heads value) -> {writes}:stream", bias=True),
    }
    mlp = {
        f"{_LAYER}.feed_forward.intermediate_dense": linear(f"{mlp_reads} -> mlp", bias=True),
        f"{_LAYER}.feed_forward.output_dense": linear(f"mlp -> {writes}:stream", bias=True),
    }
    one, other = {f"{_LAYER}.layer_norm": first}, {f"{_LAYER}.final_layer_norm": second}
    if pre_norm:
        return {**one, **attention, **other, **mlp, **norm}
    return {**norm, **attention, **one, **mlp, **other}


_ADAPTER = {
    f"{_LAYER}.adapter_layer.norm": layer_norm("stream -> adapted", eps=1e-5),
    f"{_LAYER}.adapter_layer.linear_1": linear("adapted -> adapter", bias=True),
    f"{_LAYER}.adapter_layer.linear_2": linear("adapter -> stream", bias=True),
}
_WHY = (
    "the convolution over positions reads hidden_size in groups of channels; intermediate_size and num_hidden_layers "
    "grow"
)

WAV2VEC2 = Architecture(
    name="wav2vec2",
    model_types=("wav2vec2",),
    variant="not do_stable_layer_norm",
    sizes={
        "layer": "num_hidden_layers",
        "stream": "hidden_size",
        "mlp": "intermediate_size",
        "heads": "num_attention_heads",
        "key": _HEAD,
        "value": _HEAD,
    },
    arrows=_layers(pre_norm=False),
    attention=(Attention(query="q", key="k", value="v", output="attended", over=("key",), scale=f"1 / sqrt({_HEAD})"),),
    adds=(("stream", "summed"),),
    defaults={
        "layer_norm_eps": 1e-5, "do_stable_layer_norm": False, "adapter_attn_dim": None,
        "use_weighted_layer_sum": False, "initializer_range": 0.02,
    },
    constants={"use_weighted_layer_sum": (False, "a head that weighs the layers has one number for each of them")},
    fixed=dict.fromkeys(("stream", "heads", "key", "value"), _WHY),
    roles={"mlp": "intermediate_size", "layers": "num_hidden_layers"},
    prefix="wav2vec2",
    heads=(
        "lm_head", "projector", "classifier", "project_hid", "project_q", "quantizer", "tdnn", "objective",
        "feature_extractor", "speaker_proj", "label_embeddings_concat", "layer_norm_for_extract",
    ),
    renames=(
        (r"\.weight_g$", ".parametrizations.weight.original0"),
        (r"\.weight_v$", ".parametrizations.weight.original1"),
    ),
    carried={r"(?!encoder\.layer|layer_weights).+": "before and behind the layers, where nothing grows"},
)  # fmt: skip

WAV2VEC2_STABLE = replace(
    WAV2VEC2,
    name="wav2vec2_stable",
    variant="do_stable_layer_norm and not adapter_attn_dim",
    arrows=_layers(pre_norm=True),
    adds=(),
    outputs=("final",),
)
WAV2VEC2_ADAPTERS = replace(
    WAV2VEC2,
    name="wav2vec2_adapters",
    variant="do_stable_layer_norm and adapter_attn_dim",
    sizes={**WAV2VEC2.sizes, "adapter": "adapter_attn_dim"},
    arrows={**_layers(pre_norm=True), **_ADAPTER},
    adds=(),
    outputs=("final",),
)

HUBERT = WAV2VEC2.extend("hubert", model_types=("hubert",), prefix="hubert")
HUBERT_STABLE = WAV2VEC2_STABLE.extend("hubert_stable", model_types=("hubert",), prefix="hubert")
HUBERT_ADAPTERS = WAV2VEC2_ADAPTERS.extend("hubert_adapters", model_types=("hubert",), prefix="hubert")
UNISPEECH = WAV2VEC2.extend("unispeech", model_types=("unispeech",), prefix="unispeech")
UNISPEECH_STABLE = WAV2VEC2_STABLE.extend("unispeech_stable", model_types=("unispeech",), prefix="unispeech")
UNISPEECH_SAT = WAV2VEC2.extend("unispeech_sat", model_types=("unispeech-sat",), prefix="unispeech_sat")
UNISPEECH_SAT_STABLE = WAV2VEC2_STABLE.extend(
    "unispeech_sat_stable", model_types=("unispeech-sat",), prefix="unispeech_sat"
)
_NO_VARIANTS = {"variant": None, "defaults": {"do_stable_layer_norm": None, "adapter_attn_dim": None}}
DATA2VEC_AUDIO = WAV2VEC2.extend(
    "data2vec_audio", model_types=("data2vec-audio",), prefix="data2vec_audio", **_NO_VARIANTS
)
SEW = WAV2VEC2.extend("sew", model_types=("sew",), prefix="sew", **_NO_VARIANTS)

#: WavLM's own: a table of relative biases, which each layer turns up or down by what a head sees of a token.
_GATED = {
    "encoder.layers.0.attention.rel_attn_embed": embedding("buckets -> bias:heads"),
    f"{_LAYER}.attention.gru_rel_pos_linear": linear("head:key -> gates", bias=True),
    f"{_LAYER}.attention.gru_rel_pos_const": replace(embedding("one -> bias:heads", bare=True), kernel=("one", "one")),
}
_WAVLM = {"buckets": "num_buckets", "gates": "8", "one": "1"}
_FIXED = {
    "buckets": "more buckets change which bias a distance has", "gates": "a gate has two halves of four numbers",
    "one": "a dimension of size one",
}  # fmt: skip
_BIASED = (replace(WAV2VEC2.attention[0], per_head=("bias",)),)
WAVLM = WAV2VEC2.extend(
    "wavlm", model_types=("wavlm",), attention=_BIASED, adds=(*WAV2VEC2.adds, ("stream", "head")), sizes=_WAVLM,
    arrows=_GATED, defaults={"num_buckets": 320}, fixed=_FIXED, prefix="wavlm",
)  # fmt: skip
WAVLM_STABLE = WAV2VEC2_STABLE.extend(
    "wavlm_stable", model_types=("wavlm",), attention=_BIASED, adds=(("normed", "head"),), sizes=_WAVLM,
    arrows=_GATED, defaults={"num_buckets": 320}, fixed=_FIXED, prefix="wavlm",
)  # fmt: skip
