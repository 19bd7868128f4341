"""Floating-point operations of a model, from its declaration: every arrow that is a matrix, and every contraction.

FLOPs of one token in a forward pass are ``2 * (entries of every matrix that the token is multiplied with)
+ 2 * context * (query + attended coordinates of every layer)``: a multiplication and an addition for each entry of a
matrix, and for each query coordinate and each output coordinate of attention and each token attended to. Look-ups in
embedding tables, norms, biases and activations are left out; a tied output matrix is counted where the model has a
head that reads it; of experts, those count that a token is routed to. Attention is counted over the whole sequence,
masked or not, as PyTorch's own counter does.

A backward pass takes twice a forward pass: one product for the gradient of what was read, one for that of the weight
(for scores: of either side). What is computed anew in a backward pass (checkpointed layers, fused attention) is not
counted: these are the model's FLOPs, not the hardware's (arXiv:2204.02311, appendix B).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

from growformer.architecture.declaration import Architecture, TensorSpec, spaces_in
from growformer.architecture.exact import compute
from growformer.architecture.source import SourceInfo
from growformer.sizing.counting import count_entries, sizes_over

_MATRICES = ("linear", "linear_transposed")
_OTHERS = ("embedding", "parameter", "norm", "scale")
_HEADS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining", "ForConditionalGeneration")
TRAINING = 3
"""Passes in one step of training: a forward one, and a backward one that takes twice as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """What one token costs in a forward pass.

    Of an encoder-decoder, a token is one on either side: both sides have sequences of one length.

    Attributes:
        per_token: in matrices.
        per_token_of_context: in attention, for every token of the sequence that it is in.
    """

    per_token: int
    per_token_of_context: int

    def forward(self, tokens: int, sequence_length: int) -> int:
        """Return what a forward pass over tokens costs, in sequences of one length."""
        return tokens * (self.per_token + sequence_length * self.per_token_of_context)

    def training(self, tokens: int, sequence_length: int) -> int:
        """Return what forward and backward passes cost."""
        return TRAINING * self.forward(tokens, sequence_length)


def count_flops(architecture: Architecture, source: SourceInfo, sizes: Mapping[str, Any] | None = None) -> Flops | None:
    """Return what a token costs, or None where the declaration does not say how many tokens meet a weight.

    Args:
        architecture: the declaration.
        source: says which tensors there are, and whether a head is tied.
        sizes: config fields -> values, over the source's own.

    Raises:
        ArchitectureError: a size would not be a whole number.
    """
    specs = [spec for spec in architecture.tensors.values() if spec.template in source.templates]
    if not _countable(architecture, specs):
        return None
    config = sizes_over(architecture, source, sizes or {})
    return Flops(
        per_token=_in_matrices(architecture, source, config, specs),
        per_token_of_context=_in_attention(architecture, config, specs),
    )


def _countable(architecture: Architecture, specs: Iterable[TensorSpec]) -> bool:
    """Tell whether it is known how many tokens meet every matrix: not so of experts without a count, nor of stems."""
    return all(
        architecture.arrows[spec.owner].kind in (*_MATRICES, *_OTHERS)
        and all(axis in architecture.active for axis in spec.index if axis in architecture.fixed)
        for spec in specs
    )


def _share(architecture: Architecture, spec: TensorSpec, config: Mapping[str, Any]) -> Fraction:
    """Return how many of a matrix' instances a token meets, out of all: experts are picked."""
    share = Fraction(1)
    for axis, expression in architecture.active.items():
        if axis in spec.index:
            share *= Fraction(compute(expression, config), architecture.size(axis, config))
    return share


def _in_matrices(
    architecture: Architecture, source: SourceInfo, config: Mapping[str, Any], specs: Iterable[TensorSpec]
) -> int:
    entries = count_entries(architecture, source, config)
    total = Fraction(0)
    for spec in specs:
        if spec.part == "weight" and architecture.arrows[spec.owner].kind in _MATRICES:
            total += 2 * entries[spec.template] * _share(architecture, spec, config)
    head = str((source.config.get("architectures") or [""])[0])
    if source.tied and head.endswith(_HEADS):
        for tied, other in architecture.ties.items():
            table = architecture.tensors[other]
            if tied not in entries and other in entries and len(table.dims) == 2:
                total += 2 * prod(architecture.shape(table, config, dict.fromkeys(table.index, 0)))
    return int(total)


def _in_attention(architecture: Architecture, config: Mapping[str, Any], specs: Iterable[TensorSpec]) -> int:
    present = {space for spec in specs for space in spaces_in(architecture.arrows[spec.owner].target)}
    total = 0
    for attention in architecture.attention:
        if not present.issuperset(attention.queries):
            continue
        for name in (*attention.queries, attention.output):
            space = architecture.spaces[name]
            for index in architecture.instances(space.index, config):
                total += 2 * prod(architecture.size(axis, config, index) for axis in space.axes)
    return total


__all__ = ["TRAINING", "Flops", "count_flops"]
