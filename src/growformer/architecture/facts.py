"""What no single weight shows: attention, additions, rotary embeddings, ALiBi, couplings of sizes, packed storage."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Queries meet keys, and weights mix values: ``output = softmax(scale * query . key) value``.

    Attributes:
        query, key: spaces; or several, whose products add up to one score (a rotated part and one that is not).
        value, output: spaces.
        over: the axes that the product of queries and keys sums over.
        scale: expression over config fields and index axes for the factor on the scores.
        per_head: spaces with one number per head that enters the scores (sinks, relative biases).
        maps: space with one coordinate per layer and head, the weights themselves, where something reads them.
    """

    query: str | tuple[str, ...]
    key: str | tuple[str, ...]
    value: str
    output: str
    over: tuple[str, ...]
    scale: str
    per_head: tuple[str, ...] = ()
    maps: str | None = None

    @property
    def queries(self) -> tuple[str, ...]:
        """The spaces of queries."""
        return (self.query,) if isinstance(self.query, str) else self.query

    @property
    def keys(self) -> tuple[str, ...]:
        """The spaces of keys, in the order of the queries that they meet."""
        return (self.key,) if isinstance(self.key, str) else self.key

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every (query, key) whose product enters the score."""
        return tuple(zip(self.queries, self.keys, strict=True))

    @property
    def spaces(self) -> tuple[str, ...]:
        """Every space that takes part."""
        return (*self.queries, *self.keys, self.value, self.output, *self.per_head)


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """One vector enters another without a weight: ``target += factor * source``.

    Attributes:
        source, target: spaces with the same axes, or with such that do not grow (each head takes its share).
        factor: expression over config fields; the class computes it (``sqrt(hidden_size)``).
        rounded: the factor is rounded to the dtype of this tensor (a template) before it is used.
        when: condition over config fields and index axes; everywhere by default.
    """

    source: str
    target: str
    factor: str = "1"
    rounded: str | None = None
    when: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary embedding on an axis of frequencies: ``theta ** (-i / len(frequency))``.

    Attributes:
        frequency: the axis, whose entries keep their index (and so their angle) when it grows.
        parameters: config field with the dictionary of rotary parameters, or one such per kind of layer.
        fraction: the share of a head that is rotated, if not all of it: a field of ``parameters``, or of the config
            in older ones. Growth adds to the rest, and lowers the share so that as much is rotated as before.
        of: config field of the size that the fraction is a share of.
        legacy: kind of layer -> config field with its base in older configs.
        legacy_fraction: config field with the fraction in older configs, where it has another name.
        theta: the class's base where a config has none.
        legacy_theta: config field with the base in older configs.
        sections: how many frequencies follow each kind of position (``mrope_section``), one after the other, where a
            config does not say so; None: all follow the one position. The last section grows.
        per_layer: config field with a list of bases, one per layer; 0 where it rotates nothing.
        implied: what the class takes for ``parameters`` where a config has neither these nor ``rope_scaling``, whatever
            base it names; kinds of layers in ``legacy`` take the base and ``rope_scaling`` all the same.
    """

    frequency: str
    parameters: str = "rope_parameters"
    fraction: str | None = None
    of: str = "head_dim"
    legacy: Mapping[str, str] = field(default_factory=dict)
    legacy_fraction: str | None = None
    theta: float = 10000.0
    legacy_theta: str = "rope_theta"
    sections: tuple[int, ...] | None = None
    per_layer: str | None = None
    implied: Mapping[str, Any] = field(default_factory=dict)

    def implied_by(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the class takes for ``parameters`` of a config, where it does not take what the config says."""
        nest, dot, _ = self.parameters.rpartition(".")
        scaling = config.get(f"{nest}{dot}rope_scaling")
        if not self.implied or config.get(self.parameters) or (scaling and not self.legacy):
            return {}
        found = copy.deepcopy(dict(self.implied))
        for kind, base in self.legacy.items():
            said = {} if config.get(base) is None else {"rope_theta": config[base]}
            found[kind] = {**found[kind], **(scaling or {}), **said}
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Alibi:
    """Linear biases on scores, whose slopes depend on the number of heads.

    Attributes:
        heads: the axis of heads.
        slopes: how a class computes them: ``bloom`` (powers of one base, odd powers of another for the rest) or
            ``mpt`` (the next power of two, every other one first).
        largest: config field of the largest exponent; 8 where there is none.
        when: condition under which there are any.
    """

    heads: str
    slopes: str
    largest: str | None = None
    when: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupling:
    """Two config fields that the class does not let vary alone, and the axis that is kept when one is left open.

    Attributes:
        field: the field that follows (``n_head``).
        keeps: the axis whose size is kept (``key``).
        formula: the field's value with ``keep`` for the kept size (``n_embd / keep``).
        because: the class's rule, for messages.
    """

    field: str
    keeps: str
    formula: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """A property of layers that the class derives from their number, and how a config can say it for others.

    Attributes:
        when: the condition, over config fields and the layer (``layer >= first_k_dense_replace``); or any value that
            must stay as it is (``layer`` itself, where something is computed from it).
        settle: config field -> expression that makes the condition hold for a given set of layers, over the names
            ``holds`` and ``others`` (lists of layers), ``num_holds`` and ``num_others``. Empty: nothing can say it.
        because: the class's rule, for messages.
    """

    when: str
    settle: Mapping[str, str] = field(default_factory=dict)
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiple:
    """A config field that the class wants to be a whole multiple of another, though no tensor's shape does.

    Attributes:
        field, of: the two fields.
        because: the class's rule, for messages.
    """

    field: str
    of: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Several declared tensors stored as one: experts stacked along a first dimension, parts beside each other.

    Attributes:
        parts: templates of the tensors that lie beside each other along the dimension that they write.
        stack: index axis that the stored tensor has as its first dimension; None: no such dimension.
        interleaved: the parts alternate coordinate by coordinate, instead of one after the other.
        transposed: each part is stored with its two dimensions exchanged.
    """

    parts: tuple[str, ...]
    stack: str | None = None
    interleaved: bool = False
    transposed: bool = False


__all__ = ["Add", "Alibi", "Attention", "Coupling", "LayerKind", "Multiple", "Packed", "Rotary"]
