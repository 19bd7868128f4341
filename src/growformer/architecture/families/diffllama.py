"""DiffLlama: heads in pairs, the second subtracted from the first, and a norm over both values of a pair."""

from growformer.architecture.declaration import Attention, LayerKind, carried, linear, rms_norm
from growformer.architecture.families.llama import LLAMA, PLAIN_MLP

_ATTENTION = "layers.{layer}.self_attn"
_BY_PAIRS = "its vectors for lambda and its norm over the two values of a pair of heads depend on head_dim"

DIFFLLAMA = LLAMA.extend(
    "diffllama",
    model_types=("diffllama",),
    multiples=(),
    sizes={"kv_heads": None, "part": "2", "kv_pairs": "num_key_value_heads / 2"},
    arrows={
        f"{_ATTENTION}.q_proj": linear(
            "normed -> [q_first:(kv_pairs group pair freq) q_second:(kv_pairs group pair freq)]", bias="attention_bias"
        ),
        f"{_ATTENTION}.k_proj": linear(
            "normed -> [k_first:(kv_pairs pair freq) k_second:(kv_pairs pair freq)]", bias="attention_bias"
        ),
        f"{_ATTENTION}.v_proj": linear("normed -> v:(part kv_pairs value)", bias="attention_bias"),
        **{f"{_ATTENTION}.lambda_{name}": carried("(value)") for name in ("q1", "k1", "q2", "k2")},
        f"{_ATTENTION}.groupnorm": rms_norm(
            "attended_raw -> attended:(kv_pairs group part value)", over="(part value)", eps="rms_norm_eps", gain=False
        ),
        f"{_ATTENTION}.o_proj": linear("attended -> stream", bias="attention_bias"),
        **PLAIN_MLP,
    },
    attention=tuple(
        Attention(
            query=f"q_{which}", key=f"k_{which}", value="v", output="attended_raw", over=("pair", "freq"),
            scale="1 / sqrt(head_dim)",
        )
        for which in ("first", "second")
    ),
    kinds=(
        LayerKind(when="layer", because="what is subtracted depends on a layer's number; new layers go to the end"),
    ),
    defaults={"rms_norm_eps": 1e-5},
    fixed={"part": "two values make a pair", "freq": _BY_PAIRS, "value": _BY_PAIRS},
)  # fmt: skip
