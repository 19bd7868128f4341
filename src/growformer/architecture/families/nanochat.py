"""nanochat: norms without parameters everywhere, also right behind the embedding, and on rotated queries and keys."""

from growformer.architecture.declaration import embedding, rms_norm
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.parts import attention, plain_mlp

_EPS = "rms_norm_eps"

NANOCHAT = LLAMA.extend(
    "nanochat",
    model_types=("nanochat",),
    multiples=(),
    arrows={
        "embed_tokens": embedding("vocab -> embedded:stream"),
        "(norm of embeddings)": rms_norm("embedded -> stream", eps=_EPS, gain=False),
        "layers.{layer}.input_layernorm": rms_norm("stream -> normed", eps=_EPS, gain=False),
        **attention(bias="attention_bias", out="attention_bias", raw=True),
        "layers.{layer}.self_attn.q_norm": rms_norm("q_raw -> q", over="(pair freq)", eps=_EPS, gain=False),
        "layers.{layer}.self_attn.k_norm": rms_norm("k_raw -> k", over="(pair freq)", eps=_EPS, gain=False),
        "layers.{layer}.post_attention_layernorm": rms_norm("stream -> mlp_normed", eps=_EPS, gain=False),
        **plain_mlp("fc1", "fc2"),
        "norm": rms_norm("stream -> final", eps=_EPS, gain=False),
    },
    fixed={
        "freq": "its norms of queries and keys have no gain that could make up for more of them",
        "value": "a value is as large as a key",
    },
)
