"""The first GPT: GPT-2's matrices, with a LayerNorm behind each branch, none at the end, and an MLP of fixed width."""

from growformer.architecture.declaration import embedding, layer_norm, linear, linear_transposed
from growformer.architecture.families.gpt2 import GPT2, no_head_dim

_EPS = "layer_norm_epsilon"

OPENAI_GPT = GPT2.extend(
    "openai-gpt",
    model_types=("openai-gpt",),
    sizes={"mlp": "4 * n_embd"},
    arrows={
        "wte": None,
        "wpe": None,
        "tokens_embed": embedding("vocab -> stream"),
        "positions_embed": embedding("positions -> stream"),
        "h.{layer}.attn.c_attn": linear_transposed(
            "stream -> [q:(heads key) k:(heads key) v:(heads value)]", bias=True
        ),
        "h.{layer}.attn.c_proj": linear_transposed("attended:(heads value) -> summed:stream", bias=True),
        "h.{layer}.ln_1": layer_norm("summed -> stream", eps=_EPS),
        "h.{layer}.mlp.c_fc": linear_transposed("stream -> mlp", bias=True),
        "h.{layer}.mlp.c_proj": linear_transposed("mlp -> summed", bias=True),
        "h.{layer}.ln_2": layer_norm("summed -> stream", eps=_EPS),
        "ln_f": None,
        "lm_head": linear("stream -> vocab", optional=True),
        "score": linear("stream -> labels", optional=True),
        "classifier": None,
        "qa_outputs": None,
    },
    adds=(("stream", "summed"),),
    ties={"lm_head.weight": "tokens_embed.weight"},
    defaults={"n_inner": None},
    coupled=no_head_dim("the first GPT", "n_embd", "n_head"),
    aliases={"intermediate_size": None},
    roles={"mlp": None},
    heads=("lm_head", "score"),
    ignored={r"(transformer\.)?(position_ids|h\.\d+\.attn\.bias)": "a buffer that older versions stored"},
)
