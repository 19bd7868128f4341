"""What a family file declares: every weight an arrow between spaces, and the few facts that no weight shows.

An ``Architecture`` is data. It holds no growth mathematics: the planner derives from the arrows who writes and who
reads each space, and from that what must become of every tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from growformer.architecture.exact import evaluate, evaluate_size, indices_in, names_in
from growformer.architecture.language import (
    UNIT,
    Axis,
    Concat,
    Product,
    Term,
    format_arrow,
    labelled_spaces,
    leaves,
    parse_arrow,
    parse_term,
    term_axes,
)
from growformer.errors import ArchitectureError, did_you_mean

Kind = Literal["linear", "linear_transposed", "embedding", "parameter", "norm"]
Role = Literal["read", "write", "gain", "offset"]
Config = Mapping[str, Any]

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """How one named module (or bare parameter) maps one space to another, and how it is stored.

    Attributes:
        kind: how the tensor is stored: ``linear`` is ``[target, source]``, ``linear_transposed`` and ``embedding``
            are ``[source, target]``, ``parameter`` is the vector ``[target]``, ``norm`` a gain over ``over``.
        source: the term it reads; None for a parameter.
        target: the term it writes.
        bias: whether it has a bias: yes, no, or the config field that says so.
        when: the config field that says whether it exists at all.
        optional: a head that only some checkpoints of the family carry.
        centred: the norm subtracts the mean (LayerNorm).
        offset: what is added to the stored gain (Gemma: 1).
        eps: the norm's epsilon: a config field, or a constant of the class.
        over: the axes that the norm reduces; None for all of its space.
    """

    kind: Kind
    source: Term | None
    target: Term
    bias: bool | str = False
    when: str | None = None
    optional: bool = False
    centred: bool = False
    offset: int = 0
    eps: str | float = 0.0
    over: Term | None = None

    def __str__(self) -> str:
        return format_arrow(self.source, self.target)


def linear(arrow: str, *, bias: bool | str = False, when: str | None = None, optional: bool = False) -> Arrow:
    """A matrix stored ``[target, source]``, as ``torch.nn.Linear`` does."""
    return _weight("linear", arrow, bias, when, optional)


def linear_transposed(arrow: str, *, bias: bool | str = False, when: str | None = None) -> Arrow:
    """A matrix stored ``[source, target]``, as GPT-2's ``Conv1D`` does."""
    return _weight("linear_transposed", arrow, bias, when, False)


def embedding(arrow: str, *, when: str | None = None) -> Arrow:
    """A table stored ``[source, target]`` whose rows are looked up."""
    return _weight("embedding", arrow, False, when, False)


def parameter(arrow: str, *, optional: bool = False) -> Arrow:
    """A bare vector that is added to its target: ``"-> vocab"``."""
    return _weight("parameter", arrow, False, None, optional)


def rms_norm(
    arrow: str, *, eps: str | float, over: str | None = None, offset: int = 0, when: str | None = None
) -> Arrow:
    """RMSNorm: ``(offset + gain) * x / sqrt(mean(x^2) + eps)``, the mean over ``over``."""
    source, target = parse_arrow(arrow)
    return Arrow(
        kind="norm", source=source, target=target, eps=eps, offset=offset, when=when,
        over=parse_term(over) if over else None,
    )  # fmt: skip


def layer_norm(arrow: str, *, eps: str | float, bias: bool | str = True, optional: bool = False) -> Arrow:
    """LayerNorm with gain and bias over the whole space."""
    source, target = parse_arrow(arrow)
    return Arrow(kind="norm", source=source, target=target, eps=eps, bias=bias, centred=True, optional=optional)


def _weight(kind: Kind, arrow: str, bias: bool | str, when: str | None, optional: bool) -> Arrow:
    source, target = parse_arrow(arrow)
    if (source is None) != (kind == "parameter"):
        raise ArchitectureError(f"a {kind} arrow {'must not' if source else 'must'} read a space: {arrow!r}")
    return Arrow(kind=kind, source=source, target=target, bias=bias, when=when, optional=optional)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Queries meet keys, and weights mix values: ``output = softmax(scale * query . key) value``.

    Attributes:
        query, key, value, output: spaces.
        over: the axes that the product of queries and keys sums over.
        scale: expression over config fields (and ``layer``) for the factor on the scores.
    """

    query: str
    key: str
    value: str
    output: str
    over: tuple[str, ...]
    scale: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary embedding on an axis of frequencies: ``theta ** (-i / len(frequency))``.

    Attributes:
        frequency: the axis, whose entries keep their index (and so their angle) when it grows.
        parameters: config field with the dictionary of rotary parameters.
    """

    frequency: str
    parameters: str = "rope_parameters"


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
class LayerRule:
    """How a class fills in a per-layer list that the config leaves out: one kind from some layer on, another before.

    Attributes:
        when: config fields that must not be false or null for the rule to make a difference.
        first: config field with the first layer of the second kind.
        kinds: the entries before and from there on.
    """

    when: tuple[str, ...]
    first: str
    kinds: tuple[str, str]


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


@dataclass(frozen=True, slots=True)
class Space:
    """A vector that flows between weights: its axes, and the index axes (layers, heads) it is local to."""

    name: str
    axes: tuple[str, ...]
    index: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dim:
    """One dimension of a stored tensor: what it does there, and its term with every space spelled out."""

    role: Role
    term: Term


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One stored tensor per instance of its template's indices.

    Attributes:
        template: canonical name, such as ``layers.{layer}.self_attn.q_proj.weight``.
        owner: name of its arrow.
        part: ``weight`` or ``bias``.
        dims: its dimensions in memory order.
        index: the template's index axes, in order.
    """

    template: str
    owner: str
    part: Literal["weight", "bias"]
    dims: tuple[Dim, ...]
    index: tuple[str, ...]

    def name(self, index: Mapping[str, int]) -> str:
        """Return the canonical name of one instance."""
        return self.template.format(**index)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A table from module name to arrow, with the sizes of its axes and what no weight shows.

    Attributes:
        name: the family's name.
        model_types: values of ``model_type`` in config.json that it describes.
        sizes: axis (or index axis) -> expression over config fields; ``mlp[layer]`` where it differs per layer.
        arrows: module name, with ``{layer}`` and other index axes in braces -> arrow, in order of execution.
        attention: the contractions.
        adds: ``(a, b)``: the vector a is added to b without a weight (a residual connection to another space).
        activated: spaces with an activation function between the weight that writes them and the norm that reads them.
        rotary: rotary embeddings.
        ties: tensor -> the tensor whose storage it shares when ``tie_field`` is set.
        tie_field: the config field that says so.
        defaults: config field -> its value where the config leaves it out: an expression as a string, or a literal.
        constants: config fields that must have this value, with the reason otherwise.
        inferred: fields that no config holds (a classifier's number of labels), read off the tensors' shapes.
        coupled: fields that the class does not let vary alone.
        multiples: fields that must divide another though no shape needs it.
        fixed: axes that cannot grow, with the reason.
        layer_lists: config fields with one entry per layer that follow their layer.
        layer_rules: such a field -> what the class puts there when the config leaves it out.
        aliases: common config names -> this family's own.
        roles: the paper's sizes (``hidden``, ``mlp``, ``heads``, ``kv_heads``, ``key``, ``value``, ``layers``) ->
            config field.
        prefix: the base model's prefix in checkpoints of a model with a head.
        heads: first components of names outside of the base model, which never take the prefix.
        renames: (pattern, replacement) from older checkpoints' names.
        ignored: patterns of buffers in older checkpoints, with the reason why they are dropped.
        std: config field with the standard deviation of fresh weights.
    """

    name: str
    sizes: Mapping[str, str]
    arrows: Mapping[str, Arrow]
    model_types: tuple[str, ...] = ()
    attention: tuple[Attention, ...] = ()
    adds: tuple[tuple[str, str], ...] = ()
    activated: tuple[str, ...] = ()
    rotary: tuple[Rotary, ...] = ()
    ties: Mapping[str, str] = field(default_factory=dict)
    tie_field: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    inferred: tuple[str, ...] = ()
    coupled: tuple[Coupling, ...] = ()
    multiples: tuple[Multiple, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    layer_lists: tuple[str, ...] = ()
    layer_rules: Mapping[str, LayerRule] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    heads: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    std: str = "initializer_range"

    def __post_init__(self) -> None:
        """Check that every name refers to something."""
        for axis, expression in self.sizes.items():
            for index in indices_in(expression):
                self._known(index, self.sizes, f"the size of {axis!r}")
        for contraction in self.attention:
            for space in (contraction.query, contraction.key, contraction.value, contraction.output):
                self._known(space, self.spaces, "attention")
            for axis in contraction.over:
                self._known(axis, self.sizes, "attention over")
        for space in self.activated:
            self._known(space, self.spaces, "activated")
        for rotary in self.rotary:
            self._known(rotary.frequency, self.sizes, "rotary")
        for a, b in self.adds:
            self._known(a, self.spaces, "adds")
            self._known(b, self.spaces, "adds")
        for axis in self.fixed:
            self._known(axis, self.sizes, "fixed")
        for spec in self.tensors.values():
            for index in spec.index:
                self._known(index, self.sizes, f"the name {spec.template!r}")
        for a, b in self.ties.items():
            self._known(a, self.tensors, "ties")
            self._known(b, self.tensors, "ties")

    def _known(self, name: str, known: Mapping[str, object], where: str) -> None:
        if name not in known:
            raise ArchitectureError(
                f"{self.name}: {where} names {name!r}, which is not declared{did_you_mean(name, known)}"
            )

    @cached_property
    def spaces(self) -> dict[str, Space]:
        """Every space with its axes, in order of appearance."""
        axes: dict[str, tuple[str, ...]] = {}
        where: dict[str, set[str]] = {}

        def define(name: str, found: tuple[str, ...], by: str) -> None:
            if set(axes.setdefault(name, found)) != set(found) or len(found) != len(axes[name]):
                raise ArchitectureError(
                    f"{self.name}: {by} gives the space {name!r} the axes {found}; before they were {axes[name]}"
                )

        for name, arrow in self.arrows.items():
            for term in (arrow.source, arrow.target):
                if term is None:
                    continue
                for space, found in labelled_spaces(term):
                    define(space, found, name)
                if isinstance(term, Axis) and term.label is None and term.name in self.sizes:
                    define(term.name, (term.name,), name)
        pending = [a for a in self.arrows.values() if a.kind == "norm"]
        while pending:
            left = []
            for arrow in pending:
                source, target = space_of(arrow.source), space_of(arrow.target)
                if source in axes:
                    define(target, axes[source], f"the norm {arrow}")
                elif target in axes:
                    define(source, axes[target], f"the norm {arrow}")
                else:
                    left.append(arrow)
            if len(left) == len(pending):
                raise ArchitectureError(f"{self.name}: nothing spells out the space read by the norm {left[0]}")
            pending = left
        for name, arrow in self.arrows.items():
            for term in (arrow.source, arrow.target):
                for space in spaces_in(term):
                    self._known(space, axes, name)
                    index = set(_PLACEHOLDER.findall(name))
                    where[space] = where[space] & index if space in where else index
        order = list(self.sizes)
        return {
            name: Space(name, found, tuple(sorted(where.get(name, set()), key=order.index)))
            for name, found in axes.items()
        }

    @cached_property
    def tensors(self) -> dict[str, TensorSpec]:
        """Every stored tensor by its canonical template, in order of declaration."""
        found: dict[str, TensorSpec] = {}
        for name, arrow in self.arrows.items():
            index = tuple(_PLACEHOLDER.findall(name))
            target = self.expand(arrow.target)
            bias_dims: tuple[Dim, ...]
            if arrow.kind == "norm":
                over = self.expand(arrow.over or arrow.target)
                dims: tuple[Dim, ...] = (Dim("gain", over),)
                bias_dims = (Dim("offset", over),)
            elif arrow.kind == "parameter":
                found[name] = TensorSpec(name, name, "bias", (Dim("write", target),), index)
                continue
            else:
                assert arrow.source is not None  # checked where the arrow is made
                write, read = Dim("write", target), Dim("read", self.expand(arrow.source))
                dims = (write, read) if arrow.kind == "linear" else (read, write)
                bias_dims = (write,)
            found[f"{name}.weight"] = TensorSpec(f"{name}.weight", name, "weight", dims, index)
            if arrow.bias:
                found[f"{name}.bias"] = TensorSpec(f"{name}.bias", name, "bias", bias_dims, index)
        return found

    def expand(self, term: Term) -> Term:
        """Spell out the axes of every space that a term only names, and label every leaf with its space."""
        if isinstance(term, Axis) and term.label is None and term.name not in self.sizes and term.name != UNIT:
            if term.name not in self.spaces:
                raise ArchitectureError(
                    f"{self.name}: unknown axis or space {term.name!r}"
                    f"{did_you_mean(term.name, [*self.sizes, *self.spaces])}"
                )
            axes = self.spaces[term.name].axes
            return Axis(axes[0], term.name) if len(axes) == 1 else Product(tuple(map(Axis, axes)), term.name)
        for axis in sorted(term_axes(term) - {UNIT}):
            self._known(axis, self.sizes, f"the term '{term}'")
        return Axis(term.name, term.name) if isinstance(term, Axis) and not term.label and term.name != UNIT else term

    def size(self, axis: str, config: Config, index: Mapping[str, int] | None = None) -> int:
        """Return an axis' size under a config; ``config`` has had ``resolve_config`` applied.

        Raises:
            ArchitectureError: the size is not a whole number.
        """
        return evaluate_size(self.sizes[axis], config, index)

    def shape(self, spec: TensorSpec, config: Config, index: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape of one instance of a tensor under a resolved config.

        Raises:
            ArchitectureError: a size is not a whole number, or the config has no such instance.
        """
        return tuple(leaves(dim.term, lambda axis: self.size(axis, config, index))[0] for dim in spec.dims)

    def size_index(self, axis: str) -> tuple[str, ...]:
        """Return the index axes that an axis' size depends on."""
        return indices_in(self.sizes[axis])

    def resolve_config(self, config: Config) -> dict[str, Any]:
        """Return the config with declared defaults filled in, as the model's class would."""
        resolved = {**dict.fromkeys(self.inferred, 1), **config}
        for name, default in self.defaults.items():
            if resolved.get(name) is None:
                if isinstance(default, str):
                    value = evaluate(default, resolved).rational()
                    resolved[name] = int(value) if value.denominator == 1 else float(value)
                else:
                    resolved[name] = default
        for name, rule in self.layer_rules.items():
            if resolved.get(name) is None and "layer" in self.sizes:
                start = resolved[rule.first] if all(resolved.get(f, True) for f in rule.when) else None
                count = self.size("layer", resolved)
                resolved[name] = [rule.kinds[start is not None and i >= start] for i in range(count)]
        return resolved

    def exists(self, spec: TensorSpec, config: Config) -> bool:
        """Tell whether a config of this family has the tensor (optional heads: they may exist)."""
        arrow = self.arrows[spec.owner]
        if arrow.when is not None and not config.get(arrow.when):
            return False
        return not (spec.part == "bias" and isinstance(arrow.bias, str)) or bool(config.get(str(arrow.bias)))

    def instances(self, index: tuple[str, ...], config: Config) -> Iterator[dict[str, int]]:
        """Yield every assignment of the index axes under a config, in order."""
        if not index:
            yield {}
            return
        for outer in self.instances(index[:-1], config):
            for position in range(self.size(index[-1], config, outer)):
                yield {**outer, index[-1]: position}

    @property
    def index_axes(self) -> tuple[str, ...]:
        """The axes that number tensors rather than coordinates: layers, experts, heads kept apart."""
        found = [index for spec in self.tensors.values() for index in spec.index]
        return tuple(dict.fromkeys(found))

    def size_fields(self) -> tuple[str, ...]:
        """Return the config fields that growth may change, in order of declaration."""
        fields: list[str] = []
        pending = [n for axis, e in self.sizes.items() if axis not in self.fixed for n in names_in(e)]
        while pending:
            name = pending.pop(0)
            if name in fields or name in self.inferred:
                continue
            fields.append(name)
            default = self.defaults.get(name)
            if isinstance(default, str):
                pending += names_in(default)
        return tuple(fields)

    def extend(self, name: str, **changes: Any) -> Architecture:
        """Return a family that differs from this one; ``arrows`` and mappings are merged, None removes an entry."""
        for key, value in changes.items():
            present = getattr(self, key)
            if isinstance(present, Mapping):
                merged = {**present, **value}
                changes[key] = {k: v for k, v in merged.items() if v is not None or key == "defaults"}
        return replace(self, name=name, **changes)


def space_of(term: Term | None) -> str:
    """Return the one space that a term names.

    Raises:
        ArchitectureError: it names none, or several.
    """
    found = list(spaces_in(term))
    if len(found) != 1:
        raise ArchitectureError(f"expected one space in {str(term)!r}, found {found}")
    return found[0]


def spaces_in(term: Term | None) -> Iterator[str]:
    """Yield the names of the spaces in a term."""
    if term is None:
        return
    if isinstance(term, Axis):
        if term.label or term.name != UNIT:
            yield term.label or term.name
        return
    labelled = [space for space, _ in labelled_spaces(term)]
    if not labelled:
        raise ArchitectureError(f"the term {str(term)!r} names no space; write name:{term}")
    yield from labelled


__all__ = [
    "Architecture",
    "Arrow",
    "Attention",
    "Axis",
    "Concat",
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
