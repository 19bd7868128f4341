"""What the outputs check found: figures per dtype and input, by position and by layer, and its words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from growformer.verification.output_errors import FLOOR, PositionErrors, Worst, plain
from growformer.verification.rows import Row


@dataclass(frozen=True, slots=True)
class LayerErrors:
    """The stream after one layer of both models, in the source's coordinates.

    Attributes:
        layer, grown_layer: their numbers.
        first_grown: the first grown layer that a difference can come from.
        stack: name of the axis that numbers them.
        source_error, grown_error: relative to float64.
    """

    layer: int
    grown_layer: int
    first_grown: int
    stack: str
    source_error: float
    grown_error: float

    @property
    def ratio(self) -> float:
        """The grown model's error relative to the source's."""
        return self.grown_error / max(self.source_error, FLOOR)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return plain(self)


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """Both models in one dtype on one set of inputs.

    Attributes:
        dtype: of weights and arithmetic.
        source_error, grown_error: Frobenius norm of the difference from the reference, relative to its norm; of the
            output with the largest ratio.
        ratio: grown_error / source_error.
        largest: largest difference between the two models, relative to the largest output.
        greedy_equal: share of positions where both predict the same next token.
        limit: the largest ratio that counts as preserved.
        allowance: an error that counts as preserved whatever the ratio: what the record itself says of new post-norm
            layers, which are exact up to an epsilon; 0 without any.
        length: how many positions the longest sequence has; 1 of outputs without positions.
        inputs: what they are.
        output: the output that the figures are of.
        worst: the position furthest off, of outputs that have positions.
        position_ratio: largest error at a position, relative to the source's largest near it.
        position_limit: the largest such ratio that counts as rounding: ``limit`` times what ``fluctuation`` says.
        by_position: errors by position.
        by_layer: errors of the stream after each source layer.
    """

    dtype: str
    source_error: float
    grown_error: float
    ratio: float
    largest: float
    greedy_equal: float
    limit: float
    allowance: float = 0.0
    length: int = 0
    inputs: str = "given"
    output: str = "logits"
    worst: Worst | None = None
    position_ratio: float = 0.0
    position_limit: float = math.inf
    by_position: tuple[PositionErrors, ...] = ()
    by_layer: tuple[LayerErrors, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the outputs are within the limit, over everything and at every position, and so are the streams."""
        return self.overall_ok and self.positions_ok and self.first_wrong is None

    @property
    def overall_ok(self) -> bool:
        """Whether the output with the largest ratio is within the limit as a whole."""
        return self.ratio <= self.limit or self.grown_error <= self.allowance

    @property
    def positions_ok(self) -> bool:
        """Whether no position is further off than rounding explains."""
        largest = max((part.grown_largest for part in self.by_position), default=0.0)
        return self.position_ratio <= self.position_limit or largest <= self.allowance

    @property
    def first_wrong(self) -> LayerErrors | None:
        """The first layer after which the stream is further off than the limit."""
        return next((layer for layer in self.by_layer if not self._fits(layer)), None)

    def _fits(self, layer: LayerErrors) -> bool:
        return layer.ratio <= self.limit or layer.grown_error <= self.allowance

    @property
    def num_layers_wrong(self) -> int:
        """After how many layers the stream is further off than the limit."""
        return sum(not self._fits(layer) for layer in self.by_layer)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            **plain(self),
            "ok": self.ok,
            "worst": self.worst.to_json() if self.worst is not None else None,
            "by_position": [part.to_json() for part in self.by_position],
            "by_layer": [layer.to_json() for layer in self.by_layer],
        }


@dataclass(frozen=True, slots=True)
class CacheComparison:
    """Decoding with a KV cache, one token at a time, against the source's full forward in float64.

    Attributes:
        tokens: how many positions were decoded.
        same: whether both models would choose the same token at each of them.
        dtype: of weights and arithmetic.
        source_error, grown_error: of the logits.
        ratio: grown_error / source_error.
        limit: the largest ratio that counts as preserved.
        margin: where they would not choose the same, by how much the reference's two best logits differ there at
            most, relative to its largest; a margin of the size of the errors is a tie that rounding decides.
        allowance: as of ``OutputComparison``.
    """

    tokens: int
    same: bool
    dtype: str
    source_error: float
    grown_error: float
    ratio: float
    limit: float
    margin: float | None = None
    allowance: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the logits are within the limit; tokens do not decide, as rounding can decide between two."""
        return self.ratio <= self.limit or self.grown_error <= self.allowance

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return plain(self) | {"ok": self.ok}


@dataclass(frozen=True, slots=True)
class OutputsReport:
    """The outputs check.

    Attributes:
        comparisons: one per set of inputs and dtype.
        cache: decoding with a KV cache; None where the class has none, or it was not compared.
        num_tokens: how many positions were compared, over all sets of inputs.
        notes: what was not checked, and why.
    """

    comparisons: tuple[OutputComparison, ...]
    cache: CacheComparison | None
    num_tokens: int
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether every comparison is within its limit, and decoding with a cache too."""
        return all(c.ok for c in self.comparisons) and (self.cache is None or self.cache.ok)

    def rows(self) -> list[Row]:
        """Return one row per finding: check, what was compared, result, whether it passed."""
        rows: list[Row] = []
        for c in self.comparisons:
            inputs = f"{c.length} positions of {c.inputs}" if c.by_position else c.inputs
            rows.append(("outputs", f"{inputs} in {c.dtype}", _overall(c), c.overall_ok))
            if c.worst is not None:
                rows.append(
                    ("outputs", f"the position furthest off, in {c.dtype}", _furthest(c, c.worst), c.positions_ok)
                )
            if c.by_layer:
                layers = f"the stream after {len(c.by_layer)} layers, in {c.dtype}"
                rows.append(("outputs", layers, _layers(c), c.first_wrong is None))
        if self.cache is not None:
            what = f"{self.cache.tokens} tokens with a KV cache, in {self.cache.dtype}"
            rows.append(("outputs", what, _cached(self.cache), self.cache.ok))
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "ok": self.ok,
            "tokens": self.num_tokens,
            "comparisons": [c.to_json() for c in self.comparisons],
            "cache": self.cache.to_json() if self.cache is not None else None,
            "notes": list(self.notes),
        }


def _overall(c: OutputComparison) -> str:
    return (
        f"{c.output}: error {c.grown_error:.2e}, the source's own {c.source_error:.2e}, ratio {c.ratio:.2f} "
        f"(limit {c.limit:g})"
    )


def _furthest(c: OutputComparison, worst: Worst) -> str:
    token = f", token {worst.token}" if worst.token is not None else ""
    token += f" {worst.text!r}" if worst.text is not None else ""
    return (
        f"{worst.output}: position {worst.position} of sequence {worst.sequence}{token}: "
        f"error {worst.grown_error:.2e}, the source's own {worst.source_error:.2e}, "
        f"{c.position_ratio:.2f} times the largest near it (limit {c.position_limit:.1f})"
    )


def _layers(c: OutputComparison) -> str:
    wrong = c.first_wrong
    if wrong is None:
        worst = max(c.by_layer, key=lambda layer: layer.ratio)
        return f"largest ratio {worst.ratio:.2f}, after {_layer(worst)} (limit {c.limit:g})"
    several = (
        f"layers {wrong.first_grown} to {wrong.grown_layer}"
        if wrong.first_grown < wrong.grown_layer
        else (f"layer {wrong.grown_layer}")
    )
    return (
        f"first wrong after {_layer(wrong)}: ratio {wrong.ratio:.3g} (limit {c.limit:g}); look at the grown {several}; "
        f"{c.num_layers_wrong} of {len(c.by_layer)} are off"
    )


def _layer(layer: LayerErrors) -> str:
    stack = layer.stack.removesuffix("layer").strip("_")
    return f"{stack + ' ' if stack else ''}layer {layer.layer} of the source ({layer.grown_layer} of the grown model)"


def _cached(cache: CacheComparison) -> str:
    same = "same tokens" if cache.same else "other tokens"
    if cache.margin is not None:
        same += f" where the two best differ by at most {cache.margin:.1e} of the largest logit"
    return (
        f"logits: error {cache.grown_error:.2e}, the source's own {cache.source_error:.2e}, ratio {cache.ratio:.2f} "
        f"(limit {cache.limit:g}); {same}"
    )


__all__ = ["CacheComparison", "LayerErrors", "OutputComparison", "OutputsReport"]
