"""What a family file declares: every weight an arrow between spaces, and the few facts that no weight shows.

An ``Architecture`` is data. It holds no growth mathematics: the planner derives from the arrows who writes and who
reads each space, and from that what must become of every tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

from growformer.architecture.arrows import (
    Arrow,
    Kind,
    carried,
    convolution,
    embedding,
    layer_norm,
    layer_scale,
    linear,
    linear_transposed,
    parameter,
    rms_norm,
)
from growformer.architecture.exact import Fields, compute, evaluate, evaluate_size, indices_in, mentions, names_in
from growformer.architecture.facts import Add, Alibi, Attention, Coupling, LayerKind, Multiple, Packed, Rotary
from growformer.architecture.language import UNIT, Axis, Concat, Product, Term, flat_size, labelled_spaces, term_axes
from growformer.errors import ArchitectureError, did_you_mean

Role = Literal["read", "write", "gain", "offset", "kernel", "unit"]
Config = Mapping[str, Any]

MAX_INSTANCES = 10_000
"""Of one axis that numbers tensors, such as layers or experts: ten times the deepest model."""
MAX_TENSORS = 1_000_000
"""Of one kind."""
MAX_COORDINATES = 1 << 25
"""Of one axis: a hundred times the largest vocabulary."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


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
        adds: what enters another space without a weight: ``Add``, or ``(a, b)`` for ``Add(source=a, target=b)``.
        outputs: spaces that the model returns although weights read them, or that carried weights read; they cannot be
            scaled.
        activated: spaces with an activation function between the weight that writes them and the norm that reads them.
        rotary: rotary embeddings.
        alibi: linear biases on scores.
        ties: tensor -> the tensor whose storage it shares when ``tie_field`` is set.
        tie_field: the config field that says so.
        shared: names that always stand for another tensor's storage, and have none of their own.
        defaults: config field -> its value where the config leaves it out: an expression as a string, or a literal
            (text in quotes of its own).
        constants: config fields that must have this value, with the reason otherwise.
        inferred: fields that no config holds (a classifier's number of labels), read off the tensors' shapes.
        coupled: fields that the class does not let vary alone.
        multiples: fields that must divide another though no shape needs it.
        fixed: axes that cannot grow, with the reason.
        follows: config fields that repeat a size under another name -> expression; written where the config has them.
        layer_lists: config fields with one entry per layer that follow their layer.
        layer_numbers: config fields with numbers of layers, 0 before the first one -> how a number is written
            (``{}``, ``stage{}``); they follow their layers.
        layer_rules: such a field -> expression for what the class puts there for a layer when the config leaves it out.
        kinds: properties that layers derive from their number.
        nested: config fields that hold configs, whose fields are named ``text_config.hidden_size`` here.
        overriding: config field that the class believes instead of a nested config -> that one, where growth writes it.
        variant: condition under which this declaration, of several for one model type, holds.
        aliases: common config names -> this family's own.
        roles: the paper's sizes (``hidden``, ``mlp``, ``heads``, ``kv_heads``, ``key``, ``value``, ``layers``) ->
            config field.
        prefix: the base model's prefix in checkpoints of a model with a head.
        heads: first components of names outside of the base model, which never take the prefix.
        renames: (pattern, replacement) from older checkpoints' names.
        ignored: patterns of buffers in older checkpoints, with the reason why they are dropped.
        active: index axis -> how many of its instances a token meets (experts that the router picks).
        beyond: index axis -> config field with the number of instances past the last one, which the class leaves out
            (DeepSeek's layers that predict further tokens), and why they are dropped. The target has none of them.
        carried: patterns of tensors that depend on no size that grows, with the reason; they go on as they are.
        computed: optional arrow -> why the axes of what it writes cannot grow in a source that lacks it: its class
            computes it from the sizes then.
        packed: stored tensor (a template) -> the declared tensors that it holds.
        std: config field with the standard deviation of fresh weights.
    """

    name: str
    sizes: Mapping[str, str]
    arrows: Mapping[str, Arrow]
    model_types: tuple[str, ...] = ()
    attention: tuple[Attention, ...] = ()
    adds: tuple[Any, ...] = ()
    outputs: tuple[str, ...] = ()
    activated: tuple[str, ...] = ()
    rotary: tuple[Rotary, ...] = ()
    alibi: tuple[Alibi, ...] = ()
    ties: Mapping[str, str] = field(default_factory=dict)
    tie_field: str | None = None
    shared: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    inferred: tuple[str, ...] = ()
    coupled: tuple[Coupling, ...] = ()
    multiples: tuple[Multiple, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    follows: Mapping[str, str] = field(default_factory=dict)
    layer_lists: tuple[str, ...] = ()
    layer_numbers: Mapping[str, str] = field(default_factory=dict)
    layer_rules: Mapping[str, str] = field(default_factory=dict)
    kinds: tuple[LayerKind, ...] = ()
    nested: tuple[str, ...] = ()
    overriding: Mapping[str, str] = field(default_factory=dict)
    variant: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    heads: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    active: Mapping[str, str] = field(default_factory=dict)
    beyond: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    carried: Mapping[str, str] = field(default_factory=dict)
    computed: Mapping[str, str] = field(default_factory=dict)
    packed: Mapping[str, Packed] = field(default_factory=dict)
    std: str = "initializer_range"

    def __post_init__(self) -> None:
        """Check that every name refers to something."""
        adds = tuple(a if isinstance(a, Add) else Add(source=a[0], target=a[1]) for a in self.adds)
        object.__setattr__(self, "adds", adds)
        for axis, expression in self.sizes.items():
            for index in indices_in(expression):
                self._known(index, self.sizes, f"the size of {axis!r}")
        for contraction in self.attention:
            for space in contraction.spaces:
                self._known(space, self.spaces, "attention")
            for axis in contraction.over:
                self._known(axis, self.sizes, "attention over")
        for space in (*self.activated, *self.outputs):
            self._known(space, self.spaces, "activated")
        for rotary in self.rotary:
            self._known(rotary.frequency, self.sizes, "rotary")
        for add in self.adds:
            self._known(add.source, self.spaces, "adds")
            self._known(add.target, self.spaces, "adds")
        for alibi in self.alibi:
            self._known(alibi.heads, self.sizes, "alibi")
            if any(alibi.heads in contraction.over for contraction in self.attention):
                raise ArchitectureError(
                    f"{self.name}: attention sums over {alibi.heads!r}, each of which has scores with biases of its own"
                )
        for name, packed in self.packed.items():
            outer = set(_PLACEHOLDER.findall(name))
            for part in packed.parts:
                self._known(part, self.tensors, "packed")
                if set(self.tensors[part].index) != outer | ({packed.stack} if packed.stack else set()):
                    raise ArchitectureError(
                        f"{self.name}: packed {name!r} numbers {sorted(outer)} and stacks {packed.stack}; its part "
                        f"{part!r} numbers {list(self.tensors[part].index)}"
                    )
            along = {tuple(dim.role for dim in self.tensors[part].dims).index("write") for part in packed.parts}
            if len(along) > 1:
                raise ArchitectureError(
                    f"{self.name}: packed {name!r} puts beside each other what is written along different dimensions: "
                    f"{', '.join(packed.parts)}"
                )
            read = {str(self.arrows[self.tensors[part].owner].source): part for part in packed.parts}
            if packed.stack and len(read) > 1:
                raise ArchitectureError(
                    f"{self.name}: packed {name!r} is one matrix for each {packed.stack}, which reads one vector; its "
                    f"parts read {', '.join(f'{source} ({part})' for source, part in read.items())}"
                )
        for axis in self.fixed:
            self._known(axis, self.sizes, "fixed")
        for axis in self.beyond:
            self._known(axis, self.sizes, "beyond")
        for name in self.computed:
            self._known(name, self.arrows, "computed")
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

        arrows = {name: arrow for name, arrow in self.arrows.items() if arrow.kind != "carried"}
        for name, arrow in arrows.items():
            for term in (arrow.source, arrow.target):
                if term is None:
                    continue
                for space, found in labelled_spaces(term):
                    define(space, found, name)
                if isinstance(term, Axis) and term.label is None and term.name in self.sizes:
                    define(term.name, (term.name,), name)
        pending = [a for a in arrows.values() if a.kind in ("norm", "scale")]
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
        for name, arrow in arrows.items():
            for term in (arrow.source, arrow.target):
                for space in spaces_in(term):
                    self._known(space, axes, name)
                    index = set(_PLACEHOLDER.findall(name))
                    where[space] = where[space] & index if space in where else index
        for name in {axis: None for index in where.values() for axis in sorted(index)}:
            self._known(name, self.sizes, "the name of a module")
        order = list(self.sizes)
        return {
            name: Space(name, found, tuple(sorted(where.get(name, set()), key=order.index)))
            for name, found in axes.items()
        }

    @cached_property
    def tensors(self) -> dict[str, TensorSpec]:
        """Every stored tensor by its canonical template, in order of declaration."""
        found: dict[str, TensorSpec] = {}

        def declare(
            template: str, owner: str, part: Literal["weight", "bias"], dims: tuple[Dim, ...], index: tuple[str, ...]
        ) -> None:
            if template in found:
                raise ArchitectureError(
                    f"{self.name}: {found[template].owner!r} and {owner!r} both declare the tensor {template!r}"
                )
            found[template] = TensorSpec(template, owner, part, dims, index)

        for name, arrow in self.arrows.items():
            index = tuple(_PLACEHOLDER.findall(name))
            target = self.expand(arrow.target)
            bias_dims: tuple[Dim, ...]
            units = (Dim("unit", Axis(UNIT)),) * arrow.leading
            if arrow.kind == "carried":
                single = () if target == Axis(UNIT) else (target,)
                parts = target.parts if isinstance(target, Product) else single
                declare(name, name, "weight", tuple(Dim("write", part) for part in parts), index)
                continue
            if arrow.kind == "norm":
                over = self.expand(arrow.over or arrow.target)
                dims: tuple[Dim, ...] = (Dim("gain", over),)
                bias_dims = (Dim("offset", over),)
                if not arrow.gain:
                    continue
            elif arrow.kind == "scale":
                dims, bias_dims = (Dim("gain", target),), ()
            elif arrow.kind == "parameter":
                declare(name, name, "bias", (*units, Dim("write", target)), index)
                continue
            else:
                assert arrow.source is not None  # checked where the arrow is made
                write, read = Dim("write", target), Dim("read", self.expand(arrow.source))
                dims = (write, read) if arrow.kind in ("linear", "convolution") else (read, write)
                dims = (*units, *dims, *(Dim("kernel", Axis(axis, axis)) for axis in arrow.kernel))
                bias_dims = (write,)
            declare(name if arrow.bare else f"{name}.weight", name, "weight", dims, index)
            if arrow.bias:
                declare(f"{name}.bias", name, "bias", bias_dims, index)
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
            ArchitectureError: the size is not a whole number, or beyond what any model has.
        """
        expression = self.sizes[axis]
        found: int
        if isinstance(config, Fields):
            found = config.remember(expression, index, lambda: evaluate_size(expression, config, index))
        else:
            found = evaluate_size(expression, config, index)
        if found > MAX_INSTANCES and axis in self.index_axes:
            raise ArchitectureError(f"the size {expression!r} is {found}; expected at most {MAX_INSTANCES} of {axis!r}")
        return found

    def shape(self, spec: TensorSpec, config: Config, index: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape of one instance of a tensor under a resolved config.

        Raises:
            ArchitectureError: a size is not a whole number, or the config has no such instance.
        """
        return tuple(flat_size(dim.term, lambda axis: self.size(axis, config, index)) for dim in spec.dims)

    def size_index(self, axis: str) -> tuple[str, ...]:
        """Return the index axes that an axis' size depends on."""
        return indices_in(self.sizes[axis])

    def resolve_config(self, config: Config) -> Fields:
        """Return the config with nested fields spelled out and declared defaults filled in, as the class would."""
        resolved = Fields({**dict.fromkeys(self.inferred, 1), **config})
        stood_for = {into: config[name] for name, into in self.overriding.items() if config.get(name) is not None}
        for name in self.nested:
            inner = stood_for.get(name, config.get(name))
            if isinstance(inner, Mapping):
                resolved.update({f"{name}.{key}": value for key, value in inner.items()})
        for name in self.overriding:
            resolved.pop(name, None)
        for name, own in self.aliases.items():
            if resolved.get(own) is None and resolved.get(name) is not None:
                resolved[own] = resolved[name]
        for rotary in self.rotary:
            share = _inside(resolved.get(rotary.parameters), rotary.fraction)
            if rotary.fraction and share is not None:
                resolved[rotary.fraction] = share
        for name, default in self.defaults.items():
            if resolved.get(name) is None:
                if isinstance(default, str) and default.startswith("'"):
                    resolved[name] = compute(default, resolved)
                elif isinstance(default, str):
                    value = evaluate(default, resolved)
                    resolved[name] = int(value.rational()) if value.is_whole() else float(value)
                else:
                    resolved[name] = default
        for name, rule in self.layer_rules.items():
            axis = next((a for a in self.sizes if mentions(rule, a)), "layer")
            if resolved.get(name) is None and axis in self.sizes:
                resolved[name] = [compute(rule, resolved, {axis: i}) for i in range(self.size(axis, resolved))]
        return resolved

    def exists(self, spec: TensorSpec, config: Config, index: Mapping[str, int] | None = None) -> bool:
        """Tell whether a config of this family has the tensor (optional heads: they may exist).

        Without ``index``: whether it has it in any instance.
        """
        arrow = self.arrows[spec.owner]
        conditions = [arrow.when] if arrow.when is not None else []
        if spec.part == "bias" and isinstance(arrow.bias, str):
            conditions.append(arrow.bias)
        if not conditions:
            return True
        if index is None and any(mentions(c, axis) for c in conditions for axis in spec.index):
            return any(self.exists(spec, config, i) for i in self.instances(spec.index, config))
        return all(_holds(condition, config, index) for condition in conditions)

    def instances_of(self, spec: TensorSpec, config: Config) -> Iterator[dict[str, int]]:
        """Yield every instance of a tensor under a config, in order."""
        arrow = self.arrows[spec.owner]
        depends = arrow.when is not None or isinstance(arrow.bias, str)
        for index in self.instances(spec.index, config):
            if not depends or self.exists(spec, config, index):
                yield index

    def instances(self, index: tuple[str, ...], config: Config) -> Iterator[dict[str, int]]:
        """Yield every assignment of the index axes under a config, in order.

        Raises:
            ArchitectureError: there are more than any model has tensors.
        """
        if not index:
            yield {}
            return
        if len(index) > 1:  # counted before the first one is made
            count = sum(self.size(index[-1], config, outer) for outer in self.instances(index[:-1], config))
            if count > MAX_TENSORS:
                raise ArchitectureError(
                    f"{' times '.join(index)} gives {count} tensors of one kind; expected at most {MAX_TENSORS}"
                )
        for outer in self.instances(index[:-1], config):
            for position in range(self.size(index[-1], config, outer)):
                yield {**outer, index[-1]: position}

    @cached_property
    def index_axes(self) -> tuple[str, ...]:
        """The axes that number tensors rather than coordinates: layers, experts, heads kept apart."""
        found = [index for spec in self.tensors.values() for index in spec.index]
        return tuple(dict.fromkeys(found))

    def size_fields(self) -> tuple[str, ...]:
        """Return the config fields that growth may change, in order of declaration."""
        fields: list[str] = []
        fractions = {rotary.fraction for rotary in self.rotary}
        pending = [n for axis, e in self.sizes.items() if axis not in self.fixed for n in names_in(e)]
        while pending:
            name = pending.pop(0)
            if name in fields or name in self.inferred or name in self.index_axes or name in fractions:
                continue
            fields.append(name)
            default = self.defaults.get(name)
            if isinstance(default, str):
                pending += names_in(default)
        return tuple(fields)

    def restricted(self, arrows: Mapping[str, Arrow], **changes: Any) -> Architecture:
        """Return the same family with these arrows alone, and the facts that are about their spaces."""
        if len(arrows) == len(self.arrows) and all(self.arrows.get(n) is a for n, a in arrows.items()):
            return self
        named = {
            space
            for arrow in arrows.values()
            if arrow.kind != "carried"
            for term in (arrow.source, arrow.target)
            for space in spaces_in(term)
        }
        attention = tuple(c for c in self.attention if named >= {*c.queries, *c.keys, c.value})
        named |= {c.output for c in attention}
        tensors = {t for t, spec in self.tensors.items() if spec.owner in arrows}
        return replace(
            self,
            arrows=arrows,
            attention=attention,
            adds=tuple(add for add in self.adds if {add.source, add.target} <= named),
            activated=tuple(space for space in self.activated if space in named),
            outputs=tuple(space for space in self.outputs if space in named),
            ties={a: b for a, b in self.ties.items() if {a, b} <= tensors},
            packed={n: p for n, p in self.packed.items() if set(p.parts) <= tensors},
            computed={n: why for n, why in self.computed.items() if n in arrows},
            **changes,
        )

    def extend(self, name: str, **changes: Any) -> Architecture:
        """Return a family that differs from this one; ``arrows`` and mappings are merged, None removes an entry."""
        for key, value in changes.items():
            present = getattr(self, key)
            if isinstance(present, Mapping):
                merged = {**present, **value}
                changes[key] = {k: v for k, v in merged.items() if v is not None or key == "defaults"}
        return replace(self, name=name, **changes)


@lru_cache(maxsize=1024)
def _is_field(condition: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][\w.]*", condition) is not None


def _holds(condition: str, config: Config, index: Mapping[str, int] | None) -> bool:
    """Evaluate a condition; one that is the name of a field that the config lacks does not hold."""
    if _is_field(condition):
        return bool(config.get(condition))
    if isinstance(config, Fields):
        return bool(config.remember(f"bool({condition})", index, lambda: bool(compute(condition, config, index))))
    return bool(compute(condition, config, index))


def _inside(parameters: Any, name: str | None) -> Any:
    """Return an entry of rotary parameters, of which there may be one dictionary per kind of layer."""
    if not isinstance(parameters, Mapping) or name is None:
        return None
    inner = [value for value in parameters.values() if isinstance(value, Mapping)]
    return parameters.get(name, inner[0].get(name) if inner else None)


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
    "Add", "Alibi", "Architecture", "Arrow", "Attention", "Axis", "Concat", "Coupling", "Kind", "LayerKind", "Multiple",
    "Packed", "Rotary", "carried", "convolution", "embedding", "layer_norm", "layer_scale",
    "linear", "linear_transposed", "parameter",
    "rms_norm",
]  # fmt: skip
