"""How large, how long: the small setting takes minutes on two cores, the large one hours on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A training run, up to how it grows.

    Attributes:
        start: config fields of the first model.
        growths: (fraction of the steps, sizes that the model has from then on), in order.
        steps: of the optimizer.
        sequences: per step.
        length: tokens per sequence.
        rate: the learning rate at its height: warm-up, then constant, then down to zero in a straight line.
        warm_up: fraction of the steps.
        decay: fraction of the steps, at the end.
        device: ``cpu`` or ``cuda``; on the latter, matrix products are in bfloat16.
        log_every: steps between points of the curve.
        held_out: sequences that the validation loss is a mean over.
    """

    start: dict[str, Any]
    growths: tuple[tuple[float, dict[str, Any]], ...]
    steps: int
    sequences: int
    length: int
    rate: float
    warm_up: float = 0.05
    decay: float = 0.2
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    device: str = "cpu"
    log_every: int = 20
    held_out: int = 128
    corpus: str = "english"
    fixed: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> dict[str, Any]:
        """Config fields of the last model."""
        return {**self.start, **{name: size for _, sizes in self.growths for name, size in sizes.items()}}

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step learns from."""
        return self.sequences * self.length


_SHALLOW, _DEEP = {"num_hidden_layers": 2}, {"num_hidden_layers": 6}
_NARROW = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4, "num_key_value_heads": 4}
_WIDE = {name: 2 * size for name, size in _NARROW.items()}
_BYTES = {"vocab_size": 256, "tie_word_embeddings": False}
_TINY = {**_BYTES, "head_dim": 16, "max_position_embeddings": 128}
_SHORT = {"steps": 1200, "sequences": 16, "length": 128, "rate": 3e-3}

SETTINGS: dict[str, Setting] = {
    "small": Setting(
        start={**_SHALLOW, **_NARROW}, growths=((0.35, _DEEP), (0.6, _WIDE)), fixed=_TINY, **{**_SHORT, "steps": 800},
    ),
    "depth": Setting(
        start={"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 3, "num_key_value_heads": 3,
               **_SHALLOW},
        growths=((0.5, _DEEP),), fixed={**_TINY, "head_dim": 32}, **_SHORT,
    ),
    "gpu": Setting(
        start={"num_hidden_layers": 3, "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4,
               "num_key_value_heads": 4},
        growths=((0.35, {"num_hidden_layers": 12}), (0.6, {"hidden_size": 512, "intermediate_size": 1408,
                 "num_attention_heads": 8, "num_key_value_heads": 8})),
        fixed={**_BYTES, "head_dim": 64, "max_position_embeddings": 1024},
        steps=6000, sequences=64, length=1024, rate=1e-3, device="cuda", log_every=50, held_out=256,
    ),
}  # fmt: skip
