"""The arrow language: ``"normed -> q:(kv_heads group key)"``.

An arrow says which vector a weight reads and which it writes. Either side is a *term*:

    stream                        a space with one axis of the same name
    q:(kv_heads group key)        a space ``q`` whose axes are flattened in this order, last fastest
    ([q:- k:- v:-] heads key)     a concatenation; each labelled part is a space of its own, here
                                  q:(heads key), k:(heads key) and v:(heads key)
    (heads [q:key k:key v:value]) the same spaces in another memory order
    [mlp:mlp mlp:mlp]             twice the same space: the halves meet coordinate by coordinate (a gated MLP)
    q                             a space that another arrow spells out
    "-> mlp"                      nothing on the left: a bare parameter, or a bias

``-`` is an axis of size one. ``parse_arrow`` and ``str`` are inverse to each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from growformer.errors import ArchitectureError

UNIT = "-"
_TOKEN = re.compile(r"\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*|-(?!>))|(?P<mark>->|[()\[\]:]))")


@dataclass(frozen=True, slots=True)
class Axis:
    """A named axis, or the name of a space that another arrow spells out."""

    name: str
    label: str | None = None

    def __str__(self) -> str:
        return f"{self.label}:{self.name}" if self.label else self.name


@dataclass(frozen=True, slots=True)
class Product:
    """Axes flattened into one dimension in memory order, the last one fastest."""

    parts: tuple[Term, ...]
    label: str | None = None

    def __str__(self) -> str:
        text = f"({' '.join(map(str, self.parts))})"
        return f"{self.label}:{text}" if self.label else text


@dataclass(frozen=True, slots=True)
class Concat:
    """Parts that lie one after the other in one dimension."""

    parts: tuple[Term, ...]
    label: str | None = None

    def __str__(self) -> str:
        text = f"[{' '.join(map(str, self.parts))}]"
        return f"{self.label}:{text}" if self.label else text


Term = Axis | Product | Concat


@dataclass(frozen=True, slots=True)
class Leaf:
    """One space inside a flattened dimension.

    Attributes:
        space: the space's name, or None where the term does not name one.
        axes: its axes, in memory order of this dimension.
        positions: integer array, one entry per coordinate of the space (shape: the axes' sizes): where that
            coordinate lies in the flattened dimension.
    """

    space: str | None
    axes: tuple[str, ...]
    positions: npt.NDArray[np.int64]


def parse_arrow(text: str) -> tuple[Term | None, Term]:
    """Parse ``"source -> target"`` into its two terms; the source may be empty.

    Raises:
        ArchitectureError: with a caret under the first character that does not fit.
    """
    return _Parser(text).arrow()


def parse_term(text: str) -> Term:
    """Parse one side of an arrow.

    Raises:
        ArchitectureError: with a caret under the first character that does not fit.
    """
    return _Parser(text).whole_term()


def format_arrow(source: Term | None, target: Term) -> str:
    """Print an arrow so that ``parse_arrow`` reads it back."""
    return f"{source} -> {target}" if source is not None else f"-> {target}"


def labelled_spaces(term: Term) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every space that a term spells out, with its axes."""
    for space, axes in _leaf_axes(term):
        if space is not None:
            yield space, axes


def term_axes(term: Term) -> set[str]:
    """Return the names of all axes (or spaces referred to) in a term."""
    if isinstance(term, Axis):
        return {term.name}
    return set().union(*(term_axes(part) for part in term.parts))


def flat_size(term: Term, size_of: Callable[[str], int]) -> int:
    """Return the flattened size of a term."""
    if isinstance(term, Axis):
        return 1 if term.name == UNIT else size_of(term.name)
    sizes = [flat_size(part, size_of) for part in term.parts]
    return sum(sizes) if isinstance(term, Concat) else prod(sizes)


def leaves(term: Term, size_of: Callable[[str], int]) -> tuple[int, list[Leaf]]:
    """Return the flattened size of a term and the spaces in it with their positions."""
    if isinstance(term, Axis):
        size = 1 if term.name == UNIT else size_of(term.name)
        axes = () if term.name == UNIT else (term.name,)
        shape = () if term.name == UNIT else (size,)
        return size, [Leaf(term.label, axes, np.arange(size, dtype=np.int64).reshape(shape))]
    if isinstance(term, Concat):
        offset, found = 0, []
        for part in term.parts:
            size, inner = leaves(part, size_of)
            found += [Leaf(leaf.space, leaf.axes, leaf.positions + offset) for leaf in inner]
            offset += size
    else:
        offset, found = 1, [Leaf(None, (), np.zeros((), dtype=np.int64))]
        for part in term.parts:
            size, inner = leaves(part, size_of)
            found = [
                Leaf(
                    right.space or left.space,
                    left.axes + right.axes,
                    np.add.outer(left.positions * size, right.positions),
                )
                for left in found
                for right in inner
            ]
            offset *= size
    if term.label:
        found = [Leaf(term.label, leaf.axes, leaf.positions) for leaf in found]
    return offset, found


def _leaf_axes(term: Term) -> list[tuple[str | None, tuple[str, ...]]]:
    if isinstance(term, Axis):
        return [(term.label, () if term.name == UNIT else (term.name,))]
    found: list[tuple[str | None, tuple[str, ...]]] = [(None, ())]
    if isinstance(term, Concat):
        found = [leaf for part in term.parts for leaf in _leaf_axes(part)]
    else:
        for part in term.parts:
            found = [(b or a, x + y) for a, x in found for b, y in _leaf_axes(part)]
    return [(term.label, axes) for _, axes in found] if term.label else found


def _labels(term: Term) -> list[str]:
    if term.label:
        return [term.label]
    return [] if isinstance(term, Axis) else [label for part in term.parts for label in _labels(part)]


def _ambiguity(term: Product | Concat) -> str | None:
    """Return why the spaces of a term cannot be told apart, or None."""
    named = [part for part in term.parts if _labels(part)]
    if term.label and named:
        return f"{term.label!r} names the whole, so no part can have a name ({named[0]})"
    if isinstance(term, Product) and len(named) > 1:
        return f"two factors of one product have names ({named[0]} and {named[1]})"
    spelled: dict[str, list[tuple[str, ...]]] = {}
    for part in named:
        inside: dict[str, list[tuple[str, ...]]] = {}
        for label, axes in _leaf_axes(part):
            if label is not None:
                inside.setdefault(label, []).append(axes)
        for label, found in inside.items():
            if spelled.setdefault(label, found) != found:
                return f"the space {label!r} occurs twice with different axes"
    for _, axes in _leaf_axes(term):
        if len(set(axes)) < len(axes):
            return f"an axis occurs twice in one product ({' '.join(axes)})"
    return None


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, int]] = []
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                start = position + len(text[position:]) - len(text[position:].lstrip())
                raise self.error(start, f"unexpected character {text[start]!r}")
            self.tokens.append((match.group("name") or match.group("mark"), match.end()))
            position = match.end()
        self.next = 0

    def error(self, position: int, what: str) -> ArchitectureError:
        return ArchitectureError(f"cannot parse an arrow: {what}\n    {self.text}\n    {' ' * position}^")

    def peek(self) -> str | None:
        return self.tokens[self.next][0] if self.next < len(self.tokens) else None

    def where(self) -> int:
        if self.next == len(self.tokens):
            return len(self.text.rstrip())
        token, end = self.tokens[self.next]
        return end - len(token)

    def take(self, expected: str) -> None:
        if self.peek() != expected:
            found = self.peek()
            what = f"expected {expected!r}, found {found!r}" if found else f"expected {expected!r} before the end"
            raise self.error(self.where(), what)
        self.next += 1

    def arrow(self) -> tuple[Term | None, Term]:
        source = None if self.peek() == "->" else self.term()
        self.take("->")
        target = self.whole_term()
        return source, target

    def whole_term(self) -> Term:
        term = self.term()
        if self.peek() is not None:
            raise self.error(self.where(), f"unexpected {self.peek()!r} after the end of the term")
        return term

    def term(self) -> Term:
        token = self.peek()
        if token in ("(", "["):
            return self.group(None)
        if token is None or not re.fullmatch(r"\w+|-", token):
            raise self.error(self.where(), "expected a name, '(' or '['" + (f", found {token!r}" if token else ""))
        start = self.where()
        self.next += 1
        if self.peek() != ":":
            return Axis(token)
        if token == UNIT:
            raise self.error(start, f"{UNIT!r} is an axis of size one and cannot name a space")
        self.next += 1
        following = self.peek()
        if following in ("(", "["):
            return self.group(token)
        if following is None or not re.fullmatch(r"\w+|-", following):
            raise self.error(self.where(), f"expected an axis, '(' or '[' after '{token}:'")
        self.next += 1
        return Axis(following, token)

    def group(self, label: str | None) -> Term:
        opening = self.peek()
        start = self.where()
        closing = ")" if opening == "(" else "]"
        self.next += 1
        parts: list[Term] = []
        while self.peek() not in (")", "]", None, "->"):
            parts.append(self.term())
        if not parts:
            raise self.error(start, f"an empty {opening}{closing}")
        self.take(closing)
        term = Product(tuple(parts), label) if opening == "(" else Concat(tuple(parts), label)
        problem = _ambiguity(term)
        if problem:
            raise self.error(start, problem)
        return term
