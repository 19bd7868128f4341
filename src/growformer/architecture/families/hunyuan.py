"""Hunyuan: Llama with norms on the queries and keys of each head, behind the rotation."""

from growformer.architecture.declaration import rms_norm
from growformer.architecture.families.llama import LLAMA, PLAIN_MLP
from growformer.architecture.families.parts import attention

_EPS = "rms_norm_eps"

# A rotation mixes the two coordinates of a plane, which the norm does not tell apart but its gain does.
HUNYUAN = LLAMA.extend(
    "hunyuan_v1_dense",
    model_types=("hunyuan_v1_dense",),
    multiples=(),
    arrows={
        **attention(bias="attention_bias", out="attention_bias", raw=True),
        "layers.{layer}.self_attn.query_layernorm": rms_norm("q_raw -> q", over="(pair freq)", eps=_EPS),
        "layers.{layer}.self_attn.key_layernorm": rms_norm("k_raw -> k", over="(pair freq)", eps=_EPS),
        **PLAIN_MLP,
    },
    defaults={"rms_norm_eps": 1e-5},
)

HUNYUAN_VL = HUNYUAN.extend(
    "hunyuan_vl",
    model_types=("hunyuan_vl_text",),
    defaults={"tie_word_embeddings": True},
    fixed={
        "freq": "which kind of position rotates a plane follows from head_dim (mrope_section reaches over both halves)",
        "value": "a value is as large as a key",
    },
)
