"""ELECTRA and RemBERT: BERT whose embeddings have a size of their own, and a matrix from there to the stream."""

from growformer.architecture.declaration import embedding, layer_norm, linear
from growformer.architecture.families.bert import BERT
from growformer.architecture.families.roberta import CLASSIFIERS, NO_BERT_HEADS

_EPS = "layer_norm_eps"
EMBEDDINGS = {
    "embeddings.word_embeddings": embedding("vocab -> embedded_sum:embedded"),
    "embeddings.position_embeddings": embedding("positions -> embedded_sum"),
    "embeddings.token_type_embeddings": embedding("types -> embedded_sum"),
    "embeddings.LayerNorm": layer_norm("embedded_sum -> embedded", eps=_EPS),
    "encoder.layer.{layer}.attention.output.dense": linear("attended:(heads value) -> summed:stream", bias=True),
}
_HEADS = {
    **NO_BERT_HEADS,
    "pooler.dense": None,
    "discriminator_predictions.dense": linear("stream -> judged:stream", bias=True, optional=True),
    "discriminator_predictions.dense_prediction": linear("judged -> verdict", bias=True, optional=True),
    **CLASSIFIERS,
}

ELECTRA = BERT.extend(
    "electra",
    model_types=("electra",),
    variant="embedding_size != hidden_size",
    sizes={"embedded": "embedding_size", "relations": None, "verdict": "1"},
    arrows={
        **EMBEDDINGS,
        "embeddings_project": linear("embedded -> stream", bias=True),
        **_HEADS,
        "generator_predictions.dense": linear("stream -> transformed:embedded", bias=True, optional=True),
        "generator_predictions.LayerNorm": layer_norm("transformed -> prediction", eps=_EPS, optional=True),
        "generator_lm_head": linear("prediction -> vocab", bias=True, optional=True),
    },
    ties={**dict.fromkeys(BERT.ties), "generator_lm_head.weight": "embeddings.word_embeddings.weight"},
    defaults={"embedding_size": 128},
    fixed={"relations": None, "verdict": "a token is judged by one number"},
    prefix="electra",
    heads=("generator_predictions", "generator_lm_head", "discriminator_predictions", "classifier", "qa_outputs"),
)

ELECTRA_OF_ONE_SIZE = ELECTRA.extend(
    "electra_of_one_size",
    variant="embedding_size == hidden_size",
    sizes={"embedded": None},
    arrows={
        **{name: BERT.arrows[name] for name in EMBEDDINGS},
        "embeddings_project": None,
        "generator_predictions.dense": linear("stream -> transformed:stream", bias=True, optional=True),
    },
    follows={"embedding_size": "hidden_size"},
)

REMBERT = BERT.extend(
    "rembert",
    model_types=("rembert",),
    sizes={"embedded": "input_embedding_size", "unembedded": "output_embedding_size", "relations": None},
    arrows={
        **EMBEDDINGS,
        "encoder.embedding_hidden_mapping_in": linear("embedded -> stream", bias=True),
        **NO_BERT_HEADS,
        "cls.predictions.dense": linear("stream -> transformed:unembedded", bias=True, optional=True),
        "cls.predictions.LayerNorm": layer_norm("transformed -> prediction", eps=_EPS, optional=True),
        "cls.predictions.decoder": linear("prediction -> vocab", bias=True, optional=True),
    },
    ties=dict.fromkeys(BERT.ties),
    tie_field=None,
    defaults={"input_embedding_size": 256, "output_embedding_size": 1664, "tie_word_embeddings": False},
    fixed={"relations": None},
    prefix="rembert",
)
