"""MPNet: RoBERTa without token types, with relative biases on scores that all layers share."""

from dataclasses import replace

from growformer.architecture.declaration import embedding
from growformer.architecture.families.bert import renamed
from growformer.architecture.families.roberta import ROBERTA

_NAMES = {
    "attention.self.query": "attention.attn.q",
    "attention.self.key": "attention.attn.k",
    "attention.self.value": "attention.attn.v",
    "attention.output.dense": "attention.attn.o",
    "attention.output.LayerNorm": "attention.LayerNorm",
}

MPNET = replace(
    ROBERTA,
    name="mpnet",
    model_types=("mpnet",),
    sizes={**ROBERTA.sizes, "buckets": "relative_attention_num_buckets"},
    arrows={
        "encoder.relative_attention_bias": embedding("buckets -> bias:heads"),
        **renamed(ROBERTA.arrows, _NAMES, without=("embeddings.token_type_embeddings",)),
    },
    attention=(replace(ROBERTA.attention[0], per_head=("bias",)),),
    defaults={**ROBERTA.defaults, "relative_attention_num_buckets": 32},
    fixed={**ROBERTA.fixed, "buckets": "more buckets change which bias a distance has"},
    prefix="mpnet",
)
