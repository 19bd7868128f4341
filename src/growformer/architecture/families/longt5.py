"""LongT5: T5 whose encoder sees windows; in its transient-global form, the sums of blocks as well."""

from growformer.architecture.declaration import embedding, rms_norm
from growformer.architecture.families.t5 import EPS, T5, attention, stack

_NO_ENCODER = {name: None for name in T5.arrows if name.startswith("encoder.block")}
LONGT5 = T5.extend(
    "longt5",
    model_types=("longt5",),
    variant="encoder_attention_type != 'transient-global'",
    arrows={**_NO_ENCODER, **stack("encoder", attention="LocalSelfAttention")},
    defaults={"encoder_attention_type": None},
)
_GLOBAL = "TransientGlobalSelfAttention"
LONGT5_GLOBAL = LONGT5.extend(
    "longt5_global",
    variant="encoder_attention_type == 'transient-global'",
    arrows={
        **{name: None for name in LONGT5.arrows if name.startswith("encoder.block")},
        **stack("encoder", attention=_GLOBAL),
        f"encoder.block.{{encoder_layer}}.layer.0.{_GLOBAL}.global_input_layer_norm": rms_norm(
            "blocks -> block_normed:stream", eps=EPS
        ),
        f"encoder.block.0.layer.0.{_GLOBAL}.global_relative_attention_bias": embedding("buckets -> block_bias:heads"),
    },
    attention=(
        attention("encoder", "encoder_bias", "block_bias"),
        attention("decoder", "decoder_bias"),
        attention("cross"),
    ),
    # Keys and values of blocks come from the same weights as those of tokens.
    adds=(*LONGT5.adds, ("encoder_normed", "blocks"), ("block_normed", "encoder_normed")),
)
