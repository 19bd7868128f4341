"""DeepSeek: latent attention, where queries and keys have a rotated part and one that is not; experts in later layers."""

from growformer.architecture.declaration import Attention, LayerKind, linear, parameter, rms_norm
from growformer.architecture.families.llama import LLAMA
from growformer.architecture.families.mixtral import EXPERTS, FUSED_EXPERTS, NO_MORE_EXPERTS

_LATENT_EPS = 1e-6
_SPARSE = "layer >= first_k_dense_replace"
_WITH_QUERY_LATENT, _WITHOUT = "q_lora_rank", "not q_lora_rank"
_QUERY = "q:(heads [q_nope:nope q_rope:(freq pair)])".removeprefix("q:")

DEEPSEEK_V3 = LLAMA.extend(
    "deepseek_v3",
    model_types=("deepseek_v3",),
    multiples=(),
    sizes={
        "kv_heads": None, "group": None,
        "heads": "num_attention_heads",
        "nope": "qk_nope_head_dim",
        "freq": "qk_rope_head_dim / 2",
        "value": "v_head_dim",
        "q_latent": "q_lora_rank or 1",
        "kv_latent": "kv_lora_rank",
        "expert_mlp": "moe_intermediate_size",
        "shared_mlp": "moe_intermediate_size * n_shared_experts",
        "expert": "n_routed_experts",
    },
    arrows={
        "layers.{layer}.self_attn.q_proj": linear(f"normed -> {_QUERY}", when=_WITHOUT),
        "layers.{layer}.self_attn.k_proj": None,
        "layers.{layer}.self_attn.v_proj": None,
        "layers.{layer}.self_attn.q_a_proj": linear("normed -> q_latent_raw:q_latent", bias="attention_bias", when=_WITH_QUERY_LATENT),
        "layers.{layer}.self_attn.q_a_layernorm": rms_norm("q_latent_raw -> q_latent", eps=_LATENT_EPS, when=_WITH_QUERY_LATENT),
        "layers.{layer}.self_attn.q_b_proj": linear(f"q_latent -> {_QUERY}", when=_WITH_QUERY_LATENT),
        "layers.{layer}.self_attn.kv_a_proj_with_mqa": linear(
            "normed -> [kv_latent_raw:kv_latent k_rope:(freq pair)]", bias="attention_bias"
        ),
        "layers.{layer}.self_attn.kv_a_layernorm": rms_norm("kv_latent_raw -> kv_latent", eps=_LATENT_EPS),
        "layers.{layer}.self_attn.kv_b_proj": linear("kv_latent -> (heads [k_nope:nope v:value])"),
        "layers.{layer}.self_attn.o_proj": linear("attended:(heads value) -> stream", bias="attention_bias"),
        "layers.{layer}.mlp.gate_proj": linear("mlp_normed -> mlp", when=f"not ({_SPARSE})"),
        "layers.{layer}.mlp.up_proj": linear("mlp_normed -> mlp", when=f"not ({_SPARSE})"),
        "layers.{layer}.mlp.down_proj": linear("mlp -> stream", when=f"not ({_SPARSE})"),
        **{name: linear(str(arrow), when=_SPARSE) for name, arrow in EXPERTS.items() if arrow is not None},
        "layers.{layer}.mlp.gate.e_score_correction_bias": parameter("-> router:expert", when=_SPARSE),
        "layers.{layer}.mlp.shared_experts.gate_proj": linear("mlp_normed -> shared_mlp", when=_SPARSE),
        "layers.{layer}.mlp.shared_experts.up_proj": linear("mlp_normed -> shared_mlp", when=_SPARSE),
        "layers.{layer}.mlp.shared_experts.down_proj": linear("shared_mlp -> stream", when=_SPARSE),
    },
    packed=FUSED_EXPERTS,
    attention=(
        Attention(
            query=("q_nope", "q_rope"), key=("k_nope", "k_rope"), value="v", output="attended",
            over=("nope", "freq", "pair"), scale="1 / sqrt(qk_nope_head_dim + qk_rope_head_dim)",
        ),
    ),
    kinds=(
        LayerKind(
            when=_SPARSE, settle={"first_k_dense_replace": "num_others"},
            because="the first layers (first_k_dense_replace) have no experts and all others do",
        ),
    ),
    defaults={
        "first_k_dense_replace": 3, "q_lora_rank": None, "n_shared_experts": 1, "n_routed_experts": 256,
        "num_key_value_heads": "num_attention_heads", "head_dim": "qk_rope_head_dim",
    },
    fixed=NO_MORE_EXPERTS,
    follows={
        "head_dim": "qk_rope_head_dim",
        "qk_head_dim": "qk_nope_head_dim + qk_rope_head_dim",
        "num_key_value_heads": "num_attention_heads",
    },
    roles={
        "kv_heads": None, "key": "qk_nope_head_dim", "value": "v_head_dim",
    },
    ignored={r"(model\.)?layers\.\d+\.(eh_proj|enorm|hnorm|shared_head|embed_tokens)\..*": "a layer that predicts further tokens"},
)  # fmt: skip
