"""EXAONE: Llama under GPT-2's names at first; EXAONE 4 norms branches, and the queries and keys of each head."""

from growformer.architecture.declaration import rms_norm
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.olmo import OLMO2
from growformer.architecture.families.parts import attention, rotary_heads

EXAONE = LLAMA.extend(
    "exaone",
    model_types=("exaone",),
    rotary=rotary_heads(theta=5e5)["rotary"],
    renames=(
        (r"^transformer\.wte\.", "model.embed_tokens."),
        (r"^transformer\.h\.", "model.layers."),
        (r"^transformer\.ln_f\.", "model.norm."),
        (r"\.attn\.attention\.out_proj\.", ".self_attn.o_proj."),
        (r"\.attn\.attention\.", ".self_attn."),
        (r"\.ln_1\.", ".input_layernorm."),
        (r"\.ln_2\.", ".post_attention_layernorm."),
        (r"\.mlp\.c_fc_0\.", ".mlp.gate_proj."),
        (r"\.mlp\.c_fc_1\.", ".mlp.up_proj."),
        (r"\.mlp\.c_proj\.", ".mlp.down_proj."),
    ),
    aliases={"num_layers": "num_hidden_layers", "layer_norm_epsilon": "rms_norm_eps"},
    defaults={"num_key_value_heads": 8, "rms_norm_eps": 1e-5},
)

# The pattern may also be a word (LLLG), or 0; then the config has to list the kinds of layers.
_EVERY = "sliding_window_pattern in [2, 3, 4, 5, 6, 7, 8] and (layer + 1) % sliding_window_pattern"

# With a sliding window, layers that attend to everything do not rotate; which, follows from layer_types.
EXAONE4 = OLMO2.extend(
    "exaone4",
    model_types=("exaone4",),
    arrows={
        **attention(raw=True, reads="stream", writes="attn_raw:stream"),
        "layers.{layer}.self_attn.q_norm": rms_norm("q_raw -> q", over="(pair freq)", eps="rms_norm_eps"),
        "layers.{layer}.self_attn.k_norm": rms_norm("k_raw -> k", over="(pair freq)", eps="rms_norm_eps"),
    },
    layer_rules={"layer_types": f"'sliding_attention' if {_EVERY} else 'full_attention'"},
    defaults={"num_key_value_heads": 32, "sliding_window_pattern": "4 if sliding_window else 0"},
)
