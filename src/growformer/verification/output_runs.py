"""Running a model for the outputs check: in a dtype, with its hidden states, and token by token with a KV cache."""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from growformer.errors import SourceError

Inputs = Mapping[str, torch.Tensor]
"""Arguments of a model's forward by name, for one batch."""

OUTPUTS = (
    "logits", "prediction_logits", "prediction_logits_or_scores", "seq_relationship_logits", "start_logits",
    "end_logits", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds", "pred_boxes",
    "distillation_logits", "cls_logits", "reconstruction", "last_hidden_state", "pooler_output",
    "encoder_last_hidden_state",
)  # fmt: skip
"""What models return, that a user would look at; the most telling first."""

_ROTARY = re.compile(r"inv_freq$|(^|\.)rotary\w*(\.|$)")
"""Buffers with frequencies or angles, which classes make in float32 whatever the dtype of their weights."""


class Openable(Protocol):
    """A model that can be had in any dtype, as often as is needed."""

    def opened(self, dtype: torch.dtype) -> AbstractContextManager[nn.Module]:
        """Give the model in evaluation mode with weights in a dtype; it is not used after the context ends."""

    def looked_at(self) -> nn.Module:
        """Return the model's modules, buffers and config; its parameters may be on the meta device."""


@dataclass(frozen=True, slots=True)
class Held:
    """A model in memory, of which a copy is converted at a time."""

    model: nn.Module

    @contextlib.contextmanager
    def opened(self, dtype: torch.dtype) -> Iterator[nn.Module]:
        """Give a converted copy."""
        yield convert(self.model, dtype)

    def looked_at(self) -> nn.Module:
        """Return the model itself."""
        return self.model


@dataclass(frozen=True, slots=True)
class InputSet:
    """What both models are run on, and compared over as one.

    Attributes:
        kind: ``random tokens``, ``text``, ``images`` and the like, for the verdict.
        batches: arguments of the models' forward; each is run by itself. Sequences are numbered through all of them.
        cached: whether decoding with a KV cache is compared on the first batch.
        layers: whether the streams between layers are compared, which are kept in memory until then.
    """

    kind: str
    batches: tuple[Inputs, ...]
    cached: bool = True
    layers: bool = True

    @property
    def length(self) -> int:
        """The number of tokens of the longest sequence; 1 of images and sounds."""
        return max(_length(batch) for batch in self.batches)

    @property
    def num_positions(self) -> int:
        """How many tokens there are in all sequences; how many images or sounds."""
        return sum(_length(batch) * _sequences(batch) for batch in self.batches)

    def __str__(self) -> str:
        return f"{self.length:,} positions of {self.kind}" if self.length > 1 else self.kind


def _length(batch: Inputs) -> int:
    name = decoded(batch)
    return batch[name].shape[-1] if name is not None and batch[name].ndim > 1 else 1


def _sequences(batch: Inputs) -> int:
    return next(iter(batch.values())).shape[0]


@dataclass(slots=True)
class Ran:
    """What a model gave for one batch.

    Attributes:
        outputs: name -> ``(sequence, position, value)``, or ``(sequence, value)``; in the order of ``OUTPUTS``.
        hidden: module -> its output, of those that were asked for.
    """

    outputs: dict[str, torch.Tensor]
    hidden: dict[str, torch.Tensor] = field(default_factory=dict)


def run(model: nn.Module, inputs: Inputs, dtype: torch.dtype, modules: Sequence[str] = ()) -> Ran:
    """Return what a model computes in a dtype, which its weights have already.

    Raises:
        SourceError: it returns nothing that is known.
    """
    hidden: dict[str, torch.Tensor] = {}
    with torch.no_grad(), default_dtype(torch.promote_types(dtype, torch.float32)), _listening(model, modules, hidden):
        output = model(**cast_inputs(inputs, dtype))
    if isinstance(output, torch.Tensor):
        return Ran({"output": _with_positions("output", output)}, hidden)
    found = {name: getattr(output, name, None) for name in OUTPUTS}
    tensors = {
        name: _with_positions(name, value)
        for name, value in found.items()
        if isinstance(value, torch.Tensor) and value.ndim and value.is_floating_point()
    }
    if not tensors:
        raise SourceError(f"{type(model).__name__} returns none of {', '.join(OUTPUTS)}")
    return Ran(tensors, hidden)


def _with_positions(name: str, output: torch.Tensor) -> torch.Tensor:
    """Return an output with its values last: scores of spans are one value at each position."""
    if output.ndim < 2:
        return output.reshape(-1, 1)
    if name in ("start_logits", "end_logits") and output.ndim == 2:
        return output[..., None]
    return output


@contextlib.contextmanager
def _listening(model: nn.Module, modules: Sequence[str], heard: dict[str, torch.Tensor]) -> Iterator[None]:
    """Keep what some modules give; of one that runs several times, what it gives last."""
    handles = []
    for name in modules:

        def keep(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            if isinstance(first, torch.Tensor):
                heard[name] = first

        handles.append(model.get_submodule(name).register_forward_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def cast_inputs(inputs: Inputs, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return inputs with their numbers in a dtype; tokens and masks stay as they are."""
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in inputs.items()}


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new tensors of a dtype where none is said: some classes mix them with those of the model (XGLM's masks)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# Dtypes.


def convert(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy in evaluation mode with weights in a dtype; integer and rotary buffers stay as they are."""
    return cast(copy.deepcopy(model).eval(), dtype)


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert a model in place, as ``convert`` does a copy; experts run singly: fused kernels know no float64."""
    set_experts: Any = getattr(model, "set_experts_implementation", None)
    if set_experts is not None:
        set_experts("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                # Always in memory of its own: how a vector kernel rounds depends on how its weights are aligned.
                parameter.data = parameter.data.to(dtype, copy=True)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and not _ROTARY.search(name):
                buffer.data = buffer.data.to(dtype)
    return model


# Rotary frequencies.


def frequencies_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of a model's rotary frequencies by the names of their buffers."""
    return {name: b.detach().clone() for name, b in model.named_buffers() if name.endswith("inv_freq")}


def put_frequencies(source: nn.Module | Mapping[str, torch.Tensor], grown: nn.Module) -> None:
    """Overwrite the first rotary frequencies of a grown model with the source's, in place.

    Only where they agree up to the rounding of powers in float32 (2^-18 relative); a wrong base stays, and shows.
    """
    originals = frequencies_of(source) if isinstance(source, nn.Module) else source
    for name, buffer in grown.named_buffers():
        if not name.endswith("inv_freq") or name not in originals:
            continue
        mine = buffer[: originals[name].numel()]
        if mine.shape == originals[name].shape and torch.allclose(mine, originals[name], rtol=2**-18, atol=0):
            mine.copy_(originals[name])


def moved(source: Mapping[str, torch.Tensor], grown: Mapping[str, torch.Tensor]) -> float:
    """Return the largest change of a source's rotary frequency in a grown model, in radians per position."""
    changes = [0.0]
    for name, before in source.items():
        after = grown.get(name)
        if after is not None and after.numel() >= before.numel():
            change = (after[: before.numel()].double() - before.double()).abs()
            changes.append(float(change.max()) if change.numel() else 0.0)
    return max(changes)


# Decoding.


def decodes(model: nn.Module) -> bool:
    """Tell whether a model continues tokens as ``transformers`` does."""
    able = getattr(model, "can_generate", None)
    return bool(able is not None and able()) and getattr(model, "generation_config", None) is not None


def decoded(inputs: Inputs) -> str | None:
    """Return the name of the tokens that decoding continues, if the inputs have any."""
    return next((name for name in ("decoder_input_ids", "input_ids") if name in inputs), None)


def decode(model: nn.Module, inputs: Inputs, dtype: torch.dtype, steps: int) -> torch.Tensor:
    """Return the logits of the last ``steps`` positions, each computed from a KV cache of those before it.

    All positions before these are read at once, then one token at a time, those of the inputs whatever the model would
    have chosen. As ``generate`` does it, caches of every kind are those of the class.

    Args:
        model: in evaluation mode, with weights in ``dtype``.
        inputs: of one batch, without padding.
        dtype: of the weights.
        steps: how many positions; the inputs have more.

    Returns:
        ``(sequence, steps, vocabulary)``, in float32.
    """
    from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList

    name = decoded(inputs)
    assert name is not None
    tokens = inputs[name]
    known = tokens.shape[1] - steps + 1

    class Forced(LogitsProcessor):  # type: ignore[misc]
        """Chooses the next token of the inputs."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            chosen = torch.full_like(scores, -math.inf)
            at = min(input_ids.shape[1], tokens.shape[1] - 1)
            return chosen.scatter(-1, tokens[:, at, None], 0.0)

    given = dict(cast_inputs(inputs, dtype))
    given[name] = tokens[:, :known]
    if name == "input_ids":
        given["attention_mask"] = torch.ones_like(given[name])
    settings: Any = copy.deepcopy(model.generation_config)
    for plain, value in _PLAIN.items():
        if hasattr(settings, plain):
            setattr(settings, plain, value)
    settings.pad_token_id = 0
    settings.max_new_tokens = steps
    settings.eos_token_id = None
    before = model.generation_config
    model.generation_config = settings  # what a call leaves out is taken from here
    try:
        with torch.no_grad(), default_dtype(torch.promote_types(dtype, torch.float32)):
            found = GenerationMixin.generate(
                model, **given, generation_config=settings, logits_processor=LogitsProcessorList([Forced()]),
            )  # fmt: skip
    finally:
        model.generation_config = before
    return torch.stack(list(found.logits), dim=1)


_PLAIN: dict[str, Any] = {
    "do_sample": False, "num_beams": 1, "use_cache": True, "output_logits": True, "return_dict_in_generate": True,
    "max_length": None, "min_length": None, "min_new_tokens": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "suppress_tokens": None, "begin_suppress_tokens": None, "bad_words_ids": None,
    "no_repeat_ngram_size": None, "repetition_penalty": None, "temperature": None, "top_k": None, "top_p": None,
    "cache_implementation": None, "return_timestamps": False, "forced_decoder_ids": None,
}  # fmt: skip
"""Settings of generation that would choose other tokens, or another cache than the class has by itself."""


__all__ = [
    "OUTPUTS", "Held", "InputSet", "Inputs", "Openable", "Ran", "cast", "cast_inputs", "convert", "decode", "decoded",
    "decodes", "default_dtype", "frequencies_of", "moved", "put_frequencies", "run",
]  # fmt: skip
