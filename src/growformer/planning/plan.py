"""The plan: an immutable, serialisable value that says what every target tensor is made of. No tensor is touched."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import Any, Literal

from growformer.architecture.declaration import Architecture, Arrow, TensorSpec, spaces_in
from growformer.architecture.exact import ONE, Root
from growformer.architecture.language import Term, flat_size, term_axes
from growformer.architecture.serialise import architecture_from_json, architecture_to_json
from growformer.architecture.source import SourceInfo
from growformer.errors import PlanError, in_words
from growformer.planning.axis_map import NEW, AxisMap, origin_of
from growformer.planning.blocks import Affine, Block, TensorPlan
from growformer.planning.initialisation import Initialisation
from growformer.planning.rules import tensor_plan
from growformer.planning.spaces import SpaceState

FORMAT = 1
Index = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What becomes of a source model.

    Attributes:
        architecture: the declaration that the plan was made from.
        source: the source's config, and names, shapes and dtypes of its tensors.
        target_config: the config of the grown model, as config.json holds it.
        axis_maps: axis -> instance (values of the index axes that its size depends on) -> where coordinates come from.
        templates: index axis -> instance of the axes around it -> for every target position the source position it
            comes from or, where it is new, copies; -1 where it is new and random.
        spaces: what growth does to each space.
        rho: factors on the epsilons that are config fields.
        init: how free blocks are filled.
        notes: what the resolver decided and the user should know.
        requested: the config fields that were asked for; others follow from them.
    """

    architecture: Architecture
    source: SourceInfo
    target_config: Mapping[str, Any]
    axis_maps: Mapping[str, Mapping[tuple[int, ...], AxisMap]]
    templates: Mapping[str, Mapping[tuple[int, ...], tuple[int, ...]]]
    spaces: Mapping[str, SpaceState]
    rho: Mapping[str, Fraction]
    init: Initialisation
    notes: tuple[str, ...] = field(default=())
    requested: tuple[str, ...] = field(default=())

    @cached_property
    def source_sizes(self) -> dict[str, Any]:
        """The source's config with defaults filled in."""
        return self.architecture.resolve_config(self.source.sizes)

    @cached_property
    def target_sizes(self) -> dict[str, Any]:
        """The target's config with defaults filled in."""
        return self.architecture.resolve_config({**self.target_config, **self.source.inferred})

    # Where instances come from.

    def axis_map(self, axis: str, index: Index) -> AxisMap:
        """Return the map of an axis in one target instance."""
        key = tuple(index[name] for name in self.architecture.size_index(axis))
        return self.axis_maps[axis][key]

    def is_new(self, index: Index) -> bool:
        """Tell whether a target instance is new along any of its index axes."""
        return self.outermost_new(index) is not None

    def outermost_new(self, index: Index) -> str | None:
        """Return the first index axis along which a target instance is new."""
        for axis in self.architecture.sizes:
            if axis in index and self.axis_map(axis, index).array()[index[axis]] == NEW:
                return axis
        return None

    def origin(self, index: Index) -> dict[str, int] | None:
        """Return the source instance that a target instance comes from or copies; None if it is new and random."""
        return origin_of(self.architecture, self.templates, index)

    # What rules need.

    def term_size(self, term: Term, index: Index) -> int:
        """Return the flattened size of a term in the target."""
        return flat_size(term, lambda axis: self.axis_map(axis, index).target_size)

    def space_scale(self, space: str, index: Index) -> Root:
        """Return the factor on a space's source coordinates."""
        key = tuple(index[name] for name in self.architecture.spaces[space].index if name in index)
        return self.spaces[space].scale(key) if space in self.spaces else ONE

    def norm_rho(self, owner: str, index: Index) -> Fraction:
        """Return the factor on the mean square (and epsilon) that a norm sees: the ratio of the two epsilons."""
        eps = self.architecture.arrows[owner].eps
        return self.rho.get(eps, Fraction(1)) if isinstance(eps, str) else Fraction(1)

    def epsilon(self, arrow: Arrow) -> Fraction:
        """Return a norm's epsilon in the target."""
        if not isinstance(arrow.eps, str):
            return Fraction(arrow.eps)
        return Fraction(self.source_sizes[arrow.eps]) * self.rho.get(arrow.eps, Fraction(1))

    def norm_chain(self, arrow: Arrow) -> list[tuple[str, tuple[tuple[str, int], ...]]]:
        """Return every norm on the same residual path in order of execution, as (module, instance)."""
        names = [
            name
            for name, other in self.architecture.arrows.items()
            if other.kind == "norm" and (other.source, other.target) == (arrow.source, arrow.target)
        ]
        chain: list[tuple[str, tuple[tuple[str, int], ...]]] = []
        specs = {name: self.architecture.tensors[f"{name}.weight"] for name in names}
        while names:
            index = specs[names[0]].index
            together = [n for n in names if specs[n].index == index]
            for instance in self.architecture.instances(index, self.target_sizes):
                there = [n for n in together if self.architecture.exists(specs[n], self.target_sizes, instance)]
                chain += [(name, tuple(instance.items())) for name in there]
            names = [n for n in names if n not in together]
        return chain

    @cached_property
    def tied_templates(self) -> frozenset[str]:
        """Templates of tensors that share storage in this source, on either side of the tie."""
        if not self.source.tied:
            return frozenset()
        return frozenset({*self.architecture.ties, *self.architecture.ties.values()})

    def reach(self, spec: TensorSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the axes and the spaces that a tensor has, or that the norm it belongs to reads and writes."""
        if spec.template not in self._reach:
            arrow = self.architecture.arrows[spec.owner]
            ends = (arrow.source, arrow.target) if arrow.kind != "carried" else ()
            spaces = dict.fromkeys(space for term in ends for space in spaces_in(term))
            axes = {axis for space in spaces for axis in self.architecture.spaces[space].axes}
            axes |= {axis for dim in spec.dims for axis in term_axes(dim.term)}
            self._reach[spec.template] = (tuple(sorted(axes & self.axis_maps.keys())), tuple(spaces))
        return self._reach[spec.template]

    @cached_property
    def _reach(self) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        return {}

    @cached_property
    def made(self) -> dict[Hashable, tuple[Block, ...]]:
        """Blocks of one instance of those that are treated alike, kept by ``tensor_plan``; no part of the value."""
        return {}

    # The tensors of the target.

    def specs(self) -> Iterator[tuple[TensorSpec, dict[str, int]]]:
        """Yield every tensor instance of the target, in order of execution layer by layer."""
        present = self.source.templates
        specs = [s for s in self.architecture.tensors.values() if s.template in present]
        while specs:
            index = specs[0].index
            # Templates that follow each other with the same index belong to one layer: keep its tensors together.
            together = []
            for spec in specs:
                if spec.index[:1] != index[:1]:
                    break
                together.append(spec)
            if index:
                by_layer: dict[int, list[tuple[TensorSpec, dict[str, int]]]] = {}
                for spec in together:
                    for instance in self.architecture.instances_of(spec, self.target_sizes):
                        by_layer.setdefault(instance[index[0]], []).append((spec, instance))
                for layer in sorted(by_layer):
                    yield from by_layer[layer]
            else:
                for spec in together:
                    yield spec, {}
            specs = specs[len(together) :]

    def tensors(self) -> Iterator[TensorPlan]:
        """Yield the plan of every tensor of the target, lazily."""
        for spec, index in self.specs():
            yield tensor_plan(self, spec, index)

    def tensor(self, name: str) -> TensorPlan:
        """Return the plan of one tensor by its canonical name in the target.

        Raises:
            PlanError: the target has no such tensor.
        """
        for spec, index in self.specs():
            if spec.name(index) == name:
                return tensor_plan(self, spec, index)
        raise PlanError(f"the target has no tensor {name!r}")

    def target_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield canonical name and shape of every tensor of the target."""
        for spec, index in self.specs():
            yield spec.name(index), tuple(self.term_size(dim.term, index) for dim in spec.dims)

    def source_dtype(self, spec: TensorSpec, index: Index) -> str:
        """Return the dtype of the source tensor that an instance comes from."""
        return self.source.tensors[self.dtype_from(spec, index)].dtype

    def stored_origin(self, spec: TensorSpec, index: Index) -> str:
        """Return the stored name of the source tensor that an instance comes from, or else gets its dtype from."""
        return self.source.tensors[self.dtype_from(spec, index)].stored

    def dtype_from(self, spec: TensorSpec, index: Index) -> str:
        """Return the name of the source tensor that gives an instance its dtype; a zero bias has its weight's."""
        origin = self.origin(index)
        if spec.template in self.source.zeros:
            spec = self.architecture.tensors[f"{spec.owner}.weight"]
        name = spec.name(origin) if origin is not None else ""
        return name if name in self.source.tensors else self.any_source(spec)

    def any_source(self, spec: TensorSpec) -> str:
        """Return the canonical name of the first instance of a tensor in the source; of a zero bias, its weight's."""
        is_zero = spec.template in self.source.zeros
        return self._first_instances[f"{spec.owner}.weight" if is_zero else spec.template]

    @cached_property
    def _first_instances(self) -> dict[str, str]:
        found = {}
        for template in self.source.templates:
            spec = self.architecture.tensors[template]
            found[template] = spec.name(next(self.architecture.instances_of(spec, self.source_sizes)))
        return found

    def status(self, tensor: TensorPlan) -> Literal["grown", "carried", "new"]:
        """Return whether a tensor is taken over bit by bit, made larger (or rescaled), or has no source."""
        if self.is_new(dict(tensor.index)) or tensor.template in self.source.zeros:
            return "new"
        value = tensor.blocks[0].value if tensor.blocks else None  # a size may be 0
        whole = len(tensor.blocks) == 1 and isinstance(value, Affine) and value.is_copy
        return "carried" if whole and tensor.shape == self.source.tensors[tensor.source].shape else "grown"

    def num_parameters(self) -> tuple[int, int]:
        """Return the numbers of parameters of source and target (a tied tensor counts once)."""
        return (
            sum(prod(t.shape) for t in self.source.tensors.values()),
            sum(prod(shape) for _, shape in self.target_shapes()),
        )

    def check(self) -> None:
        """Derive from the declaration, by code that does not know the planner, what every block must hold, and compare.

        Raises:
            PlanError: a block, a space or the target config would not preserve the function; all are named.
        """
        from growformer.verification.plan_check import check

        violations = check(self)
        if violations:
            raise PlanError("the plan does not preserve the function:\n  " + "\n  ".join(map(str, violations[:12])))

    def then(self, second: Plan) -> Plan:
        """Return one plan for two steps: from this plan's source to the second plan's target.

        Source coordinates land where the two steps put them, with the product of their exact factors; each value is
        rounded once. Free blocks are filled once, by the second plan's initialisation.

        Raises:
            PlanError: the second plan does not start from this one's target config.
        """
        from growformer.planning.planner import compose

        return compose(self, second)

    def __str__(self) -> str:
        return self.explain()

    def _repr_html_(self) -> str:
        """Return the plan for a notebook."""
        from growformer.reporting.notebook import plan_html

        return plan_html(self)

    def explain(self) -> str:
        """Return the plan in words, for a terminal."""
        from growformer.planning.explain import explain

        return explain(self)

    # Serialisation.

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the plan as JSON text that ``Plan.from_json`` reads back to an equal plan.

        Args:
            indent: blanks per level, for readers and diffs; by default all is on one line.
        """
        return json.dumps(
            {
                "format": FORMAT,
                "architecture": architecture_to_json(self.architecture),
                "source": self.source.to_json(),
                "target_config": dict(self.target_config),
                "axis_maps": {
                    axis: [
                        {"index": list(key), "source_size": m.source_size, "runs": [list(run) for run in m.runs]}
                        for key, m in maps.items()
                    ]
                    for axis, maps in self.axis_maps.items()
                },
                "templates": {
                    axis: [{"index": list(key), "source": list(found)} for key, found in maps.items()]
                    for axis, maps in self.templates.items()
                },
                "spaces": {
                    name: {
                        "new": dict(state.new),
                        "scales": [{"index": list(key), "scale": str(s)} for key, s in state.scales.items()],
                    }
                    for name, state in self.spaces.items()
                },
                "epsilon_factors": {name: str(factor) for name, factor in self.rho.items()},
                "init": self.init.to_json(),
                "notes": list(self.notes),
                "requested": list(self.requested),
            },
            indent=indent,
        )

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read a plan.

        Raises:
            PlanError: the text is not a plan of this format.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise PlanError(f"a plan of format {data['format']}; this version reads format {FORMAT}")
            return Plan(
                architecture=architecture_from_json(data["architecture"]),
                source=SourceInfo.from_json(data["source"]),
                target_config=data["target_config"],
                axis_maps={
                    axis: {
                        tuple(m["index"]): AxisMap(m["source_size"], tuple((a, b) for a, b in m["runs"])) for m in maps
                    }
                    for axis, maps in data["axis_maps"].items()
                },
                templates={
                    axis: {tuple(m["index"]): tuple(m["source"]) for m in maps}
                    for axis, maps in data["templates"].items()
                },
                spaces={
                    name: SpaceState(state["new"], {tuple(s["index"]): Root.parse(s["scale"]) for s in state["scales"]})
                    for name, state in data["spaces"].items()
                },
                rho={name: Fraction(factor) for name, factor in data["epsilon_factors"].items()},
                init=Initialisation.from_json(data["init"]),
                notes=tuple(data["notes"]),
                requested=tuple(data["requested"]),
            )
        except PlanError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"not a growformer plan: {in_words(error)}") from error
