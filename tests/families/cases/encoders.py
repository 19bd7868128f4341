"""Encoders of text: BERT and what came after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tests.families.case import Case, Inputs
from tests.families.inputs import tokens

SIZES: dict[str, Any] = {
    "vocab_size": 53, "max_position_embeddings": 64, "type_vocab_size": 5, "hidden_size": 30, "intermediate_size": 37,
    "num_hidden_layers": 2, "num_attention_heads": 3, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip


def encoder(model_type: str, model: str, name: str = "", config: dict[str, Any] | None = None, **options: Any) -> Case:
    """A case with BERT's field names; None leaves one out."""
    made = {n: v for n, v in {**SIZES, **(config or {})}.items() if v is not None or n == "pad_token_id"}
    return Case(name=name, model_type=model_type, model=model, config=made, **options)


def like_roberta(model_type: str, model: str, name: str = "", config: dict[str, Any] | None = None, **o: Any) -> Case:
    """A case whose class counts positions from the padding token's."""
    return encoder(
        model_type, model, name, {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, **(config or {})}, **o
    )


def modern(model: str, name: str = "", config: dict[str, Any] | None = None, **options: Any) -> Case:
    """A case of ModernBERT."""
    sizes = {"hidden_size": 36, "num_hidden_layers": 4, "local_attention": 6, "type_vocab_size": None}
    return encoder("modernbert", model, name, {**sizes, **(config or {})}, **options)


def glyphs(config: Mapping[str, Any]) -> Inputs:
    """Tokens, with the shape and the sound of each."""
    made = tokens(config, 0, 2)
    ids = made["input_ids"]
    made["input_shape_ids"] = ids * 7 % config["shape_vocab_size"]
    made["input_pronunciation_ids"] = ids * 5 % config["pronunciation_vocab_size"]
    return made


def languages(config: Mapping[str, Any]) -> Inputs:
    """Tokens, each in one of four languages."""
    made = tokens(config, 0, 2)
    made["langs"] = made["input_ids"] % 4
    return made


def layout(config: Mapping[str, Any]) -> Inputs:
    """Tokens, each in a box on a page."""
    made = tokens(config, 0, 2)
    ids = made["input_ids"]
    most = config["max_2d_position_embeddings"] // 2
    near = torch.stack([ids % most, ids * 3 % most], -1)
    made["bbox"] = torch.cat([near, near + torch.stack([ids * 5 % most, ids * 11 % most], -1)], -1)
    return made


def table(config: Mapping[str, Any]) -> Inputs:
    """Tokens, with seven numbers for the cell of each."""
    made = tokens(config, 0, 2)
    sizes = torch.tensor(config["type_vocab_sizes"])
    made["token_type_ids"] = made["input_ids"][..., None] * torch.arange(3, 10) % sizes
    return made


def seen(config: Mapping[str, Any]) -> Inputs:
    """Tokens and vectors for regions of images; so many, as there is one answer for each."""
    generator = torch.Generator().manual_seed(6)
    made = tokens(config, 0, 24)
    made["visual_embeds"] = torch.randn((24, 9, config["visual_embedding_dim"]), generator=generator)
    return made


def some_global(config: Mapping[str, Any]) -> Inputs:
    """Tokens, a few of which attend to all others."""
    made = tokens(config, 0, 2)
    made["global_attention_mask"] = (made["input_ids"] % 7 == 0).long()
    return made


FULL = {"attention_type": "original_full"}
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
BARE_POOLER = ("pooler.weight", "pooler.bias")
GLYPHS = {
    "pronunciation_vocab_size": 19, "pronunciation_embed_dim": 11, "shape_vocab_size": 23, "shape_embed_dim": 13,
}  # fmt: skip
TABLE = {"type_vocab_size": None, "type_vocab_sizes": [3, 17, 19, 2, 11, 13, 7]}
DISTIL = {
    "dim": 30, "hidden_dim": 37, "n_layers": 2, "n_heads": 3, "hidden_size": None, "intermediate_size": None,
    "num_hidden_layers": None, "num_attention_heads": None, "num_labels": 7,
}  # fmt: skip
SHARED = {"embedding_size": 14, "num_hidden_layers": 5, "num_hidden_groups": 2, "inner_group_num": 2}
SMALL = {"embedding_size": 14}
PAGE = {"max_2d_position_embeddings": 71}
ONE_SIZE = {key: {"hidden_size": 33, "embedding_size": 33} for key in ("hidden_size", "embedding_size")}
POSITIONS = {"positions": "position_ids"}


def whole_heads(hidden_size: int) -> dict[str, dict[str, int]]:
    """Return what to change together so that there is one head more, as large as the three there are."""
    changed = {"hidden_size": hidden_size * 4 // 3, "num_attention_heads": 4}
    return dict.fromkeys(changed, changed)


CONTACTS = ("contact_head.regression.weight", "contact_head.regression.bias")
EVEN = {"hidden_size": 36}
EURO = {"num_attention_heads": 6, "num_key_value_heads": 3, "type_vocab_size": None}
XLM = {
    "emb_dim": 30, "n_layers": 2, "n_heads": 3, "hidden_size": None, "intermediate_size": None, "n_langs": 4,
    "num_hidden_layers": None, "num_attention_heads": None, "type_vocab_size": None, "num_labels": 7, "pad_token_id": 0,
}  # fmt: skip
LANGUAGES: dict[str, Any] = {
    "inputs": languages, "lookups": {"vocab": "input_ids", "positions": "position_ids", "languages": "langs"},
}  # fmt: skip

CASES = (
    encoder("ernie", "ErnieForMaskedLM"),
    encoder("ernie", "ErnieModel", "tasks", {"use_task_id": True, "task_type_vocab_size": 7}),
    encoder("big_bird", "BigBirdForMaskedLM", config={**FULL, "rescale_embeddings": True}, unused=BARE_POOLER),
    encoder("big_bird", "BigBirdModel", "sparse", {"block_size": 4, "num_random_blocks": 1}),
    encoder("big_bird", "BigBirdForSequenceClassification", config=FULL, unused=BARE_POOLER),
    encoder("roc_bert", "RoCBertForMaskedLM", config=GLYPHS, inputs=glyphs),
    encoder("roc_bert", "RoCBertForMaskedLM", "untied", {**GLYPHS, "tie_word_embeddings": False}, inputs=glyphs,
            unused=("cls.predictions.bias",)),
    encoder("layoutlm", "LayoutLMForMaskedLM", config=PAGE, inputs=layout, unused=POOLER),
    encoder("layoutlm", "LayoutLMForSequenceClassification", config={**PAGE, "num_labels": 7}, inputs=layout),
    encoder("visual_bert", "VisualBertForPreTraining", config={"visual_embedding_dim": 17}, inputs=seen),
    encoder("tapas", "TapasForMaskedLM", config=TABLE, inputs=table),
    encoder("align_text_model", "AlignTextModel"),
    encoder("chinese_clip_text_model", "ChineseCLIPTextModel"),
    *(
        case
        for model_type, prefix in (
            ("roberta", "Roberta"), ("xlm-roberta", "XLMRoberta"), ("camembert", "Camembert"),
            ("data2vec-text", "Data2VecText"), ("xlm-roberta-xl", "XLMRobertaXL"),
            ("roberta-prelayernorm", "RobertaPreLayerNorm"), ("megatron-bert", "MegatronBert"),
        )
        for case in (like_roberta(model_type, f"{prefix}ForMaskedLM"), like_roberta(model_type, f"{prefix}Model"))
    ),
    like_roberta("roberta", "RobertaForSequenceClassification", config={"num_labels": 7}),
    like_roberta("clap_text_model", "ClapTextModel"),
    like_roberta("bridgetower_text_model", "models.bridgetower.modeling_bridgetower.BridgeTowerTextModel"),
    encoder("bert-generation", "BertGenerationEncoder"),
    encoder(
        "bert-generation", "BertGenerationDecoder", config={"tie_word_embeddings": False, "is_decoder": True},
        unused=("lm_head.bias",),
    ),
    encoder("bert-generation", "BertGenerationDecoder", "tied", {"is_decoder": True}),
    like_roberta(
        "longformer", "LongformerForMaskedLM", config={"attention_window": [4, 8]}, inputs=some_global,
        variants={"num_hidden_layers": {"num_hidden_layers": 3, "attention_window": [4, 8, 4]}},
    ),
    *(
        encoder("distilbert", f"DistilBert{head}", config=DISTIL)
        for head in ("ForMaskedLM", "Model", "ForSequenceClassification")
    ),
    like_roberta("mpnet", "MPNetForMaskedLM", config={"relative_attention_num_buckets": 32}),
    like_roberta("mpnet", "MPNetModel", config={"relative_attention_num_buckets": 32}),
    *(encoder("albert", f"Albert{head}", config=SHARED) for head in ("ForMaskedLM", "Model", "ForPreTraining")),
    *(encoder("electra", f"Electra{head}", config=SMALL) for head in ("ForMaskedLM", "Model", "ForPreTraining")),
    encoder("electra", "ElectraForMaskedLM", "one size", {"embedding_size": 30}, variants=ONE_SIZE),
    encoder("electra", "ElectraForPreTraining", "one size too", {"embedding_size": 30}, variants=ONE_SIZE),
    encoder("electra", "ElectraForSequenceClassification", config={**SMALL, "num_labels": 7}),
    encoder("rembert", "RemBertForMaskedLM", config={"input_embedding_size": 14, "output_embedding_size": 22}),
    modern("ModernBertForMaskedLM"),
    modern("ModernBertModel", config={"norm_bias": True, "attention_bias": True, "mlp_bias": True}),
    modern("ModernBertForSequenceClassification", config={"num_labels": 7, "classifier_bias": True}),
    *(
        like_roberta(
            "esm", model, f"{model}-{name}".removeprefix("tests.families."),
            {"mask_token_id": 3, "type_vocab_size": None, **config}, **options,
        )
        for model, size, usual in (
            ("EsmForMaskedLM", 24, {"unused": CONTACTS}), ("EsmModel", 36, {"unused": CONTACTS}),
            ("tests.families.contacts.EsmModel", 36, {"lookups": {"vocab": "input_ids"}, "ordered": ("positions",)}),
        )
        for name, config, options in (
            (
                "rotary", {"position_embedding_type": "rotary", "hidden_size": size},
                {**usual, "ordered": (), "variants": whole_heads(size)},
            ),
            ("absolute", {}, usual),
            # Which token stands for those that are masked depends on its id.
            (
                "norm", {"emb_layer_norm_before": True, "token_dropout": True},
                {**usual, "lookups": {} if "lookups" in usual else POSITIONS},
            ),
        )
    ),
    like_roberta("jina_embeddings_v3", "JinaEmbeddingsV3ForMaskedLM", config=EVEN),
    like_roberta("jina_embeddings_v3", "JinaEmbeddingsV3ForSequenceClassification", config={**EVEN, "num_labels": 7}),
    encoder("gte", "GteForMaskedLM", config=EVEN),
    encoder("gte", "GteModel", "no types", {**EVEN, "type_vocab_size": 0}, lookups={"vocab": "input_ids"}),
    encoder("nomic_bert", "NomicBertForMaskedLM", config={**EVEN, "head_dim": 14, "pad_token_id": 0}),
    encoder("nomic_bert", "NomicBertModel", config={**EVEN, "pad_token_id": 0}),
    encoder("eurobert", "EuroBertForMaskedLM", config={**EVEN, **EURO}),
    encoder("eurobert", "EuroBertForSequenceClassification", config={**EVEN, **EURO, "num_labels": 7}),
    *(
        encoder(model_type, f"{prefix}{head}", name, {**XLM, "tie_word_embeddings": name == "tied"}, **LANGUAGES)
        for model_type, prefix in (("xlm", "XLM"), ("flaubert", "Flaubert"))
        for head, name in (
            ("WithLMHeadModel", ""), ("WithLMHeadModel", "tied"), ("Model", ""), ("ForSequenceClassification", ""),
        )
    ),
)  # fmt: skip
