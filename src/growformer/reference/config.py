"""The sizes of the reference transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from growformer.errors import ArchitectureError, did_you_mean

Activation = Literal["relu", "gelu"]
_DERIVED = ("model_type", "num_hidden_layers", "num_heads")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceConfig:
    """Every size of a reference transformer; the paper's letter is in brackets.

    Attributes:
        hidden_size: width of the residual stream (h).
        mlp: width of each layer's MLP (p).
        key: width of queries and keys (k), per layer and head; its lengths are the numbers of layers (N) and heads (E).
        value: width of values (v), per layer and head.
        input_size: how many tokens there are, or how many features a dense input has.
        output_size: how many outputs there are per position (o).
        max_positions: how many positions have an embedding (s).
        activation: ``relu`` as in the paper, or ``gelu``.
        norm_eps: added to the mean square in every norm; the paper's norm is the one with 0.
        pre_branch_norm: whether a norm reads the stream in front of each MHA and MLP, as in the paper.
        post_branch_norm: whether a norm follows each MHA and MLP, before their output is added to the stream.
        final_norm: whether a norm stands between the last layer and the output projection; the paper has none.
        causal: whether a position sees only itself and earlier ones; the paper leaves masks out.
        initializer_range: standard deviation of fresh weights.
    """

    hidden_size: int
    mlp: tuple[int, ...]
    key: tuple[tuple[int, ...], ...]
    value: tuple[tuple[int, ...], ...]
    input_size: int
    output_size: int
    max_positions: int
    activation: Activation = "relu"
    norm_eps: float = 1e-6
    pre_branch_norm: bool = True
    post_branch_norm: bool = False
    final_norm: bool = False
    causal: bool = False
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        """Turn lists into tuples, and refuse sizes that contradict each other."""
        object.__setattr__(self, "mlp", tuple(self.mlp))
        object.__setattr__(self, "key", tuple(tuple(heads) for heads in self.key))
        object.__setattr__(self, "value", tuple(tuple(heads) for heads in self.value))
        if not len(self.mlp) == len(self.key) == len(self.value):
            raise ArchitectureError(
                f"mlp, key and value must list as many layers: {len(self.mlp)}, {len(self.key)} and {len(self.value)}"
            )
        for layer, (key, value) in enumerate(zip(self.key, self.value, strict=True)):
            if len(key) != len(value) or not key:
                raise ArchitectureError(
                    f"layer {layer}: key and value must list as many heads, and at least one, found {list(key)} and "
                    f"{list(value)}"
                )
        sizes = [self.hidden_size, self.input_size, self.output_size, self.max_positions, *self.mlp]
        sizes += [size for layer in (*self.key, *self.value) for size in layer]
        bad = [size for size in sizes if isinstance(size, bool) or not isinstance(size, int) or size < 1]
        if bad:
            raise ArchitectureError(f"every size must be a positive whole number, found {bad[0]!r}")
        if self.activation not in ("relu", "gelu"):
            raise ArchitectureError(f"activation must be relu or gelu, got {self.activation!r}")
        if not (self.pre_branch_norm or self.post_branch_norm):
            raise ArchitectureError("one of pre_branch_norm and post_branch_norm must be true")

    @property
    def num_hidden_layers(self) -> int:
        """How many layers there are (N)."""
        return len(self.mlp)

    @property
    def num_heads(self) -> tuple[int, ...]:
        """How many heads each layer has (E)."""
        return tuple(map(len, self.key))

    @classmethod
    def uniform(
        cls,
        *,
        hidden_size: int,
        num_hidden_layers: int,
        num_heads: int,
        mlp: int,
        key: int,
        value: int,
        input_size: int,
        output_size: int,
        max_positions: int,
        **others: Any,
    ) -> ReferenceConfig:
        """Return a config with the same sizes in every layer and head."""
        return cls(
            hidden_size=hidden_size,
            mlp=(mlp,) * num_hidden_layers,
            key=((key,) * num_heads,) * num_hidden_layers,
            value=((value,) * num_heads,) * num_hidden_layers,
            input_size=input_size,
            output_size=output_size,
            max_positions=max_positions,
            **others,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data as a config.json would hold it, with the counts that the lists imply."""
        data = {item.name: _plain(getattr(self, item.name)) for item in fields(self)}
        return {
            "model_type": "reference",
            "num_hidden_layers": self.num_hidden_layers,
            "num_heads": list(self.num_heads),
            **data,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ReferenceConfig:
        """Read what ``to_dict`` wrote.

        Raises:
            ArchitectureError: an unknown field, a missing one, or counts that disagree with the lists.
        """
        known = [item.name for item in fields(cls)]
        for name in data:
            if name not in (*known, *_DERIVED):
                raise ArchitectureError(f"a reference config has no field {name!r}{did_you_mean(name, known)}")
        try:
            config = cls(**{name: value for name, value in data.items() if name in known})
        except TypeError as error:
            raise ArchitectureError(f"not a reference config: {error}") from error
        found = config.to_dict()
        for name in _DERIVED:
            if name in data and data[name] != found[name]:
                raise ArchitectureError(f"{name} is {data[name]!r}, but the other fields say {found[name]!r}")
        return config


def _plain(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    return value
