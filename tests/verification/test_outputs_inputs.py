"""Inputs: random ones for every kind of class, and the user's own files, each with its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import tokenizers
import torch
import transformers
from tests.verification.test_outputs_from_disk import bert, llama, saved, t5, vit, wav2vec2
from torch import nn

from growformer.errors import RequestError
from growformer.verification.input_files import Inputs, together
from growformer.verification.model_inputs import NoDefaultInputs, random_inputs, what_it_reads
from growformer.verification.output_runs import run

torch.set_num_threads(1)
WORDS = ["[UNK]", "[BOS]", "[EOS]", "the", "sky", "is", "blue"]


def clip() -> nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 23, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={
                **sizes,
                "vocab_size": 31,
                "max_position_embeddings": 20,
                "eos_token_id": 5,
                "bos_token_id": 4,
            },
            vision_config={**sizes, "image_size": 12, "patch_size": 4},
            projection_dim=10,
        )
    )


def whisper() -> nn.Module:
    return transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=37, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=23, decoder_ffn_dim=23, num_mel_bins=8, max_source_positions=12,
            max_target_positions=20, decoder_start_token_id=3, pad_token_id=1, bos_token_id=2, eos_token_id=2,
            suppress_tokens=None, begin_suppress_tokens=None,
        )
    )  # fmt: skip


# Random inputs.


@pytest.mark.parametrize(
    ("make", "kind", "names"),
    [
        (llama, "random tokens", {"input_ids"}),
        (t5, "random tokens", {"input_ids", "decoder_input_ids"}),
        (vit, "random images", {"pixel_values"}),
        (wav2vec2, "random sounds", {"input_values"}),
        (whisper, "random sounds", {"input_features", "decoder_input_ids"}),
        (clip, "random tokens and images", {"input_ids", "pixel_values"}),
    ],
)
def test_every_kind_of_class_gets_what_it_reads(make: Callable[[], nn.Module], kind: str, names: set[str]) -> None:
    model = make().eval()
    given = random_inputs(model, 16, seed=3)
    assert given.kind == kind
    (batch,) = given.batches
    assert batch.keys() == names
    assert run(model, batch, torch.float32).outputs
    again, other = random_inputs(model, 16, seed=3), random_inputs(model, 16, seed=4)
    assert all(torch.equal(batch[name], again.batches[0][name]) for name in names)
    assert not all(torch.equal(batch[name], other.batches[0][name]) for name in names)


def test_one_result_per_sequence_needs_many() -> None:
    """The ratio of two errors of a few numbers is chance."""
    assert random_inputs(vit()).batches[0]["pixel_values"].shape[0] == 24
    assert random_inputs(bert()).batches[0]["input_ids"].shape == (2, 62)


def test_tokens_with_a_meaning_are_left_out() -> None:
    model = llama()
    model.config.pad_token_id, model.config.eos_token_id = 7, 8
    ids = random_inputs(model, 2000).batches[0]["input_ids"]
    assert not {7, 8} & set(ids.unique().tolist())
    assert ids.max() == 60


def test_a_class_that_reads_something_else_says_what() -> None:
    class Other(nn.Module):
        config = transformers.LlamaConfig()

        def forward(self, graph: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            return graph

    with pytest.raises(NoDefaultInputs, match=r"Other reads (graph|edges), for which .* no default.*edges, graph"):
        random_inputs(Other())

    class More(nn.Module):
        config = transformers.LlamaConfig()

        def forward(self, input_ids: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
            return input_ids

    with pytest.raises(NoDefaultInputs, match="More also needs boxes"):
        random_inputs(More())


def test_the_longest_input() -> None:
    assert what_it_reads(llama()).longest == 4096
    assert what_it_reads(bert()).longest == 62  # a table may start after the padding token's entry


# Files.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = saved(llama, tmp_path_factory.mktemp("llama"))
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(found)
    return found


@pytest.fixture
def inputs(folder: Path) -> Inputs:
    return Inputs(llama(), folder)


def ids(found: Any) -> list[list[list[int]]]:
    return [batch["input_ids"].tolist() for batch in found.batches]


def test_lines_and_paragraphs(inputs: Inputs, tmp_path: Path) -> None:
    lines, paragraphs = tmp_path / "lines.txt", tmp_path / "paragraphs.TXT"
    lines.write_text("the sky\nis blue\nthe sky is blue\n")
    paragraphs.write_text("the sky\nis blue\n\n\nblue\n")
    (found,) = inputs.read([lines])
    assert found.kind.startswith("text of ")
    assert ids(found) == [[[3, 4], [5, 6]], [[3, 4, 5, 6]]]
    assert found.length == 4
    assert ids(inputs.read([paragraphs])[0]) == [[[3, 4, 5, 6]], [[6]]]
    assert ids(inputs.read([lines, paragraphs])[0]) == [[[3, 4], [5, 6]], [[3, 4, 5, 6], [3, 4, 5, 6]], [[6]]]
    assert ids(inputs.prompt("sky blue")) == [[[4, 6]]]


def test_records(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"input_ids": [5, 9, 60]}, {"text": "the sky"}]))
    (tmp_path / "b.jsonl").write_text('{"input_ids": [5, 9], "attention_mask": [1, 1]}\n\n{"text": "is blue"}\n')
    (tmp_path / "c.json").write_text(json.dumps({"input_ids": [1]}))
    assert ids(inputs.read([tmp_path / "a.json"])[0]) == [[[5, 9, 60]], [[3, 4]]]
    (found,) = inputs.read([tmp_path / "b.jsonl"])
    assert found.batches[0]["attention_mask"].tolist() == [[1, 1]]
    assert ids(found) == [[[5, 9]], [[5, 6]]]
    assert ids(inputs.read([tmp_path / "c.json"])[0]) == [[[1]]]


def test_what_is_too_long_is_cut_and_said(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"input_ids": [5] * 5000, "attention_mask": [1] * 5000}))
    (found,) = inputs.read([tmp_path / "a.json"])
    assert {name: t.shape[1] for name, t in found.batches[0].items()} == {"input_ids": 4096, "attention_mask": 4096}
    assert inputs.notes == [f"{tmp_path / 'a.json'}: entry 1: cut from 5,000 to 4,096 tokens, the model's longest"]


def test_a_decoder_gets_the_text_after_its_start(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"input_ids": [5, 9, 7]}))
    (found,) = Inputs(t5(), None).read([tmp_path / "a.json"])
    assert found.batches[0]["decoder_input_ids"].tolist() == [[0, 5, 9]]


def test_arrays(tmp_path: Path) -> None:
    model = vit()
    pixels = np.random.default_rng(0).normal(size=(3, 3, 24, 24)).astype(np.float32)
    np.savez(tmp_path / "a.npz", pixel_values=pixels)
    safetensors.torch.save_file({"pixel_values": torch.from_numpy(pixels)}, tmp_path / "b.safetensors")
    found = Inputs(model, None).read([tmp_path / "a.npz", tmp_path / "b.safetensors"])
    assert all(one.kind.startswith("arrays of ") for one in found)
    assert all(torch.equal(one.batches[0]["pixel_values"], torch.from_numpy(pixels)) for one in found)
    assert run(model, found[0].batches[0], torch.float32).outputs["logits"].shape == (3, 5)
    np.savez(tmp_path / "c.npz", input_ids=np.array([[3, 4]], dtype=np.int32))
    assert Inputs(llama(), None).read([tmp_path / "c.npz"])[0].batches[0]["input_ids"].dtype == torch.int64


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, size in (("a.png", (31, 40)), ("b.jpg", (24, 24))):
        values = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
        PIL.Image.fromarray(values).save(folder / name)
    (folder / "notes.md").write_text("no image")
    return folder


def test_images_go_through_the_processor(images: Path, tmp_path: Path) -> None:
    folder = saved(vit, tmp_path / "vit")
    settings = {"image_processor_type": "ViTImageProcessorPil", "size": {"height": 24, "width": 24}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (found,) = Inputs(vit(), folder).read([images])
    assert found.kind.startswith("images of ")
    assert [batch["pixel_values"].shape for batch in found.batches] == [(2, 3, 24, 24)]
    (one,) = Inputs(vit(), folder).read([images / "b.jpg"])
    assert torch.equal(one.batches[0]["pixel_values"][0], found.batches[0]["pixel_values"][1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tex", b"the sky", "inputs of an unknown kind; expected one of .txt, .json.*did you mean '.txt'"),
        ("a.txt", b"\n \n", "has no text; expected one per line, or paragraphs"),
        ("a.txt", b"\xff\xfe", "cannot be read as UTF-8 text"),
        ("a.json", b"{", "not JSON"),
        ("a.jsonl", b'{"text": "the sky"}\n{', "not JSONL"),
        ("a.json", b"[]", "no inputs; expected"),
        ("a.json", b"[3]", r"entry 1: expected \{.input_ids.: .*found 3"),
        ("a.json", b'{"text": "the", "input_ids": [1]}', "entry 1: expected"),
        ("a.json", b'{"text": 3}', "entry 1: text is 3; expected some text"),
        ("a.json", b'{"input_ids": [1, -2]}', r"input_ids is \[1, -2\]; expected whole numbers from 0"),
        ("a.json", b'{"input_ids": [true]}', r"input_ids is \[True\]; expected whole numbers from 0"),
        ("a.json", b'{"input_ids": []}', r"input_ids is \[\]; expected whole numbers"),
        ("a.json", b'{"input_ids": [61]}', "entry 1: token 61; the model has tokens 0 to 60"),
        ("a.json", b'{"input_ids": [1], "labelz": [1]}', "has no argument 'labelz'; did you mean 'labels'"),
        ("a.json", b'{"input_ids": [1], "attention_mask": [1, 1]}', "attention_mask has 2 numbers; expected 1"),
        ("a.npz", b"PK", "cannot be read as npz"),
        ("a.safetensors", b"\0" * 12, "cannot be read as safetensors"),
        ("a.png", b"", "LlamaForCausalLM reads input_ids, not images"),
    ],
)  # fmt: skip
def test_wrong_files(inputs: Inputs, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        inputs.read([tmp_path / name])
    assert str(caught.value).startswith(str(tmp_path / name))


def test_wrong_arrays(inputs: Inputs, tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    for arrays, message in (
        ({}, "holds no arrays; expected one per argument, such as input_ids"),
        ({"ids": np.ones((1, 2))}, "LlamaForCausalLM has no argument 'ids'"),
        ({"input_ids": np.array(3)}, r"input_ids has the shape \[\]; expected sequences along its first dimension"),
        (
            {"input_ids": np.ones((2, 3), dtype=int), "attention_mask": np.ones((1, 3))},
            "arrays of different numbers of sequences",
        ),
        ({"input_ids": np.array([["a"]])}, "cannot be read as npz: an array of <U1; expected numbers"),
        ({"input_ids": np.array([[print]], dtype=object)}, "cannot be read as npz: Object arrays cannot be loaded"),
    ):
        np.savez(file, **arrays)
        with pytest.raises(RequestError, match=message):
            inputs.read([file])


def test_other_wrong_inputs(inputs: Inputs, images: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"missing\.txt: no such file of inputs"):
        inputs.read([tmp_path / "missing.txt"])
    with pytest.raises(RequestError, match="a folder without images"):
        inputs.read([tmp_path])
    with pytest.raises(RequestError, match="the prompt '' has no tokens"):
        inputs.prompt("")
    live = Inputs(llama(), None)
    with pytest.raises(RequestError, match="a prompt needs a model folder with a tokenizer"):
        live.prompt("the sky")
    (tmp_path / "a.txt").write_text("the sky")
    with pytest.raises(RequestError, match="text 1 needs a model folder with a tokenizer; give token ids"):
        live.read([tmp_path / "a.txt"])
    bare = saved(llama, tmp_path / "bare")
    with pytest.raises(RequestError, match=r"needs a tokenizer, and .* has none that can be loaded"):
        Inputs(llama(), bare).read([tmp_path / "a.txt"])
    with pytest.raises(RequestError, match="images need a model folder with an image processor; give pixel_values"):
        Inputs(vit(), None).read([images])
    without = saved(vit, tmp_path / "vit")
    with pytest.raises(RequestError, match=r"images need an image processor, and .* has none that can be loaded"):
        Inputs(vit(), without).read([images])
    with pytest.raises(RequestError, match="ViTForImageClassification has no argument 'input_ids'"):
        Inputs(vit(), None).read([_json(tmp_path, {"input_ids": [1]})])


def _json(folder: Path, data: Any) -> Path:
    (folder / "x.json").write_text(json.dumps(data))
    return folder / "x.json"


def test_sequences_keep_their_order() -> None:
    rows = [torch.full((1, n), i) for i, n in enumerate((3, 3, 2, 3))]
    found = together({"input_ids": row} for row in rows)
    assert [batch["input_ids"][:, 0].tolist() for batch in found] == [[0, 1], [2], [3]]
