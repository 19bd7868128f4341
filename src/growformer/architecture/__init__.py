"""What the tensors of a model are: the arrow language, declarations, families, and the description of a source.

Knows nothing of growth. ``docs/architectures.md`` shows how to declare an own model with the names below.
"""

from growformer.architecture.declaration import (
    Architecture,
    Arrow,
    Attention,
    Coupling,
    LayerRule,
    Multiple,
    Rotary,
    embedding,
    layer_norm,
    linear,
    linear_transposed,
    parameter,
    rms_norm,
)

__all__ = [
    "Architecture",
    "Arrow",
    "Attention",
    "Coupling",
    "LayerRule",
    "Multiple",
    "Rotary",
    "embedding",
    "layer_norm",
    "linear",
    "linear_transposed",
    "parameter",
    "rms_norm",
]
