"""Drafts: what is measured is right, what is known is found, what is not is marked, and nothing foreign is run."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from torch import nn

import growformer
from growformer.architecture.registry import architectures
from growformer.cli.main import main
from growformer.drafting import nearest
from growformer.drafting.draft import LEAST_ALIKE, draft
from growformer.drafting.measure import measure
from growformer.errors import SourceError, UnknownArchitectureError

QWEN3 = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 151936, "hidden_size": 1024,
    "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
    "head_dim": 128,
}  # fmt: skip


def hide(monkeypatch: pytest.MonkeyPatch, *model_types: str) -> None:
    """Let drafts be made as if some model types were not declared."""
    known = {n: a for n, a in architectures().items() if not set(a.model_types) & set(model_types)}
    monkeypatch.setattr(nearest, "architectures", lambda: known)


def build_qwen3(config: dict[str, Any]) -> nn.Module:
    values = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**values))


def test_every_dimension_is_measured() -> None:
    config = {
        "vocab_size": 61, "hidden_size": 40, "intermediate_size": 74, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10,
    }  # fmt: skip
    found = measure(config, build_qwen3)
    assert found.counts == {"layer": "num_hidden_layers"}
    assert found.expressions["model.embed_tokens.weight"] == ("vocab_size", "hidden_size")
    layer = "model.layers.{layer}"
    assert found.expressions[f"{layer}.self_attn.q_proj.weight"] == ("num_attention_heads * head_dim", "hidden_size")
    assert found.expressions[f"{layer}.self_attn.k_proj.weight"] == ("num_key_value_heads * head_dim", "hidden_size")
    assert found.expressions[f"{layer}.mlp.down_proj.weight"] == ("hidden_size", "intermediate_size")
    assert found.expressions[f"{layer}.self_attn.q_norm.weight"] == ("head_dim",)


class Fused(nn.Module):
    """QKV in one matrix, with fewer keys and values than queries."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        rows = (config["heads"] + 2 * config["kv_heads"]) * config["head"]
        self.qkv = nn.Linear(config["width"], rows)
        self.half = nn.Linear(config["width"], config["inner"] // 2 + 1)


def test_sums_of_products_are_found() -> None:
    found = measure({"heads": 6, "kv_heads": 2, "head": 7, "width": 20, "inner": 26}, Fused)
    rows = found.expressions["qkv.weight"][0]
    assert rows is not None
    for heads, kv_heads, head in ((6, 2, 7), (8, 4, 5), (10, 1, 3)):
        value = eval(rows, {"heads": heads, "kv_heads": kv_heads, "head": head})
        assert value == (heads + 2 * kv_heads) * head
    assert found.expressions["half.weight"][0] == "inner / 2 + 1"


def test_a_known_layout_is_found_and_the_oracles_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "qwen3")
    found = growformer.draft_architecture(QWEN3, name="mystery")
    assert found.share == 1
    assert not found.problems
    assert found.architecture is not None
    assert set(found.architecture.tensors) >= {"layers.{layer}.self_attn.q_norm.weight", "norm.weight"}
    ast.parse(found.text)
    assert "The oracles agree with it." in found.text


def test_what_differs_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """OLMo 2 has no norm in front of a branch, and Q/K norms over all heads, unlike what it is drafted from."""
    hide(monkeypatch, *(t for a in architectures().values() if "olmo" in a.name for t in a.model_types), "exaone4")
    found = growformer.draft_architecture({"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"]})
    assert "layers.{layer}.self_attn.q_norm" in found.unsure
    assert found.unsure["layers.{layer}.self_attn.q_norm"] == "over all heads, from its length"
    assert any("as there is no" in why for why in found.unsure.values())
    assert "# unsure: " in found.text
    ast.parse(found.text)


def test_a_wrong_draft_is_not_called_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the draft is judged by the class, not by how alike the names are."""
    hide(monkeypatch, "qwen3")

    class Scaled(transformers.Qwen3ForCausalLM):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            width = config.hidden_size
            self.model.layers[0].mlp.gate_proj = nn.Linear(width, 2 * config.intermediate_size, bias=False)

    def build(config: dict[str, Any]) -> nn.Module:
        values = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
        return Scaled(transformers.Qwen3Config(**values))

    found = draft(QWEN3, build, name="scaled")
    assert found.problems
    assert "gate_proj" in " ".join(found.problems)


def test_nothing_is_drafted_of_what_is_like_nothing() -> None:
    with pytest.raises(UnknownArchitectureError) as caught:
        draft({"heads": 6, "kv_heads": 2, "head": 7, "width": 20, "inner": 26}, Fused, name="fused")
    assert "no declared family is like fused: the nearest is " in str(caught.value)
    assert "qkv.weight: [" in str(caught.value)
    assert 0 < LEAST_ALIKE < 1


CODE = """
import pathlib
import torch
from transformers import PreTrainedModel, PretrainedConfig

pathlib.Path({marker!r}).write_text("ran")


class OddConfig(PretrainedConfig):
    model_type = "odd"

    def __init__(self, width=20, vocab_size=30, **kwargs):
        self.width, self.vocab_size = width, vocab_size
        super().__init__(**kwargs)


class OddModel(PreTrainedModel):
    config_class = OddConfig

    def __init__(self, config):
        super().__init__(config)
        self.qkv = torch.nn.Linear(config.width, 3 * config.width)
        self.post_init()
"""


@pytest.fixture
def odd(tmp_path: Path) -> tuple[Path, Path]:
    folder, marker = tmp_path / "odd", tmp_path / "marker"
    folder.mkdir()
    (folder / "code.py").write_text(CODE.format(marker=str(marker)), encoding="utf-8")
    config = {"model_type": "odd", "auto_map": {"AutoConfig": "code.OddConfig", "AutoModel": "code.OddModel"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder, marker


def test_a_checkpoints_code_does_not_run(odd: tuple[Path, Path]) -> None:
    folder, marker = odd
    with pytest.raises(SourceError, match=r"is code inside the checkpoint \(auto_map\), which is not run unless"):
        growformer.draft_architecture(folder)
    assert not marker.exists()


def test_a_checkpoints_code_runs_when_asked_for(odd: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, marker = odd
    monkeypatch.setenv("HF_MODULES_CACHE", str(marker.parent / "modules"))
    with pytest.raises(UnknownArchitectureError, match="no declared family is like odd"):
        growformer.draft_architecture(folder, trust_remote_code=True)
    assert marker.read_text() == "ran"


def test_the_command_prints_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, "qwen3")
    (tmp_path / "config.json").write_text(json.dumps(QWEN3), encoding="utf-8")
    assert main(["inspect", str(tmp_path), "--draft-architecture"]) == 0
    text = capsys.readouterr().out
    ast.parse(text)
    assert "[project.entry-points" in text
    assert main(["inspect", str(tmp_path), "--draft-architecture", "--json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert as_json["text"] == text
    assert as_json["problems"] == []


def test_code_is_trusted_for_drafts_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3), encoding="utf-8")
    assert main(["inspect", str(tmp_path), "--trust-remote-code"]) == 2
    assert "--trust-remote-code goes with --draft-architecture" in capsys.readouterr().err
