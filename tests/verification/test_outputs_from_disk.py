"""Models that run layer by layer from disk compute, bit by bit, what they compute in memory; what cannot is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from tests.verification.test_outputs_compare import bert, llama, t5
from torch import nn

import growformer
from growformer.storage.folder import open_folder
from growformer.verification.from_disk import FromDisk, Unrunnable, skeleton
from growformer.verification.model_inputs import random_inputs
from growformer.verification.output_runs import cast, decode, run
from growformer.verification.run_outputs import InMemory

torch.set_num_threads(1)


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=53, n_positions=32, n_embd=21, n_layer=2, n_head=3, n_inner=47)
    )


def mixtral() -> nn.Module:
    """Experts are separate on disk and fused in memory."""
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=53, hidden_size=24, intermediate_size=31, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2,
        )
    )  # fmt: skip


def gemma() -> nn.Module:
    """Tied, with sandwich norms and layers of two kinds."""
    return transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(
            vocab_size=53, hidden_size=24, intermediate_size=31, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, sliding_window=7,
        )
    )  # fmt: skip


def vit() -> nn.Module:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=20, intermediate_size=29, num_hidden_layers=2, num_attention_heads=4, image_size=24,
            patch_size=8, num_labels=5,
        )
    )  # fmt: skip


def wav2vec2() -> nn.Module:
    """Its positions are a convolution with a weight that is computed from two others."""
    return transformers.Wav2Vec2ForCTC(
        transformers.Wav2Vec2Config(
            vocab_size=17, hidden_size=24, intermediate_size=31, num_hidden_layers=2, num_attention_heads=4,
            conv_dim=(12, 12), conv_kernel=(5, 3), conv_stride=(3, 2), num_feat_extract_layers=2,
            num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": llama, "gpt2": gpt2, "bert": bert, "t5": t5, "mixtral": mixtral, "gemma2": gemma, "vit": vit,
    "wav2vec2": wav2vec2,
}  # fmt: skip


def saved(make: Callable[[], nn.Module], folder: Path) -> Path:
    torch.manual_seed(5)
    model: Any = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(folder, max_shard_size="30KB")
    return folder


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(MODELS[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(llama, tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_bit_by_bit_what_it_computes_in_memory(folder: Path, dtype: torch.dtype) -> None:
    opened = open_folder(folder)
    with InMemory(opened).opened(dtype) as whole, FromDisk(opened).opened(dtype) as streamed:
        given = random_inputs(whole, 20).batches[0]
        modules = [name for name, _ in whole.named_modules() if name.endswith((".0", ".1"))][:4]
        expected, found = run(whole, given, dtype, modules), run(streamed, given, dtype, modules)
        assert expected.outputs.keys() == found.outputs.keys()
        assert all(torch.equal(expected.outputs[n], t) for n, t in found.outputs.items())
        assert expected.hidden.keys() == found.hidden.keys()
        assert all(torch.equal(expected.hidden[n], t) for n, t in found.hidden.items())


@pytest.mark.parametrize("name", ["llama", "t5", "gemma2"])
def test_decoding_too(name: str, tmp_path: Path) -> None:
    opened = open_folder(saved(MODELS[name], tmp_path))
    with InMemory(opened).opened(torch.float32) as whole, FromDisk(opened).opened(torch.float32) as streamed:
        given = random_inputs(whole, 20).batches[0]
        expected, found = (decode(model, given, torch.float32, 3) for model in (whole, streamed))
        assert torch.equal(expected, found)


def test_weights_of_one_layer_at_a_time(llama_folder: Path) -> None:
    told: list[str] = []
    with FromDisk(open_folder(llama_folder), told.append).opened(torch.float64) as model:
        largest = max(
            [p.numel() for n, p in model.named_parameters() if ".layers." not in n]
            + [sum(p.numel() for p in layer.parameters()) for layer in model.get_submodule("model.layers").children()]
        )
        real: list[int] = []

        def count(*_: Any) -> None:
            real.append(sum(p.numel() for p in model.parameters() if p.device.type != "meta"))

        for module in model.modules():
            module.register_forward_hook(count)
        run(model, random_inputs(model, 9).batches[0], torch.float64)
        assert max(real) == largest
        assert all(p.device.type == "meta" for p in model.parameters())
    assert told == [
        "model.embed_tokens, 1 of 6", "model.layers.0, 2 of 6", "model.layers.1, 3 of 6", "model.layers.2, 4 of 6",
        "model.norm, 5 of 6", "lm_head, 6 of 6",
    ]  # fmt: skip


def test_weights_go_when_a_run_fails(llama_folder: Path) -> None:
    with FromDisk(open_folder(llama_folder)).opened(torch.float32) as model:
        handle = model.get_submodule("model.layers.1.mlp").register_forward_hook(_fail)
        given = random_inputs(model, 9).batches[0]
        with pytest.raises(ZeroDivisionError):
            run(model, given, torch.float32)
        assert all(p.device.type == "meta" for p in model.parameters())
        handle.remove()
        assert run(model, given, torch.float32).outputs["logits"].isfinite().all()


def _fail(*_: Any) -> None:
    raise ZeroDivisionError


def test_a_head_that_is_tied_in_the_config_and_stored_apart(tmp_path: Path) -> None:
    """As in memory: what is stored counts."""
    folder = saved(gemma, tmp_path)
    shard = next(iter(sorted(folder.glob("*.safetensors"))))
    tensors = safetensors.torch.load_file(shard)
    tensors["lm_head.weight"] = torch.randn(53, 24)
    safetensors.torch.save_file(tensors, shard, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"]["lm_head.weight"] = shard.name
    index.write_text(json.dumps(data))
    opened = open_folder(folder)
    with InMemory(opened).opened(torch.float32) as whole, FromDisk(opened).opened(torch.float32) as streamed:
        given = random_inputs(whole, 9).batches[0]
        expected, found = (run(m, given, torch.float32).outputs["logits"] for m in (whole, streamed))
        assert torch.equal(expected, found)
    assert not torch.equal(tensors["lm_head.weight"], whole.get_parameter("model.embed_tokens.weight"))


# Refused.


def remove(folder: Path, name: str) -> None:
    for shard in folder.glob("*.safetensors"):
        tensors = safetensors.torch.load_file(shard)
        if tensors.pop(name, None) is not None:
            safetensors.torch.save_file(tensors, shard, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"].pop(name)
    index.write_text(json.dumps(data))


def test_a_weight_that_is_not_stored(tmp_path: Path) -> None:
    folder = saved(llama, tmp_path)
    remove(folder, "model.layers.1.mlp.up_proj.weight")
    with (
        pytest.raises(Unrunnable, match=r"holds no weights for model\.layers\.1\.mlp\.up_proj\.weight of Llama"),
        FromDisk(open_folder(folder)).opened(torch.float32),
    ):
        pass


def test_a_weight_of_another_shape(tmp_path: Path) -> None:
    folder = saved(llama, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 38}))
    with (
        FromDisk(open_folder(folder)).opened(torch.float32) as model,
        pytest.raises(Unrunnable, match=r"gate_proj\.weight has the shape \[37, 24\]; its class expects \[38, 24\]"),
    ):
        run(model, random_inputs(model, 9).batches[0], torch.float32)


def test_a_module_that_uses_the_weights_of_another(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are not there then, so that no wrong result can come of it."""
    norm = transformers.models.llama.modeling_llama.LlamaModel

    plain = norm.forward

    def forward(self: Any, *args: Any, **named: Any) -> Any:
        found = plain(self, *args, **named)
        found.last_hidden_state = found.last_hidden_state * self.norm.weight
        return found

    monkeypatch.setattr(norm, "forward", forward)
    with (
        FromDisk(open_folder(llama_folder)).opened(torch.float32) as model,
        pytest.raises(Unrunnable, match="LlamaForCausalLM cannot run layer by layer: a module uses weights of another"),
    ):
        run(model, random_inputs(model, 9).batches[0], torch.float32)


def test_a_config_that_its_class_refuses(tmp_path: Path) -> None:
    folder = saved(llama, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "none-such"}))
    with pytest.raises(growformer.SourceError, match="LlamaForCausalLM refuses its config"):
        skeleton(open_folder(folder))
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchClass"]}))
    with pytest.raises(growformer.SourceError, match="transformers has no class 'NoSuchClass'"):
        skeleton(open_folder(folder))


def test_buffers_are_those_that_the_class_computes(llama_folder: Path) -> None:
    opened = open_folder(llama_folder)
    with InMemory(opened).opened(torch.float32) as whole:
        expected = dict(whole.named_buffers())
    found = dict(cast(skeleton(opened), torch.float32).named_buffers())
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], buffer) for name, buffer in found.items())
