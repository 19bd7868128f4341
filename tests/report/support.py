"""What tests of the report share: plans of several families, a verification with every field, and a reader of pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import transformers

import growformer
from growformer.reporting.findings import read_findings
from growformer.reporting.verified import Verified

VOID = {"meta", "link", "br", "img", "input", "hr"}

#: name → (model type, config, growth): tiny, with sizes that are no doublings.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": (
        "llama",
        {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 3, "num_attention_heads": 6,
         "num_key_value_heads": 2, "head_dim": 10, "tie_word_embeddings": True},
        {"hidden_size": 36, "intermediate_size": 53, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 14,
         "num_hidden_layers": 5},
    ),
    "gpt2": (
        "gpt2",
        {"vocab_size": 53, "n_positions": 32, "n_embd": 21, "n_layer": 2, "n_head": 3, "n_inner": 47},
        {"n_embd": 28, "n_inner": 59, "n_layer": 3},
    ),
    "qwen3": (
        "qwen3",
        {"vocab_size": 53, "hidden_size": 20, "intermediate_size": 31, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 10},
        {"hidden_size": 28, "num_hidden_layers": 3},
    ),
    "bert": (
        "bert",
        {"vocab_size": 43, "hidden_size": 20, "intermediate_size": 29, "num_hidden_layers": 2,
         "num_attention_heads": 4},
        {"intermediate_size": 41, "num_hidden_layers": 3},
    ),
    "t5": (
        "t5",
        {"vocab_size": 41, "d_model": 20, "d_kv": 6, "d_ff": 33, "num_layers": 2, "num_decoder_layers": 3,
         "num_heads": 3},
        {"d_model": 28, "d_ff": 45, "num_heads": 5, "num_layers": 3},
    ),
    "vit": (
        "vit",
        {"hidden_size": 24, "intermediate_size": 35, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
         "patch_size": 4},
        {"hidden_size": 36, "num_attention_heads": 6, "intermediate_size": 51, "num_hidden_layers": 3},
    ),
    "mixtral": (
        "mixtral",
        {"vocab_size": 53, "hidden_size": 24, "intermediate_size": 31, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2},
        {"hidden_size": 36, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 43,
         "num_hidden_layers": 3},
    ),
    "deepseek_v3": (
        "deepseek_v3",
        {"vocab_size": 53, "hidden_size": 24, "intermediate_size": 31, "moe_intermediate_size": 17,
         "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 4,
         "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
         "q_lora_rank": 12, "kv_lora_rank": 10, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
         "head_dim": 4},
        {"hidden_size": 36, "moe_intermediate_size": 23, "num_hidden_layers": 4},
    ),
}  # fmt: skip
CLASSES = {
    "llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel", "qwen3": "Qwen3ForCausalLM", "bert": "BertForMaskedLM",
    "t5": "T5ForConditionalGeneration", "vit": "ViTModel", "mixtral": "MixtralForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
}  # fmt: skip


def config_of(name: str) -> dict[str, Any]:
    """Return a tiny config of a family."""
    kind, fields, _ = CASES[name]
    return {**transformers.AutoConfig.for_model(kind, **fields).to_dict(), "architectures": [CLASSES[name]]}


def plan_of(name: str, **options: Any) -> growformer.Plan:
    """Return the plan of a growth, from its config alone."""
    return growformer.plan(config_of(name), **{**CASES[name][2], **options})


def verification(layers: int = 3, *, text: str = " the") -> dict[str, Any]:
    """Return a verification in which every field is there."""
    bins = [
        {"start": 8 * i, "stop": 8 * i + 8, "source_error": 6e-7 * (1 + i / 9), "grown_error": 7e-7 * (1 + i / 8)}
        for i in range(8)
    ]
    by_layer = [
        {"layer": i, "grown_layer": i + 1, "source_error": 2e-7 * (i + 1), "grown_error": 2.2e-7 * (i + 1)}
        for i in range(layers)
    ]
    comparison = {
        "dtype": "float32", "length": 64, "inputs": "random tokens", "source_error": 6.3e-7, "grown_error": 6.6e-7,
        "ratio": 1.045, "limit": 2.0, "largest": 1.5e-6, "greedy_equal": 1.0, "ok": True,
        "worst": {"sequence": 0, "position": 41, "token": 7, "text": text, "output": "logits", "source_error": 1e-6,
                  "grown_error": 2e-6},
        "by_position": bins, "by_layer": by_layer,
    }  # fmt: skip
    reach = [
        {"tensor": f"model.layers.{i}.{name}.weight", "region": "[24:36, 0:24]", "first_step": step, "dead_units": 0,
         "gradient": [0.0 if step == 2 else 1e-4, 3e-5], "source_gradient": [1e-4, 2e-4]}
        for i in range(layers)
        for name, step in (("self_attn.q_proj", 2), ("mlp.down_proj", 1))
    ]  # fmt: skip
    activations = [
        {"module": f"model.layers.{i}.mlp.down_proj", "source_rms": 1.5, "new_rms": 0.02 * step, "step": step}
        for i in range(layers)
        for step in (0, 4)
    ]
    return {
        "ok": True,
        "verdict": "Preserved: constraints, outputs, trainability",
        "notes": ["a note"],
        "constraints": {
            "ok": True, "verdict": "all constraints hold", "tensors": 12, "checked": 4000, "regenerated": 900,
            "free": 0,
            "values": {"copy": 3000, "rescaled": 40, "zero": 960, "mean": 0, "sum": 0, "constant": 0,
                       "regenerated": 900, "unchecked": 0},
            "record": "growformer.json", "strict": False, "num_bytes": 40_000, "seconds": 0.5, "violations": [],
        },
        "outputs": {
            "ok": True, "tokens": 64, "comparisons": [comparison], "notes": [],
            "cache": {"tokens": 16, "same": True, "dtype": "float32", "grown_error": 6e-7, "source_error": 6e-7,
                      "ratio": 1.0, "ok": True},
        },
        "trainability": {
            "ok": True, "steps": 2, "regions": len(reach), "by_first_step": {"1": layers, "2": layers}, "reach": reach,
            "dead": [], "locked": [], "out_of_scale": [], "activations": activations, "notes": [],
        },
    }  # fmt: skip


def verified(
    data: dict[str, Any], notes: tuple[str, ...] = (), claimed: Sequence[str] = (), by: str = "c.json"
) -> Verified:
    """Return what a page shows of a verification's JSON: as found for it, except for the checks that are claimed."""
    return Verified(read_findings(data), dict.fromkeys(claimed, by), notes)


@dataclass
class Node:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    children: list[Node] = field(default_factory=list)
    text: str = ""

    def all(self, tag: str | None = None, class_: str | None = None) -> list[Node]:
        found = [self] if (tag is None or self.tag == tag) and (class_ is None or class_ in self.classes) else []
        return found + [n for child in self.children for n in child.all(tag, class_)]

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", self.text + "".join(c.words for c in self.children))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(Node("#text", {}, text=data))


def read_page(html: str) -> Node:
    """Return a page's elements; every one must be closed."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, [node.tag for node in reader.open]
    return reader.root
