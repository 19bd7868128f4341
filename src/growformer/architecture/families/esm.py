"""ESM: a pre-norm encoder of proteins, rotary or with learned positions; a contact head reads all attention maps."""

from dataclasses import replace

from growformer.architecture.declaration import Rotary, layer_norm, linear
from growformer.architecture.families.pre_norm_bert import pre_norm, tables
from growformer.architecture.families.roberta import ROBERTA

_HEAD = "hidden_size / num_attention_heads"
_SELF = "encoder.layer.{layer}.attention.self"

ESM = ROBERTA.extend(
    "esm",
    model_types=("esm",),
    variant="position_embedding_type == 'absolute' and not emb_layer_norm_before",
    sizes={"types": None, "contact": "1"},
    arrows={
        **tables(ROBERTA.arrows),
        **pre_norm("attention.LayerNorm", "LayerNorm", "encoder.emb_layer_norm_after"),
        "embeddings.token_type_embeddings": None,
        "lm_head.decoder": linear("prediction -> vocab", optional=True),
        "contact_head.regression": linear("maps:(layer heads) -> contact", bias=True),
    },
    attention=(replace(ROBERTA.attention[0], maps="maps"),),
    adds=(),
    ties={"lm_head.decoder.bias": None},
    defaults={
        "position_embedding_type": "'absolute'", "emb_layer_norm_before": False, "is_folding_model": False,
        "max_position_embeddings": 1026,
    },
    constants={"is_folding_model": (False, "ESMFold is not described")},
    fixed={"types": None, "contact": "whether two residues touch is one number"},
    prefix="esm",
    ignored={r"(esm\.)?embeddings\.position_embeddings\.weight": "not used beside rotary embeddings"},
)  # fmt: skip

ESM_1B = ESM.extend(
    "esm_1b",
    variant="position_embedding_type == 'absolute' and emb_layer_norm_before",
    arrows={
        **{
            f"embeddings.{name}_embeddings": ROBERTA.arrows[f"embeddings.{name}_embeddings"]
            for name in ("word", "position")
        },
        "embeddings.layer_norm": layer_norm("summed -> residual", eps="layer_norm_eps"),
    },
)

ESM_2 = ESM.extend(
    "esm_2",
    variant="position_embedding_type == 'rotary' and not emb_layer_norm_before",
    sizes={"positions": None, "key": None, "pair": "2", "freq": f"{_HEAD} / 2"},
    arrows={
        "embeddings.position_embeddings": None,
        f"{_SELF}.query": linear("normed -> q:(heads pair freq)", bias=True),
        f"{_SELF}.key": linear("normed -> k:(heads pair freq)", bias=True),
    },
    attention=(replace(ESM.attention[0], over=("pair", "freq")),),
    rotary=(Rotary(frequency="freq", of=_HEAD),),
    coupled=(replace(ESM.coupled[0], keeps="value"),),
    fixed={
        "positions": None,
        "pair": "a rotary plane has two coordinates",
        "freq": "frequencies are stored, and go with the size of a head; let the number of heads grow",
    },
    renames=(
        *ESM.renames,
        (r"encoder\.layer\.[0*]\.attention\.self\.rotary_embeddings\.inv_freq", "rotary_embeddings.inv_freq"),
    ),
    carried={r"rotary_embeddings\.inv_freq": "frequencies of rotation"},
    ignored={r".*\.attention\.self\.rotary_embeddings\.inv_freq": "the same in all layers; the first one's goes on"},
)
