"""What differs from BERT in its embeddings alone: more tables that are summed, or parts put beside each other."""

from growformer.architecture.declaration import Add, embedding, linear
from growformer.architecture.families.bert import BERT

ERNIE = BERT.extend(
    "ernie",
    model_types=("ernie",),
    sizes={"tasks": "task_type_vocab_size"},
    arrows={"embeddings.task_type_embeddings": embedding("tasks -> summed:stream", when="use_task_id")},
    defaults={"task_type_vocab_size": 3, "use_task_id": False},
    fixed={"tasks": "kinds of tasks are not a size of the model"},
    prefix="ernie",
)

BIG_BIRD = BERT.extend(
    "big_bird",
    model_types=("big_bird",),
    arrows={
        "embeddings.word_embeddings": embedding("vocab -> embedded:stream"),
        "encoder.layer.{layer}.attention.self.query": linear("stream -> q:(heads key)", bias="use_bias"),
        "encoder.layer.{layer}.attention.self.key": linear("stream -> k:(heads key)", bias="use_bias"),
        "encoder.layer.{layer}.attention.self.value": linear("stream -> v:(heads value)", bias="use_bias"),
        "pooler.dense": None,
        "pooler": linear("stream -> pooled:stream", bias=True, optional=True),
        "classifier.dense": linear("stream -> classified:stream", bias=True, optional=True),
        "classifier.out_proj": linear("classified -> labels", bias=True, optional=True),
    },
    adds=(
        *BERT.adds,
        Add(source="embedded", target="summed", factor="sqrt(hidden_size) if rescale_embeddings else 1"),
    ),
    defaults={"rescale_embeddings": False, "use_bias": True, "max_position_embeddings": 4096},
)

ROC_BERT = BERT.extend(
    "roc_bert",
    model_types=("roc_bert",),
    sizes={
        "sounds": "pronunciation_vocab_size",
        "sound": "pronunciation_embed_dim",
        "shapes": "shape_vocab_size",
        "shape": "shape_embed_dim",
    },
    arrows={
        "embeddings.word_embeddings": embedding("vocab -> word:stream"),
        "embeddings.pronunciation_embed": embedding("sounds -> sound"),
        "embeddings.shape_embed": embedding("shapes -> shape"),
        "embeddings.map_inputs_layer": linear("[word:stream shape:shape sound:sound] -> summed", bias=True),
    },
    defaults={
        "pronunciation_vocab_size": 910, "pronunciation_embed_dim": 768, "shape_vocab_size": 24858,
        "shape_embed_dim": 512, "concat_input": True, "enable_pronunciation": True, "enable_shape": True,
    },
    constants={
        "concat_input": (True, "RoCBERT that averages its three embeddings is not described"),
        "enable_pronunciation": (True, "RoCBERT without pronunciations is not described"),
        "enable_shape": (True, "RoCBERT without shapes is not described"),
    },
    fixed={"sounds": "a table of pronunciations", "shapes": "a table of glyphs"},
    prefix="roc_bert",
)  # fmt: skip

LAYOUTLM = BERT.extend(
    "layoutlm",
    model_types=("layoutlm",),
    sizes={"places": "max_2d_position_embeddings"},
    arrows={
        f"embeddings.{side}_position_embeddings": embedding("places -> summed:stream") for side in ("x", "y", "h", "w")
    },
    defaults={"max_2d_position_embeddings": 1024},
    fixed={"places": "positions on a page have no source"},
    prefix="layoutlm",
)

VISUAL_BERT = BERT.extend(
    "visual_bert",
    model_types=("visual_bert",),
    sizes={
        "seen": "visual_embedding_dim", "seen_types": "type_vocab_size", "seen_positions": "max_position_embeddings",
    },
    arrows={
        "embeddings.visual_token_type_embeddings": embedding("seen_types -> summed:stream"),
        "embeddings.visual_position_embeddings": embedding("seen_positions -> summed:stream"),
        "embeddings.visual_projection": linear("seen -> summed:stream", bias=True),
    },
    defaults={"visual_embedding_dim": 512, "bypass_transformer": False},
    constants={"bypass_transformer": (False, "VisualBERT that bypasses its layers is not described")},
    fixed={
        "seen": "what another model sees in an image is not a size of this one",
        "seen_types": BERT.fixed["types"], "seen_positions": BERT.fixed["positions"],
    },
    prefix="visual_bert",
)  # fmt: skip

TAPAS = BERT.extend(
    "tapas",
    model_types=("tapas",),
    sizes={f"types_{i}": f"types_{i}" for i in range(7)} | {"types": None, "relations": None},
    arrows={
        "embeddings.token_type_embeddings": None,
        "cls.seq_relationship": None,
        **{f"embeddings.token_type_embeddings_{i}": embedding(f"types_{i} -> summed:stream") for i in range(7)},
    },
    defaults={"type_vocab_size": None, "max_position_embeddings": 1024},
    inferred=("labels", *(f"types_{i}" for i in range(7))),
    fixed={
        **{f"types_{i}": "columns and rows of a table are not sizes of the model" for i in range(7)},
        "types": None,
        "relations": None,
    },
    prefix="tapas",
)

TEXT_TOWERS = BERT.extend(
    "bert_text_tower", model_types=("align_text_model", "chinese_clip_text_model"), prefix="", heads=()
)
