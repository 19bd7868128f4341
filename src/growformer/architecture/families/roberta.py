"""RoBERTa: BERT's layers, and heads of its own; positions are counted from the padding token's."""

from growformer.architecture.declaration import Attention, layer_norm, linear, parameter
from growformer.architecture.families.bert import BERT

_EPS = "layer_norm_eps"

NO_BERT_HEADS = {name: None for name in BERT.arrows if name.startswith("cls.")}
LM_HEAD = {
    "lm_head.dense": linear("stream -> transformed:stream", bias=True, optional=True),
    "lm_head.layer_norm": layer_norm("transformed -> prediction", eps=_EPS, optional=True),
    "lm_head.bias": parameter("-> vocab", optional=True),
    "lm_head.decoder": linear("prediction -> vocab", bias=True, optional=True),
}
CLASSIFIERS = {
    "classifier": linear("stream -> labels", bias=True, optional=True),
    "classifier.dense": linear("stream -> classified:stream", bias=True, optional=True),
    "classifier.out_proj": linear("classified -> labels", bias=True, optional=True),
}
TIES = {
    **dict.fromkeys(BERT.ties),
    "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}
HEADS = ("lm_head", "classifier", "qa_outputs")

ROBERTA = BERT.extend(
    "roberta",
    model_types=("roberta", "xlm-roberta", "camembert"),
    sizes={"relations": None},
    arrows={**NO_BERT_HEADS, **LM_HEAD, **CLASSIFIERS},
    ties=TIES,
    fixed={"relations": None},
    prefix="roberta",
    heads=HEADS,
    ignored={r"(roberta\.)?embeddings\.(position_ids|token_type_ids)": "a buffer of older versions: 0, 1, 2, …"},
)

DATA2VEC_TEXT = ROBERTA.extend("data2vec_text", model_types=("data2vec-text",), prefix="data2vec_text")

BRIDGETOWER_TEXT = ROBERTA.extend(
    "bridgetower_text",
    model_types=("bridgetower_text_model",),
    defaults={"layer_norm_eps": 1e-5, "type_vocab_size": 1, "max_position_embeddings": 514},
    prefix="",
    heads=(),
)

_BUFFERS = r"embeddings\.(position_ids|token_type_ids)"

CLAP_TEXT = ROBERTA.extend(
    "clap_text",
    model_types=("clap_text_model",),
    defaults={"type_vocab_size": 1, "max_position_embeddings": 514},
    prefix="",
    heads=(),
    ignored={next(iter(ROBERTA.ignored)): None},
    carried={_BUFFERS: "0, 1, 2, …"},
)

BERT_GENERATION = BERT.extend(
    "bert_generation",
    model_types=("bert-generation",),
    sizes={"types": None, "relations": None},
    arrows={
        **NO_BERT_HEADS,
        "embeddings.token_type_embeddings": None,
        "lm_head.bias": parameter("-> vocab", optional=True),
        "lm_head.decoder": linear("head_input:stream -> vocab", bias=True, optional=True),
    },
    adds=(*BERT.adds, ("stream", "head_input")),
    activated=(),
    ties=TIES,
    fixed={"types": None, "relations": None},
    heads=("lm_head",),
)

_LAYER = "encoder.layer.{layer}.attention.self"

LONGFORMER = ROBERTA.extend(
    "longformer",
    model_types=("longformer",),
    arrows={
        f"{_LAYER}.query_global": linear("stream -> global_q:(heads key)", bias=True),
        f"{_LAYER}.key_global": linear("stream -> global_k:(heads key)", bias=True),
        f"{_LAYER}.value_global": linear("stream -> global_v:(heads value)", bias=True),
    },
    attention=(
        *ROBERTA.attention,
        Attention(
            query="global_q", key="global_k", value="global_v", output="attended", over=("key",),
            scale=ROBERTA.attention[0].scale,
        ),
    ),
    layer_lists=("attention_window",),
    prefix="longformer",
)  # fmt: skip
