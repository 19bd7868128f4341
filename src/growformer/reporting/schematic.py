"""What a model looks like from afar, for any family: its streams, and the branches that read and write them.

Derived from the declaration's arrows alone. Arrows that share a vector of their own layer belong to one branch; a
branch in which queries meet keys is attention, one with numbered parts has experts, any other is an MLP. What a norm
makes of a stream separates branches, as streams do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from growformer.architecture.arrows import Arrow
from growformer.architecture.declaration import space_of, spaces_in
from growformer.architecture.exact import compute
from growformer.architecture.facts import Attention
from growformer.errors import ArchitectureError
from growformer.verification.recorded import Recorded


@dataclass(frozen=True, slots=True)
class Size:
    """One size before and after; 0 where that side has none, text where it differs from layer to layer."""

    name: str
    before: int | str
    after: int | str


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of one attention.

    Attributes:
        before: how many the source has.
        is_new: for every head of the target whether it is new, in order.
        group: heads that share their keys and values, before and after.
    """

    before: int
    is_new: tuple[bool, ...]
    group: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """One box of the diagram.

    Attributes:
        kind: ``attention``, ``mlp``, ``experts``, ``norm`` (on the stream), ``table`` (embeddings, heads), ``aside`` (a
            table that attention reads, and no stream), ``other``.
        title: in words.
        norm: the norm in front of it, in words.
        sizes: what it has.
        modules: their names in the declaration.
        heads: of attention.
        notes: before and after: where it is, if not in all layers, and what else to know.
    """

    kind: str
    title: str
    norm: str = ""
    sizes: tuple[Size, ...] = ()
    modules: tuple[str, ...] = ()
    heads: Heads | None = None
    notes: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Section:
    """Parts one after the other.

    Attributes:
        axis: the axis that numbers its repetitions; None: it is there once.
        count: repetitions before and after.
        stream: the size of what flows through.
        parts: its boxes.
    """

    axis: str | None
    count: tuple[int, int]
    stream: Size
    parts: tuple[Part, ...]


def schematic(rec: Recorded) -> list[Section]:
    """Return a model's sections in order of execution."""
    groups: list[tuple[str | None, dict[str, Arrow]]] = []
    for name, arrow in rec.arrows.items():
        outer = next(iter(rec.index_of(name)), None)
        known = next((g for axis, g in groups if axis == outer), None) if outer is not None else None
        if known is None and groups and groups[-1][0] is None and outer is None:
            known = groups[-1][1]
        if known is None:
            known = {}
            groups.append((outer, known))
        known[name] = arrow
    found, stream = [], Size("stream", 0, 0)
    for axis, arrows in groups:
        if axis is None:
            parts = tuple(_single(rec, name, arrow) for name, arrow in arrows.items())
            found.append(Section(None, (1, 1), stream, _merged(parts)))
            continue
        before, after = (rec.architecture.size(axis, c) for c in (rec.source_config, rec.target_config))
        stream = _stream(rec, arrows) or stream
        found.append(Section(axis, (before, after), stream, tuple(_branches(rec, arrows))))
    widths = [s.stream for s in found if s.stream.after]
    return [
        s if s.stream.after or not widths else Section(s.axis, s.count, widths[0], s.parts) for s in found if s.parts
    ]


# What is there once.


def _single(rec: Recorded, name: str, arrow: Arrow) -> Part:
    short = name.rsplit(".", 1)[-1] if "." in name else name
    if arrow.kind in ("norm", "scale"):
        return Part("norm", _norm_name(arrow), modules=(name,))
    per_head = {space for c in rec.architecture.attention for space in c.per_head}
    kind = "aside" if set(spaces_in(arrow.target)) <= per_head else "table"
    ends = [s for term in (arrow.source, arrow.target) if term is not None for s in _term_sizes(rec, term, {})]
    return Part(kind, short.replace("_", " "), sizes=tuple(ends), modules=(name,))


def _merged(parts: tuple[Part, ...], limit: int = 5) -> tuple[Part, ...]:
    """Return boxes, with those after the first few in one."""
    if len(parts) <= limit:
        return parts
    rest = parts[limit - 1 :]
    modules = tuple(m for part in rest for m in part.modules)
    return (*parts[: limit - 1], Part("other", f"{len(rest)} more modules", modules=modules))


def _norm_name(arrow: Arrow) -> str:
    if arrow.kind == "scale":
        return "LayerScale"
    return "LayerNorm" if arrow.centred else "RMSNorm"


# A layer.


@dataclass(slots=True)
class _Branch:
    arrows: dict[str, Arrow] = field(default_factory=dict)
    contractions: list[Attention] = field(default_factory=list)


def _branches(rec: Recorded, arrows: Mapping[str, Arrow]) -> Iterable[Part]:
    spaces = rec.architecture.spaces
    shared = {name for name, space in spaces.items() if not space.index}
    in_front = {n: a for n, a in arrows.items() if a.kind == "norm" and space_of(a.source) in shared}
    norms = {space_of(a.target): a for a in in_front.values() if space_of(a.target) not in shared}
    cut = shared | set(norms)
    branches: list[_Branch] = []
    order: dict[str, Part | _Branch] = {}
    for name, arrow in arrows.items():
        if name in in_front:
            if space_of(arrow.target) in shared:
                order[name] = Part("norm", f"{_norm_name(arrow)} on the sum", modules=(name,))
            continue
        branch = _Branch({name: arrow})
        branches.append(branch)
        order[name] = branch
    ties = [set(c.spaces) for c in rec.architecture.attention]
    joined = _joined(branches, cut, ties)
    for c in rec.architecture.attention:
        for branch in joined:
            if set(c.queries) & _spaces(branch):
                branch.contractions.append(c)
    firsts = {next(iter(b.arrows)): b for b in joined}
    has_experts = any(len(rec.index_of(n)) > 1 for n in arrows)
    written = {s for c in rec.architecture.attention for s in c.spaces} | shared
    last_norm = ""
    for name, entry in order.items():
        if isinstance(entry, Part):
            yield entry
            continue
        found = firsts.get(name)
        if found is None:
            continue
        reads = [norms[s] for a in found.arrows.values() for s in _sources(a) if s in norms]
        norm = _norm_name(reads[0]) if reads else ""
        targets = {s for a in found.arrows.values() for s in spaces_in(a.target)}
        if has_experts and not targets & written and not found.contractions:
            continue  # the router; it is named with its experts
        same = bool(reads) and norm != "" and str(reads[0]) == last_norm
        last_norm = str(reads[0]) if reads else ""
        yield _branch(rec, found, f"the same {norm}" if same else norm, cut, arrows)


def _sources(arrow: Arrow) -> list[str]:
    return list(spaces_in(arrow.source)) if arrow.source is not None else []


def _spaces(branch: _Branch) -> set[str]:
    return {s for a in branch.arrows.values() for s in (*_sources(a), *spaces_in(a.target))}


def _joined(branches: list[_Branch], cut: set[str], ties: list[set[str]]) -> list[_Branch]:
    """Return branches with those together that share a vector, or whose vectors meet in a contraction."""
    left = list(branches)
    found: list[_Branch] = []
    while left:
        branch = left.pop(0)
        while True:
            own = _spaces(branch) - cut
            own |= {s for tie in ties if tie & own for s in tie}
            more = [other for other in left if (_spaces(other) - cut) & own]
            if not more:
                break
            for other in more:
                branch.arrows.update(other.arrows)
                left.remove(other)
        found.append(branch)
    return found


def _branch(rec: Recorded, branch: _Branch, norm: str, cut: set[str], layer: Mapping[str, Arrow]) -> Part:
    modules = tuple(branch.arrows)
    inner = {_norm_name(a) for n, a in branch.arrows.items() if a.kind == "norm"}
    more = [f"{' and '.join(sorted(inner))} inside"] if inner else []
    index = _first(rec, modules[0])
    if branch.contractions:
        c = branch.contractions[0]
        elsewhere = _reads(branch, c.keys, cut)
        crosses = not elsewhere & _reads(branch, c.queries, cut)
        sizes, heads = _attention(rec, c, index)
        if crosses:
            more += [f"reads {space}" for space in sorted(elsewhere)]
        return Part(
            "attention",
            "Cross-attention" if crosses else "Attention",
            norm,
            sizes,
            modules,
            heads,
            _notes(rec, modules[0], more),
        )
    notes = _notes(rec, modules[0], more)
    local = [s for s in dict.fromkeys(x for a in branch.arrows.values() for x in spaces_in(a.target)) if s not in cut]
    gated = any(
        sum(s in set(spaces_in(a.target)) for a in branch.arrows.values() if a.kind.startswith("linear")) > 1
        for s in local
    )
    widths = [_space_size(rec, s, _first(rec, _writer(branch, s)), _label(s)) for s in local[:2]]
    numbered = next((rec.index_of(n)[-1] for n in modules if len(rec.index_of(n)) > 1), None)
    if numbered is not None:
        count = _size(rec, numbered, index, numbered.replace("_", " ") + "s")
        active = rec.architecture.active.get(numbered)
        used = [] if active is None else [Size("per token", *(_number(active, c) for c in _configs(rec)))]
        return Part("experts", "Experts", norm, (count, *used, *widths), modules, None, notes)
    title = "Gated MLP" if gated else "MLP"
    if "shared" in modules[0]:
        title = "Shared expert"
    if not any(set(spaces_in(a.target)) & cut for a in branch.arrows.values()):
        return Part("other", modules[0].rsplit(".", 1)[-1].replace("_", " "), norm, tuple(widths), modules, None, notes)
    return Part("mlp", title, norm, tuple(widths), modules, None, notes)


def _label(space: str) -> str:
    return "width" if space.endswith("mlp") else space.replace("_", " ")


def _writer(branch: _Branch, space: str) -> str:
    return next(n for n, a in branch.arrows.items() if space in set(spaces_in(a.target)))


def _reads(branch: _Branch, spaces: Iterable[str], cut: set[str]) -> set[str]:
    """Return which streams, or norms of them, some vectors of a branch are made from."""
    pending, seen, found = list(spaces), set[str](), set[str]()
    while pending:
        space = pending.pop()
        if space in seen:
            continue
        seen.add(space)
        for arrow in branch.arrows.values():
            if space in set(spaces_in(arrow.target)):
                for source in _sources(arrow):
                    (found.add if source in cut else pending.append)(source)
    return found


def _attention(rec: Recorded, c: Attention, index: Mapping[str, int]) -> tuple[tuple[Size, ...], Heads | None]:
    spaces = rec.architecture.spaces
    query, key, value = (spaces[s] for s in (c.queries[0], c.keys[0], c.value))
    heads = [a for a in query.axes if a not in c.over]
    shared = [a for a in (*key.axes, *value.axes) if a not in c.over and a in heads]
    shared = list(dict.fromkeys(shared))
    width = [
        sum(prod(_both(rec, a, index)[side] for a in spaces[q].axes if a in c.over) for q in c.queries)
        for side in (0, 1)
    ]
    values = [prod(_both(rec, a, index)[side] for a in value.axes if a not in heads) for side in (0, 1)]
    counts = [prod(_both(rec, a, index)[side] for a in heads) for side in (0, 1)]
    pairs = [prod(_both(rec, a, index)[side] for a in shared) for side in (0, 1)]
    sizes = [Size("heads", counts[0], counts[1])]
    if shared and pairs != counts:
        sizes.append(Size("kv heads", pairs[0], pairs[1]))
    if width == values:
        sizes.append(Size("head size", width[0], width[1]))
    else:
        sizes += [Size("key size", width[0], width[1]), Size("value size", values[0], values[1])]
    flags = np.zeros((1,), dtype=bool)
    for axis in heads:
        new = rec.along(axis, index).source < 0
        flags = (flags[:, None] | new[None, :]).reshape(-1)
    group = tuple(n // p if p and n % p == 0 else 1 for n, p in zip(counts, pairs, strict=True)) if shared else (1, 1)
    return tuple(sizes), Heads(counts[0], tuple(flags.tolist()), (group[0], group[1])) if heads else None


# Sizes.


def _configs(rec: Recorded) -> tuple[Mapping[str, object], Mapping[str, object]]:
    return rec.source_config, rec.target_config


def _number(expression: str, config: Mapping[str, object]) -> int | str:
    try:
        return int(compute(expression, config))
    except (ArchitectureError, TypeError, ValueError):
        return "?"


def _first(rec: Recorded, module: str) -> dict[str, int]:
    """Return a module's first instance that comes from the source; any, where all are new."""
    instances = list(rec.instances_of(module))
    return next((i for i in instances if not rec.is_new(i)), instances[0] if instances else {})


def _both(rec: Recorded, axis: str, index: Mapping[str, int]) -> tuple[int, int]:
    if rec.is_new(index):
        return 0, rec.target_size(axis, index)
    return rec.sizes(axis, index)


def _size(rec: Recorded, axis: str, index: Mapping[str, int], name: str) -> Size:
    if not rec.size_indices[axis]:
        return Size(name, *_both(rec, axis, index))
    pairs = [rec.sizes(axis, i) for i in rec.sources(rec.size_indices[axis])]
    spans = [sorted({pair[side] for pair in pairs}) for side in (0, 1)]
    before, after = (s[0] if len(s) == 1 else f"{s[0]}–{s[-1]}" if s else 0 for s in spans)
    return Size(name, before, after)


def _space_size(rec: Recorded, space: str, index: Mapping[str, int], name: str) -> Size:
    axes = rec.architecture.spaces[space].axes
    if len(axes) == 1:
        return _size(rec, axes[0], index, name)
    before, after = (prod(_both(rec, a, index)[side] for a in axes) for side in (0, 1))
    return Size(name, before, after)


def _term_sizes(rec: Recorded, term: object, index: Mapping[str, int]) -> Iterable[Size]:
    for space in dict.fromkeys(spaces_in(term)):  # type: ignore[arg-type]
        if rec.architecture.spaces[space].axes:
            axes = rec.architecture.spaces[space].axes
            yield _space_size(rec, space, index, axes[0] if len(axes) == 1 else space)


def _stream(rec: Recorded, arrows: Mapping[str, Arrow]) -> Size | None:
    """Return the size of the vector that layers read and write."""
    spaces = rec.architecture.spaces
    written = [s for a in arrows.values() for s in spaces_in(a.target) if not spaces[s].index]
    if not written:
        return None
    most = max(dict.fromkeys(written), key=written.count)
    return _space_size(rec, most, {}, most.replace("_", " "))


def _notes(rec: Recorded, module: str, more: list[str]) -> tuple[str, str]:
    """Return in how many layers a module is, if not in all, before and after, with what else there is to say."""
    outer = rec.index_of(module)[0]
    there = list(rec.instances_of(module))
    old = {rec.origin(i)[outer] for i in there if not rec.is_new(i)}
    found = []
    for numbers, config in ((old, rec.source_config), ({i[outer] for i in there}, rec.target_config)):
        total = rec.architecture.size(outer, config)
        where = [] if len(numbers) == total else [f"in {len(numbers)} of {total}"]
        found.append("; ".join([*where, *more]))
    return found[0], found[1]


__all__ = ["Heads", "Part", "Section", "Size", "schematic"]
