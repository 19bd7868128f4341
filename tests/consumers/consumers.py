"""Programs that run a checkpoint without transformers' own forward pass: convert a folder, run it, return numbers.

Every consumer runs in float32 on one thread, and imports what it needs when it is used, so that the tests can be
collected where nothing is installed. What a consumer raises while it converts, loads or runs is a ``RefusedError``.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
COMMAND = "python3 scripts/test.py -m consumers"


class RefusedError(Exception):
    """A consumer could not convert, load or run a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a decoder gives.

    Attributes:
        logits: [position, vocab], float32.
        continuation: the tokens that follow the prompt, greedily, through the consumer's own cache where it has one;
            empty if no new tokens were asked for.
    """

    logits: torch.Tensor
    continuation: list[int]


class Consumer(Protocol):
    """One way of running a checkpoint.

    Attributes:
        name: as in the documentation.
        pooled: whether ``encode`` gives the mean over a sequence rather than every position.
        own_error: the largest error that it may have on a source, by kind of model; relative, as everything here. A
            consumer further away than that computes something else, and nothing could be concluded from it.
    """

    name: str
    pooled: bool
    own_error: dict[str, float]

    def unavailable(self) -> str | None:
        """Return why it cannot run here, or None."""

    def versions(self) -> str:
        """Return what runs, with versions."""

    def adapt(self, model: nn.Module) -> None:
        """Make a transformers model compute in place what this consumer means to compute, where it means another thing.

        It is then the reference for the source and for the grown model alike.
        """

    def decode(self, folder: Path, tokens: Sequence[int], prompt: Sequence[int], new_tokens: int) -> Decoded:
        """Convert the decoder in ``folder``, run it on ``tokens``, and continue ``prompt`` by ``new_tokens``.

        Raises:
            RefusedError: the consumer cannot.
        """

    def encode(self, folder: Path, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        """Convert the encoder in ``folder``, and return one row for every position, or for every sequence if pooled.

        Sequences run one by one, so that nothing depends on padding.

        Raises:
            RefusedError: the consumer cannot.
        """


def _not_installed(*packages: str) -> str | None:
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed: {COMMAND} installs it" if absent else None


def _greedily(logits: Callable[[list[int]], torch.Tensor], prompt: Sequence[int], new_tokens: int) -> list[int]:
    """Continue a prompt by running the whole sequence again for every token."""
    sequence = list(prompt)
    for _ in range(new_tokens):
        sequence.append(int(logits(sequence)[-1].argmax()))
    return sequence[len(prompt) :]


FLOAT32 = 1e-5
"""Relative error that float32 arithmetic may cost a model of a few layers, in whatever order it sums."""


class CTranslate2:
    """OpenNMT's engine, with a converter that rebuilds each architecture by hand."""

    name = "ctranslate2"
    pooled = False
    own_error: ClassVar = {"decoder": FLOAT32, "encoder": FLOAT32}

    def adapt(self, model: nn.Module) -> None:
        """Change nothing."""

    def unavailable(self) -> str | None:
        return _not_installed("ctranslate2")

    def versions(self) -> str:
        return f"ctranslate2 {version('ctranslate2')}"

    def decode(self, folder: Path, tokens: Sequence[int], prompt: Sequence[int], new_tokens: int) -> Decoded:
        import ctranslate2

        with tempfile.TemporaryDirectory() as work, _refusals():
            path = self._convert(folder, Path(work))
            generator = ctranslate2.Generator(path, compute_type="float32", intra_threads=1)
            logits = _numbers(generator.forward_batch([list(tokens)]))[0]
            continuation = []
            if new_tokens:
                vocabulary = json.loads((Path(path) / "vocabulary.json").read_text(encoding="utf-8"))
                results = generator.generate_batch(
                    [[vocabulary[token] for token in prompt]],
                    max_length=new_tokens,
                    min_length=new_tokens,
                    beam_size=1,
                    include_prompt_in_result=False,
                )
                continuation = results[0].sequences_ids[0]
        return Decoded(logits=logits, continuation=continuation)

    def encode(self, folder: Path, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        import ctranslate2

        with tempfile.TemporaryDirectory() as work, _refusals():
            encoder = ctranslate2.Encoder(self._convert(folder, Path(work)), compute_type="float32", intra_threads=1)
            return torch.cat([_numbers(encoder.forward_batch([list(t)]).last_hidden_state)[0] for t in batch])

    def _convert(self, folder: Path, work: Path) -> str:
        from ctranslate2.converters import TransformersConverter

        return str(TransformersConverter(str(folder)).convert(str(work / "model")))


def _numbers(storage: Any) -> torch.Tensor:
    import numpy

    return torch.from_numpy(numpy.array(storage))


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn whatever a consumer raises into a refusal; their errors have no type in common."""
    try:
        yield
    except Exception as error:
        raise RefusedError(f"{type(error).__name__}: {error}") from error


class _Exported:
    """What runs the graph that ``torch.onnx.export(dynamo=True)`` makes of transformers' own modules."""

    pooled = False
    own_error: ClassVar = {"decoder": FLOAT32, "encoder": FLOAT32}

    def adapt(self, model: nn.Module) -> None:
        """Change nothing."""

    def decode(self, folder: Path, tokens: Sequence[int], prompt: Sequence[int], new_tokens: int) -> Decoded:
        with _refusals():
            run = self._load(_exported(folder, "AutoModelForCausalLM"))
            return Decoded(logits=run(list(tokens)), continuation=_greedily(run, prompt, new_tokens))

    def encode(self, folder: Path, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        with _refusals():
            run = self._load(_exported(folder, "AutoModel"))
            return torch.cat([run(list(tokens)) for tokens in batch])

    def _load(self, file: Path) -> Callable[[list[int]], torch.Tensor]:
        """Return a function from tokens to [position, …]."""
        raise NotImplementedError


@functools.cache
def _exported(folder: Path, model_class: str) -> Path:
    """Export to ONNX with a free sequence length, once for every consumer of the file; the graph has no cache."""
    import transformers

    model = getattr(transformers, model_class).from_pretrained(folder, dtype=torch.float32).eval()
    options = {"use_cache": False} if model_class == "AutoModelForCausalLM" else {}

    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            outputs = self.model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **options)
            result: torch.Tensor = outputs[0]
            return result

    work = tempfile.mkdtemp(prefix="growformer-onnx-")
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    torch.onnx.export(
        Outputs().eval(),
        (torch.arange(2, 15).reshape(1, -1),),
        f"{work}/model.onnx",
        dynamo=True,
        input_names=["input_ids"],
        output_names=["output"],
        dynamic_shapes={"input_ids": {1: torch.export.Dim("sequence", min=2, max=512)}},
        verbose=False,
    )
    return Path(work, "model.onnx")


class OnnxRuntime(_Exported):
    """ONNX, run by onnxruntime."""

    name = "onnxruntime"

    def unavailable(self) -> str | None:
        return _not_installed("onnx", "onnxscript", "onnxruntime")

    def versions(self) -> str:
        return f"onnxruntime {version('onnxruntime')} (onnxscript {version('onnxscript')}, torch {version('torch')})"

    def _load(self, file: Path) -> Callable[[list[int]], torch.Tensor]:
        import numpy
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return lambda tokens: torch.from_numpy(session.run(None, {"input_ids": numpy.array([tokens])})[0][0])


class OpenVino(_Exported):
    """The same ONNX file, run by OpenVINO."""

    name = "openvino"

    def unavailable(self) -> str | None:
        return _not_installed("onnx", "onnxscript", "openvino")

    def versions(self) -> str:
        return f"openvino {version('openvino')} (from the same ONNX)"

    def _load(self, file: Path) -> Callable[[list[int]], torch.Tensor]:
        import numpy
        import openvino

        core = openvino.Core()
        # Without the hint, processors with bfloat16 arithmetic use it.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = core.compile_model(core.read_model(str(file)), "CPU", settings)
        return lambda tokens: torch.from_numpy(numpy.array(compiled([numpy.array([tokens])])[0][0]))


class Gguf:
    """llama.cpp: its own converter, and its library through node-llama-cpp."""

    name = "llama.cpp"
    pooled = True
    # BERT's activation goes through a table of float16 numbers, see _Gelu: a number that falls to the other side of a
    # rounding boundary moves the result by more than all float32 arithmetic does.
    own_error: ClassVar = {"decoder": FLOAT32, "encoder": 1e-3}

    def unavailable(self) -> str | None:
        reason: str | None = _tools().missing()
        return reason

    def versions(self) -> str:
        tools = _tools()
        return f"node-llama-cpp {tools.NODE_LLAMA_CPP} ({tools.CONVERTER.replace('==', ' ')})"

    def adapt(self, model: nn.Module) -> None:
        """Give an encoder the activation that llama.cpp has, whatever its config says."""
        for module in model.modules():
            if hasattr(module, "intermediate_act_fn"):
                module.intermediate_act_fn = _Gelu()

    def decode(self, folder: Path, tokens: Sequence[int], prompt: Sequence[int], new_tokens: int) -> Decoded:
        request = {"tokens": list(tokens), "prompt": list(prompt), "new_tokens": new_tokens}
        logits, answer = self._run(folder, request)
        return Decoded(logits=logits.reshape(len(tokens), -1), continuation=answer["continuation"])

    def encode(self, folder: Path, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        pooled, _ = self._run(folder, {"batch": [list(tokens) for tokens in batch]})
        return pooled.reshape(len(batch), -1)

    @staticmethod
    def convert(folder: Path, model: Path, outtype: str = "f32") -> None:
        """Write a GGUF file.

        Raises:
            RefusedError: the converter cannot.
        """
        _process(
            [sys.executable, str(_tools().converter()), str(folder), "--outfile", str(model), "--outtype", outtype]
        )

    def _run(self, folder: Path, request: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            model, out, asked = work / "model.gguf", work / "out.bin", work / "request.json"
            self.convert(folder, model)
            asked.write_text(json.dumps({**request, "model": str(model), "out": str(out)}), encoding="utf-8")
            printed = _process(["node", str(HERE / "gguf.mjs"), str(_tools().node_folder()), str(asked)])
            numbers = torch.frombuffer(bytearray(out.read_bytes()), dtype=torch.float32)
            return numbers, json.loads(printed.splitlines()[-1])


class _Gelu(nn.Module):
    """GELU as ggml computes it on a CPU: the tanh approximation, looked up in a table from float16 to float16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = nn.functional.gelu(x.half().float(), approximate="tanh").half().to(x.dtype)
        return torch.where(x <= -10, torch.zeros_like(x), torch.where(x >= 10, x, table))


def _process(command: list[str]) -> str:
    """Run a command and return what it printed; only the end of a failing one's words is of interest."""
    # The converter must import the gguf package that stands beside it, and none that PYTHONPATH names.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise RefusedError(f"{Path(command[1]).name}: {(done.stderr.strip() or done.stdout.strip())[-600:]}")
    return done.stdout


def _tools() -> ModuleType:
    """Return ``scripts/consumer_tools.py``, which is no package."""
    name = "growformer_consumer_tools"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE.parents[1] / "scripts" / "consumer_tools.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


CONSUMERS: dict[str, Consumer] = {c.name: c for c in (CTranslate2(), OnnxRuntime(), OpenVino(), Gguf())}
