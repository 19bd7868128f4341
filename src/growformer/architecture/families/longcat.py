"""LongCat-Flash: a layer has latent attention and MLP twice, and experts across both, some of which do nothing."""

from growformer.architecture.declaration import Add, Attention, Packed, linear, parameter, rms_norm
from growformer.architecture.families.experts import LAYER, NO_MORE_EXPERTS, NO_NEXT_TOKENS, gated, packed
from growformer.architecture.families.latent import YOUTU, latent_attention
from growformer.architecture.families.parts import INTERLEAVED, rotary_heads

_ROUTER = f"{LAYER}.mlp.router"
_EXPERT = gated("mlp.experts.{expert}", "expert_mlp")
_BOTH = f"{LAYER}.mlp.experts.gate_up_proj"
_OF_ALL = {name: name.replace("{expert}", "{any_expert}") for name in _EXPERT if "down" not in name}


def _sublayer(number: int) -> dict[str, object]:
    attention = latent_attention(INTERLEAVED, at=f"self_attn.{number}", always=True)
    normed = f"{LAYER}.self_attn.{number}.kv_a_layernorm"
    return {
        f"{LAYER}.input_layernorm.{number}": rms_norm("stream -> normed", eps="rms_norm_eps"),
        **attention,
        normed: rms_norm("kv_latent_raw -> kv_normed", eps=attention[normed].eps),
        f"{LAYER}.post_attention_layernorm.{number}": rms_norm("stream -> mlp_normed", eps="rms_norm_eps"),
        **gated(f"mlps.{number}", "mlp"),
    }


LONGCAT_FLASH = YOUTU.extend(
    "longcat_flash",
    model_types=("longcat_flash",),
    variant=None,
    sizes={
        "layer": "num_layers",
        "mlp": "ffn_hidden_size",
        "expert_mlp": "expert_ffn_hidden_size",
        "expert": "n_routed_experts",
        "any_expert": "n_routed_experts + (zero_expert_num or 0)",
    },
    arrows={
        **{name: None for name in YOUTU.arrows if name.startswith(LAYER)},
        **_sublayer(0),
        f"{_ROUTER}.classifier": linear("mlp_normed -> router:any_expert", bias="router_bias"),
        f"{_ROUTER}.e_score_correction_bias": parameter("-> router:any_expert"),
        **{_OF_ALL.get(name, name): arrow for name, arrow in _EXPERT.items()},
        **_sublayer(1),
    },
    packed={
        **packed(),
        _BOTH: Packed(parts=tuple(f"{name}.weight" for name in _OF_ALL.values()), stack="any_expert"),
    },
    attention=(
        Attention(
            query=("q_nope", "q_rope"), key=("k_nope", "k_rope"), value="v", output="attended",
            over=("nope", "freq", "pair"),
            scale="sqrt(hidden_size / q_lora_rank) / sqrt(qk_nope_head_dim + qk_rope_head_dim)",
        ),
    ),
    adds=(
        Add(source="kv_normed", target="kv_latent", factor="sqrt(hidden_size / kv_lora_rank)"),
        Add(source="mlp_normed", target="stream", when="zero_expert_num"),
    ),
    rotary=rotary_heads(theta=1e7)["rotary"],
    defaults={
        "rms_norm_eps": 1e-5, "n_routed_experts": 512, "zero_expert_num": 256, "moe_topk": 12, "router_bias": False,
        "num_key_value_heads": "num_attention_heads", "initializer_range": 0.02, "tie_word_embeddings": False,
        "rope_interleave": None, "head_dim": 64,
    },
    fixed={
        **NO_MORE_EXPERTS,
        "any_expert": NO_MORE_EXPERTS["expert"],
        "layer": "experts without weights pass on what they are asked, so that no new layer is the identity",
    },
    follows={"num_hidden_layers": "2 * num_layers"},
    aliases={"intermediate_size": "ffn_hidden_size", "moe_intermediate_size": "expert_ffn_hidden_size"},
    roles={"mlp": "ffn_hidden_size", "layers": None},
    ignored={r"(model\.)?mtp.*": NO_NEXT_TOKENS},
)  # fmt: skip
