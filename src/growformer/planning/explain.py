"""A plan in words: sizes, what each of the six transformations does here, and why nothing changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from growformer.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class Change:
    """One config field before and after."""

    field: str
    before: object
    after: object
    why: str


def changes(plan: Plan) -> list[Change]:
    """Return every config field that differs, with the reason."""
    size_fields = plan.architecture.size_fields()
    before, after = plan.source_sizes, plan.target_sizes
    architecture = plan.architecture
    bases = {n for r in architecture.rotary for n in (r.parameters, r.legacy_theta, *r.legacy.values())}
    shares = {n for r in architecture.rotary for n in (r.fraction, r.legacy_fraction) if n is not None}
    kinds = {n for kind in architecture.kinds for n in kind.settle}
    spelled_twice = set()
    if any(r.parameters in plan.target_config for r in architecture.rotary):
        spelled_twice = {"rope_scaling", *bases, *shares} - set(plan.source.config)
    found = []
    if plan.source.original is not None:
        types = (plan.source.original.get("model_type"), plan.target_config.get("model_type"))
        found.append(Change("model_type", *types, "the same function, as a class that can say these sizes"))
    for name in dict.fromkeys([*size_fields, *_flat(plan)]):
        old, new = before.get(name), after.get(name)
        if old == new or name in architecture.inferred or name in spelled_twice:
            continue
        if name in plan.rho:
            why = f"× {plan.rho[name]}: keeps every norm exact although its mean runs over more coordinates"
        elif name in shares:
            why = "as much of a head is rotated as before"
        elif name in size_fields:
            why = "requested" if name in plan.requested else "follows"
        elif name in bases:
            why = "keeps the angle of every source frequency"
        elif name in architecture.layer_lists:
            why = "every source layer keeps its own entry"
        elif name in kinds:
            why = "every source layer keeps its kind"
        else:
            why = "requested" if name in plan.requested else "follows"
        found.append(Change(name, old, new, why))
    return found


def _flat(plan: Plan) -> Iterator[str]:
    """Yield the fields of the target's config, those of nested ones by their dotted names."""
    for name, value in plan.target_config.items():
        if name in plan.architecture.nested and isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in value)
        else:
            yield name


def explain(plan: Plan) -> str:
    """Return the plan as text for a terminal."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    before, after = plan.num_parameters()
    name = plan.source.location or plan.architecture.name
    yield f"{name} ({plan.architecture.name}): {_count(before)} -> {_count(after)} parameters (× {after / before:.2f})"
    yield ""
    rows = [(c.field, _short(c.before), _short(c.after), c.why) for c in changes(plan)]
    if not rows:
        yield "Nothing grows: the target is a copy of the source."
        return
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for field, old, new, why in rows:
        yield f"  {field:<{widths[0]}}  {old:>{widths[1]}} -> {new:<{widths[2]}}  {why}".rstrip()
    if plan.notes:
        yield ""
        yield from (f"  note: {note}" for note in plan.notes)
    yield ""
    yield "What becomes of the weights:"
    yield from (f"  {line}" for line in steps(plan))
    yield ""
    yield f"Free blocks: {plan.init.name}, seed {plan.init.seed}, standard deviation {plan.init.std:g}."


def steps(plan: Plan) -> Iterator[str]:
    """Yield what becomes of every kind of tensor, one line each; what is carried bit by bit has none."""
    arrows = plan.architecture.arrows
    for axis in plan.architecture.index_axes:
        new = {key: [i for i, at in enumerate(m.array()) if at < 0] for key, m in plan.axis_maps[axis].items()}
        for key, positions in new.items():
            if positions:
                where = f" of {axis} {key}" if key else ""
                copied = [plan.templates[axis][key][p] for p in positions]
                start = "fresh" if all(c < 0 for c in copied) else f"copies of {_list(copied)}"
                yield f"new {axis}s{where} at {_list(positions)}: {start}; what they write to the stream is zero"
    described = set()
    for name, arrow in arrows.items():
        for suffix in ("weight", "bias"):
            template = f"{name}.{suffix}" if arrow.kind != "parameter" else name
            if template not in plan.source.templates or template in described:
                continue
            described.add(template)
            text = _tensor(plan, template)
            if text:
                yield f"{template}: {text}"


def _tensor(plan: Plan, template: str) -> str:
    """Describe the blocks of a template's first old instance."""
    from growformer.planning.blocks import Affine, Constant, Fill, Mean, Sum, length
    from growformer.planning.rules import tensor_plan

    spec = plan.architecture.tensors[template]
    index = next((i for i in plan.architecture.instances_of(spec, plan.target_sizes) if not plan.is_new(i)), None)
    if index is None:
        return ""
    parts: list[str] = []
    planned = tensor_plan(plan, spec, index)
    for block in planned.blocks:
        size = " × ".join(str(length(i)) for i in block.region)
        value = block.value
        if isinstance(value, Affine):
            shown = "source" if value.is_copy else f"source × {float(value.scale):.6g}"
            if not value.scale.is_one():
                shown += f" ({value.scale})"
        elif isinstance(value, Sum):
            shown = f"source × {float(value.parts[0].scale):.6g} with cancelling noise"  # type: ignore[union-attr]
        elif isinstance(value, Mean):
            shown = "mean of the source"
        elif isinstance(value, Constant):
            shown = f"{value.value:g}" if value.value else "zero"
        else:
            assert isinstance(value, Fill)
            shown = "free"
        parts.append(f"[{size}] {shown}")
    return "" if len(parts) == 1 and parts[0].endswith("] source") else " · ".join(parts)


def _count(number: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return str(number)


def _short(value: object) -> str:
    if isinstance(value, list):
        distinct = list(dict.fromkeys(map(str, value)))
        return f"{len(value)} entries" + (f" of {distinct[0]}" if len(distinct) == 1 else "")
    if isinstance(value, dict):
        theta = value.get("rope_theta")
        return f"theta {theta:.8g}" if theta is not None else "…"
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def _list(values: list[int]) -> str:
    return ", ".join(map(str, values)) if len(values) <= 8 else f"{', '.join(map(str, values[:7]))}, … {values[-1]}"
