"""The section on weights: a card per kind of tensor, in groups by where it stands in the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from growformer.reporting.blocks import KINDS, Variant, instances_in_words, plural
from growformer.reporting.matrix_picture import (
    MEANINGS,
    NAMES,
    Drawn,
    axes_in_words,
    can_draw,
    draw,
    drawn_dims,
    scale_of,
)
from growformer.reporting.numbers import share, whole
from growformer.reporting.schematic import Section
from growformer.reporting.subject import Subject


@dataclass(frozen=True, slots=True)
class Making:
    """One making of a kind of tensor: which instances, their picture, and in words how new ones start."""

    where: str
    shape: str
    drawn: Drawn
    note: str


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of tensor."""

    name: str
    template: str
    axes: str
    makings: tuple[Making, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Cards that stand together."""

    name: str
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the legend: kind, its name, what it means, how many values have it."""

    kind: str
    name: str
    meaning: str
    number: str
    share: str


@dataclass(frozen=True, slots=True)
class Weights:
    """The section.

    Attributes:
        legend: kinds that occur.
        groups: cards.
        unchanged: tensors without a picture: name, shape, how many, why.
    """

    legend: tuple[Entry, ...]
    groups: tuple[Group, ...]
    unchanged: tuple[tuple[str, str, str, str], ...]


def weights(subject: Subject, sections: Sequence[Section]) -> Weights:
    """Return what the page shows of a growth's tensors."""
    total, rounded = sum(subject.entries.values()), subject.rounded_to
    legend = tuple(
        Entry(kind, NAMES[kind] if kind != "zero" else "zero", _meaning(kind, rounded), whole(n), share(n, total))
        for kind in KINDS
        if (n := subject.entries.get(kind, 0))
    )
    places = _places(sections)
    groups: dict[str, list[Card]] = {}
    unchanged = []
    for template, made in subject.variants.items():
        spec = made[0].spec
        shown = [v for v in made if can_draw(v)]
        if (
            not shown
            or subject.rec.architecture.arrows[spec.owner].kind == "carried"
            or all(v.is_unchanged for v in made)
        ):
            kept = f"the source's, rounded to {rounded}" if rounded else "the source's, bit for bit"
            why = kept if all(v.is_unchanged for v in made) else "no growth touches it"
            count = sum(len(v.instances) for v in made)
            unchanged.append((template, _shape(made[0].shape), whole(count), why))
            continue
        makings = tuple(_making(subject, v, scale_of(shown)) for v in shown)
        name = places.get(
            spec.owner, "Norms" if subject.rec.architecture.arrows[spec.owner].kind == "norm" else "Others"
        )
        groups.setdefault(name, []).append(Card(_short(template), template, _axes(shown[0]), makings))
    return Weights(legend, tuple(Group(n, tuple(cards)) for n, cards in groups.items()), tuple(unchanged))


def _meaning(kind: str, rounded: str | None) -> str:
    return f"the source's values, rounded to {rounded}" if kind == "copy" and rounded else MEANINGS[kind]


def _places(sections: Sequence[Section]) -> dict[str, str]:
    """Return module -> the name of its group."""
    loops = [s for s in sections if s.axis is not None]
    found = {}
    for section in sections:
        for part in section.parts:
            if section.axis is None:
                name = "Norms" if part.kind == "norm" else "Embeddings and heads"
            else:
                name = part.title if part.kind != "norm" else "Norms"
                if len(loops) > 1:
                    side = section.axis.replace("_", " ").removesuffix(" layer")
                    name = f"{side.capitalize()}: {name if part.kind != 'norm' else 'norms'}"
            found.update(dict.fromkeys(part.modules, name))
    return found


def _short(template: str) -> str:
    """Return a name without the part that numbers it: ``self_attn.q_proj.weight``."""
    return template.rsplit("}.", 1)[-1] if "}." in template else template


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{n:,}" for n in shape) if shape else "1"


def _axes(variant: Variant) -> str:
    dims = variant.spec.dims
    drawn = drawn_dims(variant)
    words = []
    for number, d in enumerate(drawn):
        side = ("rows" if number == 0 else "columns") if len(drawn) == 2 else "along"
        verb = {"write": "write", "read": "read", "gain": "of", "offset": "of"}.get(dims[d].role, dims[d].role)
        words.append(f"{side} {verb} {axes_in_words(dims[d])}" if len(drawn) == 2 else axes_in_words(dims[d]))
    rest = [d for d in range(len(dims)) if d not in drawn and variant.shape[d] > 1]
    if rest:
        words.append(f"each square a window of {_shape(tuple(variant.shape[d] for d in rest))}")
    return ", ".join(words)


def _making(subject: Subject, variant: Variant, scale: float) -> Making:
    rec, spec = subject.rec, variant.spec
    where = instances_in_words(rec, variant)
    if spec.index:
        outer = spec.index[0]
        total = {i[outer] for i in rec.instances(spec.index[:1]) if rec.is_new(i) == variant.is_new}
        mine = {i[outer] for i in variant.instances}
        number = len(mine)
        word = plural(outer, number)
        if mine == total:
            where = f"all {number} new {word}" if variant.is_new else f"all {number} {word} of the source"
            if number == 1:
                where = f"the new {word} {min(mine)}" if variant.is_new else f"the {word} of the source"
        if len(spec.index) > 1 and mine == total:
            each = len(variant.instances) // max(number, 1)
            where += f", {each} {plural(spec.index[-1], each)} each"
    before = f"{_shape(variant.source_shape)} → " if variant.source_shape not in (None, variant.shape) else ""
    label = f"{spec.template}{f', {where}' if where else ''}: {_in_words(variant)}"
    return Making(where, before + _shape(variant.shape), draw(variant, scale, label), _starts(subject, variant))


def _in_words(variant: Variant) -> str:
    parts = [
        f"{share(n, variant.size)} {'source' if kind == 'copy' else kind}" for kind, n in variant.entries.most_common()
    ]
    return f"{_shape(variant.shape)}, {', '.join(parts)}"


def _starts(subject: Subject, variant: Variant) -> str:
    """Return how the free blocks of new layers start."""
    if not variant.is_new or not variant.spec.index or "free" not in variant.entries:
        return ""
    copied = subject.depth.get(variant.spec.index[0])
    if copied is None or subject.basis == "inferred":
        return ""
    starts = {copied[1][i[variant.spec.index[0]]] >= 0 for i in variant.instances}
    if starts == {True}:
        return "what is free starts as a copy of a neighbour"
    return "what is free starts fresh" if starts == {False} else "some start as copies, some fresh"


__all__ = ["Card", "Entry", "Group", "Making", "Weights", "weights"]
