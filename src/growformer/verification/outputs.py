"""The outputs check: both models on the same inputs, judged against the source's own rounding.

Let y be what the source computes in float64. The figure is ``|grown in dtype D - y| / |source in dtype D - y|``:
near 1, growth added nothing to the rounding that D has anyway. Where the source's error is zero, both must be equal.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from growformer.errors import SourceError
from growformer.verification.rows import Row

OUTPUTS = (
    "logits", "prediction_logits", "prediction_logits_or_scores", "seq_relationship_logits", "start_logits",
    "end_logits", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds", "pred_boxes",
    "distillation_logits", "cls_logits", "last_hidden_state", "pooler_output",
)  # fmt: skip
"""What models return, that a user would look at."""

_ROTARY = re.compile(r"inv_freq$|(^|\.)rotary\w*(\.|$)")
"""Buffers with frequencies or angles, which classes make in float32 whatever the dtype of their weights."""

RATIO_LIMIT = {"float32": 2.0, "bfloat16": 3.0, "float16": 3.0}
"""How much further from float64 than the source the grown model may be, per dtype."""


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """Both models in one dtype.

    Attributes:
        dtype: of weights and arithmetic.
        source_error, grown_error: Frobenius norm of the difference from the reference, relative to its norm.
        ratio: grown_error / source_error.
        largest: largest difference between the two models, relative to the largest output.
        greedy_equal: share of positions where both predict the same next token.
        limit: the largest ratio that counts as preserved.
    """

    dtype: str
    source_error: float
    grown_error: float
    ratio: float
    largest: float
    greedy_equal: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether the ratio is within its limit."""
        return self.ratio <= self.limit


@dataclass(frozen=True, slots=True)
class OutputsReport:
    """The outputs check.

    Attributes:
        comparisons: one per dtype.
        cache_equal: whether the grown model with a KV cache continues with the same tokens; None for encoders.
        num_tokens: how many positions were compared.
        notes: what was not checked, and why.
    """

    comparisons: tuple[OutputComparison, ...]
    cache_equal: bool | None
    num_tokens: int
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether every comparison is within its limit and generation agrees."""
        return all(c.ok for c in self.comparisons) and self.cache_equal is not False

    def rows(self) -> list[Row]:
        """Return one row per finding: check, what was compared, result, whether it passed."""
        rows: list[Row] = []
        for c in self.comparisons:
            result = (
                f"error {c.grown_error:.2e}, the source's own {c.source_error:.2e}, ratio {c.ratio:.2f} "
                f"(limit {c.limit:g})"
            )
            rows.append(("outputs", f"{self.num_tokens} positions in {c.dtype}", result, c.ok))
        if self.cache_equal is not None:
            same = "same tokens" if self.cache_equal else "different tokens"
            rows.append(("outputs", "greedy generation with a KV cache", same, self.cache_equal))
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "ok": self.ok,
            "tokens": self.num_tokens,
            "cache_equal": self.cache_equal,
            "comparisons": [
                {name: getattr(c, name) for name in OutputComparison.__slots__} | {"ok": c.ok} for c in self.comparisons
            ],
            "notes": list(self.notes),
        }


def compare_outputs(
    source: nn.Module,
    grown: nn.Module,
    inputs: dict[str, torch.Tensor],
    dtypes: Sequence[str] = ("float32",),
    *,
    generate: int = 0,
    frequencies: bool = False,
) -> OutputsReport:
    """Compare two models on the same inputs, at every position.

    Args:
        source: the source; a copy is converted, it is not changed.
        grown: the grown model; likewise.
        inputs: keyword arguments of both.
        dtypes: in which to compare.
        generate: how many tokens to continue greedily with a KV cache.
        frequencies: give the grown model the source's rotary frequencies, where a base that is not a power of the
            source's has moved them by a float32 rounding (MATHEMATICS: rotary).

    Raises:
        SourceError: the models' outputs cannot be compared.
    """
    reference = _run(source, inputs, "float64")
    comparisons = []
    for dtype in dtypes:
        own = _run(source, inputs, dtype)
        other = _run(grown, inputs, dtype, frequencies_of=source if frequencies else None)
        missing = sorted(set(own) - set(other))
        if missing:
            raise SourceError(f"the grown model does not return {missing[0]}, as the source does")
        found = [_compare(dtype, reference[name], own[name], other[name]) for name in own]
        worst = max(found, key=lambda c: c.ratio)
        comparisons.append(replace(worst, largest=max(c.largest for c in found), greedy_equal=found[0].greedy_equal))
    cache_equal = _generations_agree(source, grown, inputs, generate) if generate else None
    num_tokens = next(iter(inputs.values())).shape[:2].numel()
    return OutputsReport(tuple(comparisons), cache_equal, num_tokens)


def _compare(dtype: str, reference: torch.Tensor, own: torch.Tensor, other: torch.Tensor) -> OutputComparison:
    if other.shape[-1] < own.shape[-1] or other.shape[:-1] != own.shape[:-1]:
        raise SourceError(f"outputs of shape {list(other.shape)} and {list(own.shape)} cannot be compared")
    other = other[..., : own.shape[-1]]
    norm = float(reference.norm()) or 1.0
    source_error = float((own - reference).norm()) / norm
    grown_error = float((other - reference).norm()) / norm
    # Where the source computes its float64 result exactly, any deviation within 1e-12 is the order of a sum.
    ratio = grown_error / max(source_error, 1e-13)
    largest = float((other - own).abs().max()) / (float(own.abs().max()) or 1.0)
    same = float((own.argmax(-1) == other.argmax(-1)).double().mean())
    return OutputComparison(dtype, source_error, grown_error, ratio, largest, same, RATIO_LIMIT[dtype])


def _run(
    model: nn.Module, inputs: dict[str, torch.Tensor], dtype: str, frequencies_of: nn.Module | None = None
) -> dict[str, torch.Tensor]:
    """Return everything that a model computes in a dtype by name, the most telling first."""
    wanted = getattr(torch, dtype)
    converted = convert(model, wanted)
    if frequencies_of is not None:
        put_frequencies(frequencies_of, converted)
    given = {name: t.to(wanted) if t.is_floating_point() else t for name, t in inputs.items()}
    with torch.no_grad(), default_dtype(torch.promote_types(wanted, torch.float32)):
        output = converted(**given)
    if isinstance(output, torch.Tensor):
        return {"output": output.double()}
    found = {name: getattr(output, name, None) for name in OUTPUTS}
    tensors = {name: value.double() for name, value in found.items() if isinstance(value, torch.Tensor) and value.ndim}
    if not tensors:
        raise SourceError(f"{type(model).__name__} returns none of {', '.join(OUTPUTS)}")
    return tensors


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new tensors of a dtype where none is said: some classes mix them with those of the model (XGLM's masks)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def convert(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy in evaluation mode with weights in a dtype; integer and rotary buffers stay as they are."""
    converted = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in converted.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        for name, buffer in converted.named_buffers():
            if buffer.is_floating_point() and not _ROTARY.search(name):
                buffer.data = buffer.data.to(dtype)
    return converted


def put_frequencies(source: nn.Module, grown: nn.Module) -> None:
    """Overwrite the first rotary frequencies of a grown model with the source's, in place.

    Only where they agree up to the rounding of powers in float32 (2^-18 relative); a wrong base stays, and shows.
    """
    originals = dict(source.named_buffers())
    for name, buffer in grown.named_buffers():
        if not name.endswith("inv_freq") or name not in originals:
            continue
        mine = buffer[: originals[name].numel()]
        if mine.shape == originals[name].shape and torch.allclose(mine, originals[name], rtol=2**-18, atol=0):
            mine.copy_(originals[name])


def _generations_agree(source: nn.Module, grown: nn.Module, inputs: dict[str, torch.Tensor], count: int) -> bool:
    texts = []
    for model in (source, grown):
        converted = convert(model, torch.float32)
        with torch.no_grad():
            texts.append(
                converted.generate(  # type: ignore[operator]
                    inputs["input_ids"][:1],
                    attention_mask=torch.ones_like(inputs["input_ids"][:1]),
                    max_new_tokens=count,
                    min_new_tokens=count,
                    do_sample=False,
                    use_cache=True,
                    pad_token_id=0,
                )
            )
    return bool(torch.equal(*texts))
