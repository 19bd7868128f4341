"""Decoders like GPT-2: other orders of fused projections, biases, positions and norms."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case

TOKENS: dict[str, Any] = {"vocab_size": 53, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1}
#: Sizes in GPT-2's names.
SIZES: dict[str, Any] = {
    **TOKENS, "n_positions": 128, "n_embd": 30, "n_inner": 37, "n_layer": 2, "n_head": 3,
}  # fmt: skip
#: Sizes in the usual names.
USUAL: dict[str, Any] = {
    **TOKENS, "max_position_embeddings": 128, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2,
    "num_attention_heads": 3,
}  # fmt: skip
UNTIED = {"tie_word_embeddings": False}
LABELS = {"num_labels": 7}
VOCAB = {"vocab": "input_ids"}
#: Positions that are computed tell the coordinates of the stream apart.
COMPUTED = ("stream",)
NEO = {
    **{n: v for n, v in USUAL.items() if not n.startswith("num_")}, "num_layers": 3, "num_heads": 3, "window_size": 5,
    "attention_types": [[["global", "local"], 1], [["global"], 1]],
}  # fmt: skip
DEEPER = {"num_layers": {"num_layers": 2, "attention_types": [[["local"], 2]]}}
GPTJ = {**SIZES, "n_embd": 36, "rotary_dim": 4}
CODEGEN = {**SIZES, "n_embd": 48, "n_head": 4, "rotary_dim": 6}


def gpt(model_type: str, model: str, config: dict[str, Any], name: str = "", **options: Any) -> Case:
    """A case; other options of the config than its sizes may stand among those of the case."""
    known = Case.__dataclass_fields__
    fields = {n: v for n, v in options.items() if n not in known}
    rest = {n: v for n, v in options.items() if n in known}
    return Case(model_type=model_type, model=model, name=name, config={**config, **fields}, **rest)


def rotary(share: float) -> dict[str, Any]:
    """Rotary parameters of GPT-NeoX."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": share}}


#: Its own activation, ReLU, is zero for some units on all of a small input.
OPT = {
    **{n: v for n, v in USUAL.items() if n != "intermediate_size"}, "ffn_dim": 37, "pad_token_id": 0,
    "activation_function": "gelu",
}  # fmt: skip
FALCON = {
    **{n: v for n, v in USUAL.items() if n != "intermediate_size"}, "hidden_size": 48, "num_attention_heads": 6,
    "ffn_hidden_size": 37, "bias": True,
}  # fmt: skip
MPT = {**TOKENS, "d_model": 24, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}
BLOOM = {**TOKENS, "hidden_size": 24, "n_head": 4, "n_layer": 2}
XGLM = {
    **TOKENS, "d_model": 24, "attention_heads": 3, "num_layers": 2, "ffn_dim": 37, "max_position_embeddings": 128,
    "pad_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

CASES = (
    gpt("gpt-sw3", "GPT2LMHeadModel", SIZES),
    gpt("gpt_bigcode", "GPTBigCodeForCausalLM", SIZES),
    gpt("gpt_bigcode", "GPTBigCodeForCausalLM", SIZES, "multi-head", multi_query=False, **UNTIED),
    gpt("gpt_bigcode", "GPTBigCodeForTokenClassification", SIZES, **LABELS),
    gpt("imagegpt", "ImageGPTForCausalImageModeling", SIZES),
    gpt("imagegpt", "ImageGPTForImageClassification", SIZES, **LABELS),
    gpt("openai-gpt", "OpenAIGPTLMHeadModel", SIZES),
    gpt("openai-gpt", "OpenAIGPTLMHeadModel", SIZES, "untied", **UNTIED),
    gpt("openai-gpt", "OpenAIGPTModel", SIZES),
    gpt("gpt_neo", "GPTNeoForCausalLM", NEO, variants=DEEPER),
    gpt("gpt_neo", "GPTNeoForCausalLM", NEO, "untied", intermediate_size=None, variants=DEEPER, **UNTIED),
    gpt("gpt_neo", "GPTNeoForQuestionAnswering", NEO, variants=DEEPER),
    gpt("gptj", "GPTJForCausalLM", GPTJ),
    gpt("gptj", "GPTJForCausalLM", GPTJ, "all-rotated", rotary_dim=12, tie_word_embeddings=True),
    gpt("gptj", "GPTJModel", GPTJ),
    gpt("codegen", "CodeGenForCausalLM", CODEGEN),
    gpt("codegen", "CodeGenForCausalLM", CODEGEN, "tied", tie_word_embeddings=True),
    gpt("gpt_neox", "GPTNeoXForCausalLM", USUAL, **rotary(0.5)),
    gpt("gpt_neox", "GPTNeoXForCausalLM", USUAL, "all-rotated", **rotary(1.0), tie_word_embeddings=True),
    gpt("gpt_neox", "GPTNeoXForTokenClassification", USUAL, **rotary(0.5), **LABELS, use_parallel_residual=False),
    gpt(
        "gpt_neox_japanese", "GPTNeoXJapaneseForCausalLM", {n: v for n, v in USUAL.items() if n != "intermediate_size"},
        intermediate_multiple_size=2, **rotary(0.5),
        growths={"num_hidden_layers": {"num_hidden_layers": 4, "new_layers_at": [1, 2]}},
    ),
    gpt("bloom", "BloomForCausalLM", BLOOM),
    gpt("bloom", "BloomForCausalLM", BLOOM, "untied", n_head=3, **UNTIED),
    gpt("bloom", "BloomForTokenClassification", BLOOM, **LABELS),
    gpt("falcon", "FalconForCausalLM", FALCON),
    gpt("falcon", "FalconForCausalLM", FALCON, "sequential", parallel_attn=False, bias=False),
    gpt("falcon", "FalconForCausalLM", FALCON, "multi-head", multi_query=False, **UNTIED),
    gpt("falcon", "FalconForCausalLM", FALCON, "rw", multi_query=False, parallel_attn=False, alibi=True),
    gpt("falcon", "FalconForCausalLM", FALCON, "40b", new_decoder_architecture=True, num_kv_heads=2),
    gpt(
        "falcon", "FalconForCausalLM", FALCON, "11b", new_decoder_architecture=True, num_kv_heads=2,
        num_ln_in_parallel_attn=1,
    ),
    gpt("falcon", "FalconForTokenClassification", FALCON, **LABELS),
    gpt("mpt", "MptForCausalLM", MPT),
    gpt("mpt", "MptForCausalLM", MPT, "scaled", attn_config={"softmax_scale": 0.3}, **UNTIED),
    gpt("mpt", "MptForCausalLM", MPT, "clipped", attn_config={"clip_qkv": 1.5}),
    gpt("mpt", "MptForQuestionAnswering", MPT),
    gpt("opt", "OPTForCausalLM", OPT, lookups=VOCAB),
    gpt("opt", "OPTForCausalLM", OPT, "projected", word_embed_proj_dim=14, lookups=VOCAB),
    gpt("opt", "OPTForCausalLM", OPT, "350m", word_embed_proj_dim=14, do_layer_norm_before=False, lookups=VOCAB),
    gpt("opt", "OPTForCausalLM", OPT, "post-norm", do_layer_norm_before=False, lookups=VOCAB, **UNTIED),
    gpt("opt", "OPTForQuestionAnswering", OPT, enable_bias=False, lookups=VOCAB),
    gpt("biogpt", "BioGptForCausalLM", {**USUAL, "pad_token_id": 0}, lookups=VOCAB),
    gpt("biogpt", "BioGptForTokenClassification", {**USUAL, "pad_token_id": 0}, lookups=VOCAB, **LABELS),
    gpt("xglm", "XGLMForCausalLM", XGLM, ordered=COMPUTED),
    gpt("xglm", "XGLMModel", XGLM, scale_embedding=False, ordered=COMPUTED),
    gpt("ctrl", "CTRLLMHeadModel", {**{n: v for n, v in SIZES.items() if n != "n_inner"}, "dff": 37}, ordered=COMPUTED),
)  # fmt: skip
