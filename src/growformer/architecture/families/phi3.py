"""Phi-3: queries, keys and values in one matrix, gate and up in one; lists of factors for long contexts."""

from growformer.architecture.declaration import linear
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import HEAD, attention, fused_mlp, rotary_heads

_LONG = "'short_factor' in (rope_parameters or rope_scaling or [])"

PHI3 = LLAMA.extend(
    "phi3",
    model_types=("phi3",),
    variant=f"not {_LONG}",
    multiples=(),
    arrows={
        "layers.{layer}.self_attn.q_proj": None,
        "layers.{layer}.self_attn.k_proj": None,
        "layers.{layer}.self_attn.v_proj": None,
        "layers.{layer}.self_attn.qkv_proj": linear(
            "normed -> [(kv_heads group [q:(pair freq) q_rest:rest]) (kv_heads [k:(pair freq) k_rest:rest]) "
            "v:(kv_heads value)]"
        ),
        "layers.{layer}.self_attn.o_proj": attention()["layers.{layer}.self_attn.o_proj"],
        **fused_mlp(),
    },
    **rotary_heads(partial=True),
    defaults={"rms_norm_eps": 1e-5, "partial_rotary_factor": 1.0, "rope_parameters": None, "rope_scaling": None},
)

PHI3_LONG = PHI3.extend(
    "phi3_longrope",
    variant=_LONG,
    **rotary_heads(
        HEAD, partial=True,
        because="Phi3Config wants as many factors as hidden_size / num_attention_heads has planes",
    ),
)  # fmt: skip
