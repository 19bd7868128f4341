"""The paper's six transformations (arXiv:2308.06103, sections 3.1 to 3.6): what to grow, in the paper's words.

Each turns itself into a request in the config fields of a model, which ``make_plan`` takes. They act on different
sizes, so any list of them in any order is one request (``merge``). Layers and heads are numbered as in the *source*;
a new layer has the sizes of the layer it is placed after, after growth.

Growth mathematics lives in the planner. What each docstring calls zero, rescaled and free is what the planner derives
for a pre-norm model such as the paper's, and what the tests of the theorems show.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from growformer.architecture.declaration import Architecture
from growformer.errors import RequestError
from growformer.planning.layers import place_layers, with_templates

_ROLES = {
    "hidden": "hidden size",
    "mlp": "MLP width",
    "heads": "number of heads",
    "kv_heads": "number of key-value heads",
    "key": "width of queries and keys",
    "value": "width of values",
    "layers": "number of layers",
}


class Transformation(ABC):
    """One of the paper's transformations, which knows what it asks of a model's config."""

    __slots__ = ()

    def request(self, architecture: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return config field -> target size, as ``make_plan`` takes it.

        Args:
            architecture: the model's declaration.
            config: the source's config.

        Raises:
            RequestError: the model has no such size, one value where a subset is meant, or a larger one already.
        """
        return merge([self], architecture, config)[0]

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of ``make_plan`` that place and fill new layers."""
        return {}

    @abstractmethod
    def write(self, draft: Draft) -> None:
        """Write what this transformation asks for into a draft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MLPExpansion(Transformation):
    """Widen the MLP of all layers, or of some (section 3.1).

    Zero: the new rows of W2. Rescaled: nothing. Free: the new columns of W1 and entries of b1.
    Exact: bitwise, but for the order of summation in the product with W2.

    Attributes:
        intermediate_size: the target's MLP width (p).
        layers: source layers; None: all of them. Needs a config with one width per layer.
    """

    intermediate_size: int
    layers: Sequence[int] | None = None

    def write(self, draft: Draft) -> None:
        """Write what this transformation asks for into a draft."""
        draft.set("mlp", self.intermediate_size, layers=self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadAddition(Transformation):
    """Add attention heads to all layers, or to some (section 3.2).

    Zero: the new heads' rows of W_O. Rescaled: nothing. Free: the new heads' W_Q, W_K and W_V.
    Exact: bitwise, but for the order of summation in the product with W_O.

    Attributes:
        num_attention_heads: the target's number of (query) heads (E).
        num_key_value_heads: the target's number of key-value heads; for models with grouped queries.
        layers: source layers; None: all of them. Needs a config with one number of heads per layer.
        key_dim, value_dim: widths of the new heads; for models with widths per head. By default those of the heads
            that they start from: the layer's last ones.
    """

    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    layers: Sequence[int] | None = None
    key_dim: int | None = None
    value_dim: int | None = None

    def write(self, draft: Draft) -> None:
        """Write what this transformation asks for into a draft."""
        if self.num_attention_heads is None and self.num_key_value_heads is None:
            raise RequestError("HeadAddition: give num_attention_heads, num_key_value_heads or both")
        if self.num_attention_heads is not None:
            draft.set("heads", self.num_attention_heads, layers=self.layers)
        if self.num_key_value_heads is not None:
            draft.set("kv_heads", self.num_key_value_heads, layers=self.layers)
        for role, width in (("key", self.key_dim), ("value", self.value_dim)):
            if width is not None:
                draft.set_new_heads(role, width, layers=self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsExpansion(Transformation):
    """Widen the values of all heads, or of some (section 3.3).

    Zero: the new rows of W_O, which lie inside each head's split. Rescaled: nothing. Free: the new columns of W_V.
    Exact: bitwise, but for the order of summation in the product with W_O.

    Where a config has one ``head_dim`` for queries, keys and values, all of them grow, as in ``AttentionExpansion``.

    Attributes:
        value_dim: the target's width of values (v).
        head_dim: the same, for models that call it so.
        layers: source layers; None: all of them. Needs a config with one width per layer.
        heads: heads of these layers, as numbered in the source; None: all. Needs a config with one width per head.
    """

    value_dim: int | None = None
    head_dim: int | None = None
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None

    def write(self, draft: Draft) -> None:
        """Write what this transformation asks for into a draft."""
        given = {width for width in (self.value_dim, self.head_dim) if width is not None}
        if len(given) != 1:
            raise RequestError(
                f"HeadsExpansion: give value_dim or head_dim, got {self.value_dim!r} and {self.head_dim!r}"
            )
        draft.set("value", given.pop(), layers=self.layers, heads=self.heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionExpansion(Transformation):
    """Widen the queries and keys of all heads, or of some (section 3.4).

    Zero: the new columns of W_K. Rescaled: the old ones, by sqrt(target k / source k), where scores are divided by
    the square root of k. Free: the new columns of W_Q.
    Exact: one rounding of the rescaled weights; bitwise where the ratio is a power of 4 or the scale a constant.
    Rotary models: the base theta becomes theta^(target / source), which keeps every source frequency to the precision
    in which the model computes them.

    Where a config has one ``head_dim`` for queries, keys and values, all of them grow, as in ``HeadsExpansion``.

    Attributes:
        key_dim: the target's width of queries and keys (k).
        layers: source layers; None: all of them. Needs a config with one width per layer.
        heads: heads of these layers, as numbered in the source; None: all. Needs a config with one width per head.
    """

    key_dim: int
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None

    def write(self, draft: Draft) -> None:
        """Write what this transformation asks for into a draft."""
        draft.set("key", self.key_dim, layers=self.layers, heads=self.heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenDimensionExpansion(Transformation):
    """Widen the residual stream, which all layers share (section 3.5).

    Zero: the new columns of all that writes the stream: embeddings, positions, W_O, W2, b2 (behind a LayerNorm: their
    mean). Rescaled: the norms' gains, by sqrt(source h / target h), and their epsilon by the ratio itself; where the
    epsilon is no config field, what writes the stream, by the inverse root. Free: the new rows of all that reads it,
    and the new gains.
    Exact: one rounding of the rescaled values. Models that normalise the stream itself (post-norm) grow by whole
    factors.

    Attributes:
        hidden_size: the target's width (h).
    """

    hidden_size: int

    def write(self, draft: Draft) -> None:
        """Write what this transformation asks for into a draft."""
        draft.set("hidden", self.hidden_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAddition(Transformation):
    """Add layers anywhere (section 3.6).

    Zero: the new layers' W_O, W2 and b2; where a norm follows a branch, the gain of that norm instead.
    Rescaled: nothing. Free: all else in the new layers.
    Exact: bitwise. Post-norm models: the neighbouring norms trade their gains, exact up to epsilon / variance.

    Attributes:
        num_hidden_layers: the target's number of layers (N).
        positions: where the new layers are in the target, or ``interleave`` (the default) or ``end``.
        new_layers: ``copy``: all that is free starts from a neighbour; ``random``: from fresh values. New heads of
            models that keep their heads apart follow it as well.
    """

    num_hidden_layers: int | None = None
    positions: Sequence[int] | str | None = None
    new_layers: str = "copy"

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of ``make_plan`` that place and fill new layers."""
        at = "interleave" if self.positions is None else self.positions
        return {"new_layers_at": at if isinstance(at, str) else tuple(at), "new_layers": self.new_layers}

    def write(self, draft: Draft) -> None:
        """Write what this transformation asks for into a draft."""
        count = self.num_hidden_layers
        if not isinstance(self.positions, str) and self.positions is not None:
            implied = draft.num_layers + len(self.positions)
            if count is not None and count != implied:
                raise RequestError(
                    f"LayerAddition: {len(self.positions)} positions lead from {draft.num_layers} to {implied} layers, "
                    f"but num_hidden_layers = {count}"
                )
            count = implied
        if count is None:
            raise RequestError("LayerAddition: give num_hidden_layers, or a list of positions")
        draft.set("layers", count)
        draft.set_options(self.options())


def merge(
    transformations: Iterable[Transformation], architecture: Architecture, config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return one request for several transformations, and ``make_plan``'s keyword arguments for new layers.

    The order does not matter: all of them speak of the source's layers and heads. New heads take the widths that the
    heads they start from have in the target, new layers all sizes of theirs.

    Args:
        transformations: what to grow.
        architecture: the model's declaration.
        config: the source's config.

    Raises:
        RequestError: two of them ask for different values of one size, or one of them cannot be met.
    """
    draft = Draft(architecture=architecture, config=architecture.resolve_config(config))
    for transformation in transformations:
        transformation.write(draft)
    return draft.request(), dict(draft.options)


@dataclass(slots=True, kw_only=True)
class Draft:
    """A request in the making.

    Attributes:
        architecture: the model's declaration.
        config: the source's config with defaults filled in.
        cells: (config field, source layer or None, head or None) -> target size.
        new_heads: (config field, source layer) -> width of the heads that are new there.
        options: of ``make_plan``.
    """

    architecture: Architecture
    config: Mapping[str, Any]
    cells: dict[tuple[str, int | None, int | None], int] = field(default_factory=dict)
    new_heads: dict[tuple[str, int], int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def num_layers(self) -> int:
        """Number of layers of the source."""
        return int(self.config[self.field("layers")])

    def field(self, role: str) -> str:
        """Return the config field of one of the paper's sizes.

        Raises:
            RequestError: the model's config has none.
        """
        name = self.architecture.roles.get(role)
        if name is None or self.config.get(name) is None:
            known = ", ".join(dict.fromkeys(self.architecture.roles.values()))
            raise RequestError(
                f"{self.architecture.name} has no config field for the {_ROLES[role]}; sizes that it has: {known}"
            )
        return name

    def set(
        self, role: str, value: int, *, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None
    ) -> None:
        """Ask for a size, in some layers and heads where the config tells them apart.

        Raises:
            RequestError: see ``merge``.
        """
        name = self.field(role)
        present = self.config[name]
        if not isinstance(present, list):
            self._refuse_subset(name, present, "layers", layers)
            self._refuse_subset(name, present, "heads", heads)
            self._cell((name, None, None), value, present)
            return
        for layer in self._chosen("layers", layers, len(present)):
            if not isinstance(present[layer], list):
                self._refuse_subset(name, present[layer], "heads", heads)
                self._cell((name, layer, None), value, present[layer])
                continue
            for head in self._chosen(f"heads of layer {layer}", heads, len(present[layer])):
                self._cell((name, layer, head), value, present[layer][head])

    def set_new_heads(self, role: str, value: int, *, layers: Sequence[int] | None) -> None:
        """Ask for a width of the heads that are new in some layers.

        Raises:
            RequestError: the config has one width for all heads.
        """
        name = self.field(role)
        present = self.config[name]
        if not isinstance(present, list) or not all(isinstance(entry, list) for entry in present):
            raise RequestError(
                f"HeadAddition: new heads cannot have a {_ROLES[role]} of their own: the config of "
                f"{self.architecture.name} has one {name} for all heads; leave {role}_dim out"
            )
        _check_whole(name, value)
        if value < 1:
            raise RequestError(f"{name} of new heads must be at least 1, got {value}")
        for layer in self._chosen("layers", layers, len(present)):
            if self.new_heads.setdefault((name, layer), value) != value:
                raise RequestError(
                    f"{name} of the new heads of layer {layer} is asked for twice: {self.new_heads[name, layer]} and "
                    f"{value}"
                )

    def set_options(self, options: Mapping[str, Any]) -> None:
        """Ask for keyword arguments of ``make_plan``.

        Raises:
            RequestError: others were asked for before.
        """
        for name, value in options.items():
            if self.options.setdefault(name, value) != value:
                raise RequestError(f"{name} is asked for twice: {self.options[name]!r} and {value!r}")

    def request(self) -> dict[str, Any]:
        """Return config field -> target size, lists by target layer.

        Raises:
            RequestError: positions of new layers do not fit.
        """
        found: dict[str, Any] = {name: value for (name, layer, _), value in self.cells.items() if layer is None}
        # Per layer and head, still as the source numbers the layers.
        lists: dict[str, list[Any]] = {}
        for (name, layer, head), value in self.cells.items():
            if layer is None:
                continue
            entries = lists.setdefault(name, _copy(self.config[name]))
            if head is None:
                entries[layer] = value
            else:
                entries[layer][head] = value
        self._extend_heads(lists)
        for name, entries in lists.items():
            found[name] = self._by_target_layer(entries, found)
        return found

    def _extend_heads(self, lists: dict[str, list[Any]]) -> None:
        """Give new heads their widths, in every list that has an entry per head."""
        counts = self.architecture.roles.get("heads", "")
        if counts not in lists:
            for name, layer in self.new_heads:
                raise RequestError(f"HeadAddition: {name} of new heads in layer {layer}, where no head is added")
            return
        before, after = self.config[counts], lists[counts]
        names = [self.architecture.roles[r] for r in ("key", "value") if r in self.architecture.roles]
        for name in dict.fromkeys(names):
            present = self.config[name]
            if not isinstance(present, list) or not all(isinstance(entry, list) for entry in present):
                continue
            entries = lists.setdefault(name, _copy(present))
            for layer, heads in enumerate(entries):
                added = after[layer] - before[layer]
                starts = with_templates((*range(before[layer]), *(-1,) * added))[before[layer] :]
                own = self.new_heads.get((name, layer))
                entries[layer] = [*heads, *(heads[start] if own is None else own for start, _ in starts)]

    def _by_target_layer(self, entries: list[Any], found: Mapping[str, Any]) -> list[Any]:
        layers = self.architecture.roles.get("layers", "")
        if layers not in found or len(entries) != self.num_layers:
            return entries
        positions = place_layers(self.num_layers, found[layers], self.options["new_layers_at"])
        return [_copy(entries[origin]) for origin, _ in with_templates(positions)]

    def _cell(self, key: tuple[str, int | None, int | None], value: int, present: int) -> None:
        name, layer, head = key
        where = "" if layer is None else f" of layer {layer}" + ("" if head is None else f", head {head}")
        _check_whole(name, value)
        if value < present:
            raise RequestError(
                f"cannot grow {name}{where} {present} -> {value}: smaller than the source; growth never removes "
                f"anything. Nearest: {present}"
            )
        if self.cells.setdefault(key, value) != value:
            raise RequestError(f"{name}{where} is asked for twice: {self.cells[key]} and {value}")

    def _refuse_subset(self, name: str, present: int, what: str, subset: Sequence[int] | None) -> None:
        if subset is not None:
            raise RequestError(
                f"cannot grow {name} in {what} {list(subset)} only: the config of {self.architecture.name} has one "
                f"value for all {what} ({name} = {present}); leave {what} out to grow it everywhere"
            )

    def _chosen(self, what: str, subset: Sequence[int] | None, count: int) -> list[int]:
        if subset is None:
            return list(range(count))
        if len(set(subset)) != len(subset) or not set(subset) <= set(range(count)):
            raise RequestError(
                f"{what} = {list(subset)}: expected different numbers from 0 to {count - 1}, as in the source"
            )
        return list(subset)


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name} must be a whole number, got {value!r}")


def _copy(entries: Any) -> Any:
    return [_copy(entry) for entry in entries] if isinstance(entries, list) else entries


__all__ = [
    "AttentionExpansion",
    "HeadAddition",
    "HeadsExpansion",
    "HiddenDimensionExpansion",
    "LayerAddition",
    "MLPExpansion",
    "Transformation",
    "merge",
]
