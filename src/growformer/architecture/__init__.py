"""What the tensors of a model are: the arrow language, declarations, families, and the description of a source.

Knows nothing of growth. ``docs/architectures.md`` shows how to declare an own model with the names below.
"""

from growformer.architecture.arrows import (
    Arrow,
    convolution,
    embedding,
    layer_norm,
    layer_scale,
    linear,
    linear_transposed,
    parameter,
    rms_norm,
)
from growformer.architecture.declaration import Architecture
from growformer.architecture.facts import Add, Alibi, Attention, Coupling, LayerKind, Multiple, Packed, Rotary

__all__ = [
    "Add",
    "Alibi",
    "Architecture",
    "Arrow",
    "Attention",
    "Coupling",
    "LayerKind",
    "Multiple",
    "Packed",
    "Rotary",
    "convolution",
    "embedding",
    "layer_norm",
    "layer_scale",
    "linear",
    "linear_transposed",
    "parameter",
    "rms_norm",
]
