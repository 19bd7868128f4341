"""The checkpoints that consumers run: random ones of every awkward size, and real weights."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.integration.cases import CASES as TINY
from torch import nn

import growformer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

#: Bytes, and a few letters: a tokenizer that every converter takes for Llama's.
VOCAB = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}, "▁": 259, "a": 260}

TEXT = (
    "The weather was good, and so they walked to the harbour, where the ships from the islands had come in the night"
    " before.\n\ndef add(a, b):\n    return a + b\n"
)
SENTENCES = (
    "A man is playing a guitar on the street.",
    "The central bank raised interest rates again, and borrowing money has become more expensive.",
    "Light travels faster than sound.",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A source checkpoint, a growth, and what to run.

    Attributes:
        kind: decoder or encoder.
        growth: everything at once, as far as the family has the sizes.
        source: writes the source checkpoint to a folder that does not exist, or returns one that does.
        inputs: token sequences; a decoder has one.
        refused: consumer → what its refusal of the grown checkpoint says.
    """

    name: str
    kind: str
    growth: dict[str, int]
    source: Callable[[Path], Path]
    inputs: Callable[[], list[list[int]]]
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def model_class(self) -> Any:
        """The class that transformers runs it with."""
        return transformers.AutoModelForCausalLM if self.kind == "decoder" else transformers.AutoModel

    def load(self, folder: Path, dtype: torch.dtype) -> nn.Module:
        """Return a checkpoint as transformers loads it."""
        model: nn.Module = self.model_class.from_pretrained(folder, dtype=dtype).eval()
        return model


@functools.cache
def weights() -> Any:
    """Return ``examples/weights.py``, which is no package."""
    spec = importlib.util.spec_from_file_location("growformer_example_weights", EXAMPLES / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look it up
    spec.loader.exec_module(module)
    return module


def write_llama(folder: Path, name: str = "llama", **settings: Any) -> Path:
    """Write a random Llama with a tokenizer; ``name`` is of ``tests/integration/cases.py``."""
    settings = {
        "vocab_size": len(VOCAB), "hidden_size": 48, "bos_token_id": 1, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 7000.0}, **settings,
    }  # fmt: skip
    case = dataclasses.replace(TINY[name], settings={**TINY[name].settings, **settings})
    case.build().save_pretrained(folder)
    _byte_tokenizer().save_pretrained(folder)
    return folder


def write_bert(folder: Path, **settings: Any) -> Path:
    """Write a random BERT with a real tokenizer, which llama.cpp's converter looks up by its digest."""
    case = dataclasses.replace(TINY["bert"], settings={**TINY["bert"].settings, "vocab_size": 30522, **settings})
    case.build().save_pretrained(folder)
    # A field that transformers 5 no longer knows or writes, and without which ctranslate2 stops.
    edit_config(folder, position_embedding_type="absolute")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(weights().minilm() / name, folder)
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": case.make_config().hidden_size, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    """Change fields of a checkpoint's config.json by hand; None removes one."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def _byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.BPE(vocab=VOCAB, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def random_tokens(first: int, last: int, length: int = 41) -> list[int]:
    """Return the same random tokens at every call."""
    generator = torch.Generator().manual_seed(1)
    tokens: list[int] = torch.randint(first, last, (length,), generator=generator).tolist()
    return tokens


def llama_tokens() -> list[list[int]]:
    """Return tokens of the random Llamas."""
    return [random_tokens(3, len(VOCAB))]


def bert_tokens() -> list[list[int]]:
    """Return tokens of the random BERT; 101 and 102 are what llama.cpp puts around every sequence."""
    return [[101, *random_tokens(1000, 30000, length), 102] for length in (7, 41)]


def tokenised(folder: Path, texts: tuple[str, ...]) -> list[list[int]]:
    """Return the tokens of texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text)["input_ids"] for text in texts]


GROWN_LLAMA = {
    "hidden_size": 144, "intermediate_size": 53, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 16,
    "num_hidden_layers": 5,
}  # fmt: skip

CASES = {
    case.name: case
    for case in (
        Case(name="llama", kind="decoder", growth=GROWN_LLAMA, source=write_llama, inputs=llama_tokens),
        Case(
            name="llama with hidden_size other than heads x head_dim",
            kind="decoder",
            growth={**GROWN_LLAMA, "hidden_size": 72},
            source=write_llama,
            inputs=llama_tokens,
            refused={"ctranslate2": r"axis 2 has dimension 240 but expected 120"},
        ),
        Case(
            name="llama tied",
            kind="decoder",
            growth={**GROWN_LLAMA, "hidden_size": 72, "head_dim": 8},
            source=functools.partial(write_llama, name="llama tied"),
            inputs=llama_tokens,
        ),
        Case(
            name="SmolLM2-135M",
            kind="decoder",
            growth={
                "hidden_size": 768, "intermediate_size": 2112, "num_attention_heads": 12, "num_key_value_heads": 4,
                "num_hidden_layers": 36,
            },
            source=lambda _: weights().smollm2(),
            inputs=lambda: tokenised(weights().smollm2(), (TEXT,)),
        ),
        Case(
            name="bert",
            kind="encoder",
            growth={
                "hidden_size": 72, "intermediate_size": 53, "num_attention_heads": 4, "num_hidden_layers": 5,
            },
            source=write_bert,
            inputs=bert_tokens,
        ),
        Case(
            name="MiniLM-L6",
            kind="encoder",
            growth={
                "hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 16, "num_hidden_layers": 8,
            },
            source=lambda _: weights().minilm(),
            inputs=lambda: tokenised(weights().minilm(), SENTENCES),
        ),
    )
}  # fmt: skip
"""Decoders and encoders, each with everything grown at once."""


def disturb(folder: Path, target: Path) -> Path:
    """Copy a grown checkpoint with one block disturbed: what the new MLP units of one layer write to the old stream.

    growformer left zeros there; a tenth of the old weights' size takes their place.
    """
    shutil.copytree(folder, target)
    regions = growformer.load_provenance(folder).new_regions
    name = next(n for n in regions if n.endswith(("layers.0.mlp.down_proj.weight", "layer.0.output.dense.weight")))
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(target.glob("*.safetensors")):
        tensors = load_file(file)
        if name in tensors:
            break
    weight = tensors[name]
    [[rows], [columns]] = regions[name][0]
    block = weight[slice(*rows), slice(*columns)]
    assert not block.any()
    noise = torch.randn(block.shape, generator=torch.Generator().manual_seed(3))
    block.add_(0.1 * float(weight.std()) * noise)
    save_file(tensors, file, {"format": "pt"})
    return target
