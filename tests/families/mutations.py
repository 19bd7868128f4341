"""Wrong declarations: everything that is easily got wrong in a family file, one mistake at a time."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.families.case import Case
from tests.families.checks import moves_frequencies
from tests.families.growths import INIT, growths_of

import growformer
from growformer.architecture.declaration import Architecture, Arrow, Kind, Space, space_of, spaces_in
from growformer.architecture.exact import evaluate_size
from growformer.architecture.language import Axis, Concat, Product, Term, labelled_spaces, term_axes
from growformer.errors import ArchitectureError
from growformer.verification.oracles import iterate_equivariance, iterate_problems
from growformer.verification.outputs import compare_outputs


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One mistake.

    Attributes:
        kind: what sort of mistake.
        arrow: the arrow that is wrong, or None.
        axis: the axis whose size is wrong, or None.
        spaces: the right and the wrong space, where one stands for the other.
        instead: the config field that is taken for the size, where the right one takes it too unless it is missing.
        name: what is wrong, for the message.
        make: gives the wrong declaration; may raise ArchitectureError.
    """

    kind: str
    name: str
    arrow: str | None = None
    axis: str | None = None
    spaces: frozenset[str] = frozenset()
    instead: str | None = None
    make: Callable[[], Architecture]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def mutations(architecture: Architecture, config: dict[str, Any]) -> Iterator[Mutation]:
    """Yield wrong versions of a declaration; ``config`` is resolved and tells which axes are equally large."""
    for name, arrow in architecture.arrows.items():
        if arrow.kind == "carried":
            continue
        for kind, changed in _arrows(architecture, name, arrow, config):
            yield Mutation(
                kind=kind,
                name=f"{name}: {_shown(changed, arrow)}",
                arrow=name,
                spaces=_spaces(arrow) ^ _spaces(changed) if kind == "space" else frozenset(),
                make=lambda n=name, c=changed: replace(architecture, arrows={**architecture.arrows, n: c}),
            )
        others = {n: a for n, a in architecture.arrows.items() if n != name}
        yield Mutation(kind="missing", name=name, arrow=name, make=lambda a=others: replace(architecture, arrows=a))
    yield from _facts(architecture, config)


def _spaces(arrow: Arrow) -> frozenset[str]:
    """Return the spaces that an arrow names; a table may be of axes alone, such as ``(heads value)``."""
    terms = [term for term in (arrow.source, arrow.target, arrow.otherwise) if term is not None]
    return frozenset(space for term in terms if not _names_axes_alone(term) for space in spaces_in(term))


def _names_axes_alone(term: Term) -> bool:
    return not isinstance(term, Axis) and not any(True for _ in labelled_spaces(term))


def _shown(changed: Arrow, arrow: Arrow) -> str:
    facts = [
        f"{n}={getattr(changed, n)}"
        for n in ("kind", "bias", "when", "optional", "centred", "offset", "eps", "over")
        if getattr(changed, n) != getattr(arrow, n)
    ]
    return ", ".join([str(changed), *facts])


def _arrows(architecture: Architecture, name: str, arrow: Arrow, config: dict[str, Any]) -> Iterator[tuple[str, Arrow]]:
    for side in ("source", "target", "over"):
        term: Term | None = getattr(arrow, side)
        if term is None:
            continue
        for other in (o for o in _reordered(term) if o != term):  # the same twice has no order
            yield "order", replace(arrow, **{side: other})
        if side != "over":
            for other in _respaced(term, architecture.spaces):
                yield "space", replace(arrow, **{side: other})
        for other in _resized(term, architecture, config):
            yield "axis", replace(arrow, **{side: other})
    if arrow.kind == "norm":
        yield "norm", replace(arrow, centred=not arrow.centred)
        yield "norm", replace(arrow, offset=1 - arrow.offset)
        if arrow.over is not None and term_axes(arrow.over) != {*architecture.spaces[space_of(arrow.source)].axes}:
            yield "norm", replace(arrow, over=None)  # over nothing named is over all
        if isinstance(arrow.eps, str):
            yield "norm", replace(arrow, eps=float(config[arrow.eps]))
        yield "norm", replace(arrow, eps=1e-3)
    elif arrow.kind in ("linear", "linear_transposed", "embedding"):
        yield "bias", replace(arrow, bias=not arrow.bias)
        kinds: tuple[Kind, ...] = ("linear", "linear_transposed", "embedding")
        for kind in kinds:
            # A table whose rows are looked up is stored like a matrix that reads them, and grows alike.
            if kind != arrow.kind and (arrow.kind, kind) != ("embedding", "linear_transposed"):
                yield "kind", replace(arrow, kind=kind)
    elif arrow.kind == "parameter":
        yield "kind", replace(arrow, source=Axis("-"), kind="linear", bare=False)


def _reordered(term: Term) -> Iterator[Term]:
    """Yield a term with two parts swapped, at any depth."""
    if isinstance(term, Axis):
        return
    for a, b in itertools.combinations(range(len(term.parts)), 2):
        parts = list(term.parts)
        parts[a], parts[b] = parts[b], parts[a]
        yield replace(term, parts=tuple(parts))
    for position, part in enumerate(term.parts):
        for other in _reordered(part):
            yield replace(term, parts=(*term.parts[:position], other, *term.parts[position + 1 :]))


def _respaced(term: Term, spaces: dict[str, Space]) -> Iterator[Term]:
    """Yield a term with one space replaced by another one with the same axes, at any depth."""
    label = term.label or (term.name if isinstance(term, Axis) else None)
    if label in spaces:
        for other in spaces.values():
            if other.name != label and sorted(other.axes) == sorted(spaces[label].axes):
                if isinstance(term, Axis):
                    yield Axis(term.name, other.name) if term.label else Axis(other.name)
                else:
                    yield replace(term, label=other.name)
    if not isinstance(term, Axis):
        for position, part in enumerate(term.parts):
            for changed in _respaced(part, spaces):
                yield replace(term, parts=(*term.parts[:position], changed, *term.parts[position + 1 :]))


def _resized(term: Term, architecture: Architecture, config: dict[str, Any]) -> Iterator[Term]:
    """Yield a term with one axis replaced by another one, of the same size where there is one, at any depth."""
    if isinstance(term, Concat | Product):
        for position, part in enumerate(term.parts):
            for changed in _resized(part, architecture, config):
                yield replace(term, parts=(*term.parts[:position], changed, *term.parts[position + 1 :]))
        return
    sizes = architecture.sizes
    if term.name not in sizes:
        return
    if architecture.size_index(term.name):
        return
    size = _size(sizes[term.name], config)
    apart = (term.name, *architecture.index_axes)  # and an inferred size fits everything
    others = [
        s for s in sizes if s not in apart and not architecture.size_index(s) and sizes[s] not in architecture.inferred
    ]
    same = [other for other in others if _size(sizes[other], config) == size]
    for other in same or others[:1]:
        yield Axis(other, term.label or term.name)


def _size(expression: str, config: dict[str, Any]) -> int | None:
    """Return a size, or None where the config does not give it (a part that this config is without)."""
    try:
        return evaluate_size(expression, config)
    except (ArchitectureError, KeyError, TypeError):
        return None


def _facts(architecture: Architecture, config: dict[str, Any]) -> Iterator[Mutation]:
    """Yield declarations with a wrong fact outside of the arrows."""

    def wrong(kind: str, name: str, **changes: Any) -> Mutation:
        return Mutation(kind=kind, name=name, make=lambda: replace(architecture, **changes))

    for axis, expression in architecture.sizes.items():
        if architecture.size_index(axis) or axis in architecture.inferred:
            continue
        value = _size(expression, config)
        if value is None:
            continue
        wrongs = {f"{axis} is always {value}": str(value), f"{axis} = {expression} + 1": f"({expression}) + 1"}
        for field, other in config.items():
            if other == value and not isinstance(other, bool):
                wrongs[f"{axis} = {field}"] = field
        for name, size in wrongs.items():
            if size != expression:
                instead = size if expression.startswith(f"{size} or ") else None
                made = wrong("size", name, sizes={**architecture.sizes, axis: size})
                yield replace(made, axis=axis, instead=instead)
    for number, c in enumerate(architecture.attention):

        def contraction(kind: str, name: str, *, n: int = number, a: Any = c, **changes: Any) -> Mutation:
            entries = list(architecture.attention)
            entries[n] = replace(a, **changes)
            return wrong(kind, name, attention=tuple(entries))

        spaces = architecture.spaces
        for axis in c.over:
            rest = tuple(a for a in c.over if a != axis)
            yield contraction("attention", f"not over {axis}", over=rest)
        for axis in spaces[c.queries[0]].axes:
            if axis not in c.over:
                yield contraction("attention", f"over {axis} too", over=(*c.over, axis))
        for part in ("query", "key", "value", "output"):
            named = getattr(c, part)
            if not isinstance(named, str):  # several queries meet several keys: each pair on its own is a mistake
                yield contraction("attention", f"only the first {part}", query=c.queries[0], key=c.keys[0])
                continue
            here = spaces[named]
            for other in spaces.values():
                if other.name != here.name and sorted(other.axes) == sorted(here.axes):
                    yield contraction("attention", f"{part} is {other.name}", **{part: other.name})
        yield contraction("scale", f"scale {c.scale} / 2", scale=f"({c.scale}) / 2")
        yield wrong("attention", "no attention", attention=())
    for pair in architecture.adds:
        yield wrong(
            "adds", f"not {pair.source} to {pair.target}", adds=tuple(p for p in architecture.adds if p != pair)
        )
    if architecture.rotary:
        yield wrong("rotary", "no rotary", rotary=())
        for axis in dict.fromkeys(a for c in architecture.attention for a in c.over):
            if axis not in [rotary.frequency for rotary in architecture.rotary]:
                others = (replace(architecture.rotary[0], frequency=axis), *architecture.rotary[1:])
                yield wrong("rotary", f"frequencies {axis}", rotary=others)
    for head in architecture.ties:
        owner = architecture.tensors[head].owner
        ties = {k: v for k, v in architecture.ties.items() if k != head}
        yield replace(wrong("tie", f"{head} is not tied", ties=ties), arrow=owner)
        if architecture.tie_field:
            yield replace(wrong("tie", f"{head} is always tied", tie_field=None), arrow=owner)
    for name in term_names(architecture):
        yield wrong("size", f"no axis {name}", sizes={k: v for k, v in architecture.sizes.items() if k != name})


def term_names(architecture: Architecture) -> list[str]:
    """Return the axes that arrows name, in order."""
    terms = [t for a in architecture.arrows.values() for t in (a.source, a.target) if t is not None]
    return [name for name in architecture.sizes if any(name in term_axes(t) for t in terms)]


INVISIBLE = {
    "scale": "no weight shows by what a class multiplies its scores, and a constant factor cancels in every growth",
}
"""Kind of mistake -> why nothing can see it. Renaming a space everywhere is no mistake, and not tried."""
SHAPELESS = frozenset({"space", "order", "norm", "attention", "adds", "rotary"})
"""Kinds of mistake that seldom change a shape: it is quicker to run the class first."""
ALIKE = {
    r"size: expert = num_(local_)?experts": "the class takes either name for the same field",
    r"(codegen|falcon_multi_head|gpt_neox_japanese|modernbert|mpt(_clipped)?|persimmon_qk_norm): order: .*"
    r"-> [^v]*\bk\w*:.*\bq\w*:": "no group tells queries from keys, norms and rotations of them are alike, and scores "
    "are symmetric in them",
    r"codegen: order: .*\(lane \[k:.* v:.*\(lane \[q:": "queries and keys exchanged, as above",
    r"helium: size: value = head_dim": "the class works only where both are the same",
    r"electra_of_one_size: size: stream = embedding_size": "in this layout both are the same",
    r"(ctrl|nanochat|speech_to_text|whisper|xglm): space: .* -> (embedded|heard)": "it enters the stream, which grows "
    "by whole multiples, or not at all",
    r"(ctrl|speech_to_text): adds: not (embedded|heard) to": "its stream does not grow, as positions are computed",
    r"opt_projected: space: decoder\.project_in: projected -> stream": "the width of its embeddings does not grow",
    r"llama4_text: (attention: (query|key) is|adds: not) [qk]_raw": "its norms of queries and keys have no gain, and "
    "their size does not grow",
    r"(deepseek_v32|glm_moe_dsa): (order: .*indexer\.wq_b: |space: .*indexer\.wk: normed -> index_k)": "what picks "
    "tokens does not grow",
    r"jetmoe: space: .*router\.layer: ": "a router's choice goes nowhere else",
    r"(switch_transformers|nllb_moe): space: .*router\.classifier: .* -> (de|en)coder_": "a router's choice goes "
    "nowhere else",
    r"minimax_m3_sparse: attention: over kv_heads too": "its heads do not grow, as an index picks for each",
    r"minimax_m3_sparse: order: .*indexer\.q_proj: ": "what picks blocks does not grow, nor do its heads",
    r"siglip2?: axis: vision_model\.head\.probe: .*:seen": "its stream does not grow, as an image stays a direction",
    r"modernbert: space: .*(Wqkv: stream|mlp_norm: normed) -> ": "its first layer attends to the stream where "
    "others have it normed, and so both grow alike",
    r"longt5_global: space: .*\.[kv]: blocks -> ": "keys and values of blocks come from the weights of those of tokens",
    r"visual_bert: axis: .*:seen_(positions|types) -> ": "both are one field, which does not grow",
    r"(xlm|flaubert): space: .*_lin: head_input -> ": "the head reads the residual stream itself: both are one",
}
"""Pattern of ``declaration: mistake`` -> why it is seen by nothing, and does no harm: both versions grow alike."""


def is_seen(mutation: Mutation, cases: Iterable[Case]) -> bool:
    """Tell whether conformance fails with a mistake: the oracles first, then growth, with any case that shows it."""
    try:
        architecture = mutation.make()
    except ArchitectureError:
        return True
    shown = [case for case in cases if mutation.arrow is None or mutation.arrow in case.arrows]
    if mutation.kind in SHAPELESS and any(_moves_outputs(architecture, case) for case in shown):
        return True
    for case in shown:
        found = iterate_problems(architecture, case.oracle_config, case.make_model, case.oracle_inputs, **case.options)
        if next(found, None) is not None:
            return True
    return any(_grows_wrong(architecture, case) for case in shown[:1])


def _moves_outputs(architecture: Architecture, case: Case) -> bool:
    """Tell whether the class's outputs follow a change of coordinates otherwise than a declaration says."""
    options = {name: value for name, value in case.options.items() if name != "variants"}
    found = iterate_equivariance(architecture, case.oracle_config, case.make_model, case.oracle_inputs, **options)
    try:
        return next(found, None) is not None
    except Exception:  # the shapes are wrong as well; they are looked at next
        return False


def _grows_wrong(architecture: Architecture, case: Case) -> bool:
    """Tell whether what grows by the right declaration is refused, or computes something else, by a wrong one."""
    for growth in growths_of(case).accepted.values():
        source = case.source(growth.eps)
        try:
            plan = growformer.plan(source, init=INIT, architecture=architecture, **growth.request)
            larger = growformer.grow(source, plan=plan)
        except Exception:  # a wrong declaration may fail anywhere
            return True
        moved = moves_frequencies(plan)
        if not compare_outputs(source, larger, case.make_inputs(source.config), ["float32"], frequencies=moved).ok:
            return True
    return False


def is_alike(mutation: Mutation, declaration: str) -> bool:
    """Tell whether a mistake is one of those that are known to do no harm."""
    return any(re.match(pattern, text) for pattern in ALIKE for text in (str(mutation), f"{declaration}: {mutation}"))


def unseen(cases: Sequence[Case], tried: Iterable[Mutation]) -> list[str]:
    """Return the mistakes that conformance does not see, though it should."""
    name = cases[0].architecture.name
    return [str(m) for m in tried if not is_alike(m, name) and not is_seen(m, cases)]


def mutations_of(cases: Sequence[Case]) -> list[Mutation]:
    """Return the wrong versions of the declaration of some cases that these can see."""
    case, architecture = cases[0], cases[0].architecture
    # An inferred size is that of no other axis.
    config = architecture.resolve_config({**dict.fromkeys(architecture.inferred, 10_007), **case.oracle_config})
    return [m for m in mutations(architecture, config) if m.kind not in INVISIBLE and _can_be_seen(m, cases)]


def _can_be_seen(mutation: Mutation, cases: Sequence[Case]) -> bool:
    """Tell whether a case has the arrow, and what it takes to tell the right one from the wrong one."""
    shown = [case for case in cases if mutation.arrow is None or mutation.arrow in case.arrows]
    architecture = cases[0].architecture
    if mutation.kind == "tie" and mutation.name.endswith("is always tied"):  # a model that is not
        field = str(architecture.tie_field)
        shown = [c for c in shown if not architecture.resolve_config(c.oracle_config).get(field)]
    if mutation.instead:  # a model whose config is without the field
        shown = [c for c in shown if not architecture.resolve_config(c.oracle_config).get(mutation.instead)]
    if mutation.spaces:  # a model that has either elsewhere: another name for a space is no mistake
        mixed = {s for c in architecture.attention for s in c.spaces}
        mixed |= {s for add in architecture.adds for s in (add.source, add.target)}
        shown = [c for c in shown if mutation.spaces & (mixed | _spaces_beside(c, mutation.arrow))]
    # An index axis shows in names; what no tensor has (it says that something divides, or stays) shows in nothing.
    if mutation.axis is not None and mutation.axis not in architecture.index_axes:
        shown = [c for c in shown if _has_axis(c, mutation.axis)]
    return bool(shown)


def _spaces_beside(case: Case, arrow: str | None) -> set[str]:
    """Return the spaces of all other arrows that a case has."""
    return {space for name in case.arrows if name != arrow for space in _spaces(case.architecture.arrows[name])}


def _has_axis(case: Case, axis: str) -> bool:
    """Tell whether a tensor of a case has an axis."""
    arrows = [case.architecture.arrows[name] for name in case.arrows]
    terms = [t for arrow in arrows for t in (arrow.source, arrow.target, arrow.otherwise) if t is not None]
    spelled = {name for term in terms for name in term_axes(term)} | {name for a in arrows for name in a.kernel}
    spaces = {space for arrow in arrows for space in _spaces(arrow)} & case.architecture.spaces.keys()
    return axis in spelled or any(axis in case.architecture.spaces[space].axes for space in spaces)


def a_few(cases: Sequence[Case], count: int) -> list[Mutation]:
    """Return one mistake of each of several kinds; which ones depends on the declaration's name alone."""
    by_kind: dict[str, list[Mutation]] = {}
    for mutation in mutations_of(cases):
        by_kind.setdefault(mutation.kind, []).append(mutation)
    chance = random.Random(cases[0].architecture.name)
    kinds = chance.sample(sorted(by_kind), min(count, len(by_kind)))
    return [chance.choice(by_kind[kind]) for kind in kinds]
