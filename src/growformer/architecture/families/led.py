"""Long inputs: LED's encoder is Longformer's, BigBird-Pegasus' sees blocks, Pegasus-X's has tokens that see everything.

Decoders are BART's or Pegasus'.
"""

from growformer.architecture.declaration import Attention, LayerKind, embedding, layer_norm, linear
from growformer.architecture.families.bart import BART, COMPUTED, EPS, SIDES, seq2seq

_ENCODER = "encoder.layers.{encoder_layer}"
_PROJECTIONS = {f"{_ENCODER}.self_attn.{name}": None for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
_QUERY, _KEY = "(encoder_heads encoder_key)", "(encoder_heads encoder_key)"
_VALUE = "(encoder_heads encoder_value)"
_AT = f"{_ENCODER}.self_attn.longformer_self_attn"

LED = BART.extend(
    "led",
    model_types=("led",),
    sizes={"positions": "max_encoder_position_embeddings", "targets": "max_decoder_position_embeddings"},
    arrows={
        **_PROJECTIONS,
        f"{_AT}.query": linear(f"encoder_stream -> encoder_q:{_QUERY}", bias=True),
        f"{_AT}.key": linear(f"encoder_stream -> encoder_k:{_KEY}", bias=True),
        f"{_AT}.value": linear(f"encoder_stream -> encoder_v:{_VALUE}", bias=True),
        # Tokens that see everything, and which do the user says.
        f"{_AT}.query_global": linear(f"encoder_stream -> global_q:{_QUERY}", bias=True),
        f"{_AT}.key_global": linear(f"encoder_stream -> global_k:{_KEY}", bias=True),
        f"{_AT}.value_global": linear(f"encoder_stream -> global_v:{_VALUE}", bias=True),
        f"{_ENCODER}.self_attn.output": linear(f"encoder_attended:{_VALUE} -> encoder_summed:stream", bias=True),
        "decoder.embed_positions": embedding("targets -> decoder_in:stream"),
    },
    attention=(
        *BART.attention,
        Attention(
            query="global_q", key="global_k", value="global_v", output="encoder_attended", over=("encoder_key",),
            scale=BART.attention[0].scale,
        ),
    ),
    adds=(
        *(("embedded", f"{side}_in") for side in SIDES),
        *((f"{side}_stream", f"{side}_summed") for side in SIDES),
    ),
    layer_lists=("attention_window",),
    fixed={"targets": "positions past the table have no source"},
    prefix="led",
)  # fmt: skip

_PEGASUS = seq2seq(pre=True, embed_norm=False, bias="use_bias", mlp_bias=True)
BIGBIRD_PEGASUS = BART.extend(
    "bigbird_pegasus",
    model_types=("bigbird_pegasus",),
    sizes={"positions": "max_position_embeddings"},
    arrows={
        **_PEGASUS["arrows"],
        **_PROJECTIONS,
        f"{_ENCODER}.self_attn.self.query": linear(f"encoder_normed -> encoder_q:{_QUERY}", bias="use_bias"),
        f"{_ENCODER}.self_attn.self.key": linear(f"encoder_normed -> encoder_k:{_KEY}", bias="use_bias"),
        f"{_ENCODER}.self_attn.self.value": linear(f"encoder_normed -> encoder_v:{_VALUE}", bias="use_bias"),
        f"{_ENCODER}.self_attn.output": linear(f"encoder_attended:{_VALUE} -> encoder_stream:stream", bias="use_bias"),
        "encoder.layer_norm": None,
        "decoder.layer_norm": None,
        "encoder.layernorm_embedding": layer_norm("encoder_stream -> encoded", eps=EPS),
        "decoder.layernorm_embedding": layer_norm("decoder_stream -> decoded", eps=EPS),
    },
    adds=_PEGASUS["adds"],
    defaults={"scale_embedding": True, "use_bias": False},
)

_UNBIASED = seq2seq(pre=True, embed_norm=False, positions=False, bias=False, mlp_bias=True)
PEGASUS_X = BART.extend(
    "pegasus_x",
    model_types=("pegasus_x",),
    sizes={"positions": None, "labels": None, "globals": "num_global_tokens"},
    arrows={
        **_UNBIASED["arrows"],
        **dict.fromkeys(f"{side}.{name}" for side in SIDES for name in ("layernorm_embedding", "embed_positions")),
        **dict.fromkeys(
            ("final_logits_bias", "qa_outputs", "classification_head.dense", "classification_head.out_proj")
        ),
        # Global tokens run through the layers beside the others, with the same weights but for one norm.
        "encoder.embed_global": embedding("globals -> encoder_stream:stream"),
        f"{_ENCODER}.global_self_attn_layer_norm": layer_norm("encoder_stream -> encoder_normed", eps=EPS),
    },
    adds=_UNBIASED["adds"],
    activated=(),
    defaults={"scale_embedding": True, "stagger_local_blocks": True},
    inferred=(),
    coupled=(),
    fixed={"positions": None, "labels": None, **COMPUTED, "globals": "more global tokens have no source"},
    kinds=(
        LayerKind(
            when="stagger_local_blocks and encoder_layer % 2 == 1",
            because="every second layer sees blocks that are shifted by half a block",
        ),
    ),
    heads=("lm_head",),
)
