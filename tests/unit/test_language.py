"""The arrow language: parsing and printing are inverse, errors point, and positions are those of memory."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from growformer.errors import ArchitectureError

# Terms


@st.composite
def terms(draw: st.DrawFn, depth: int = 3) -> Term:
    """Draw a term in which every axis and every space occurs once, so that it is not ambiguous."""
    axes = iter([f"a{number}" for number in range(50)])
    spaces = iter([f"s{number}" for number in range(50)])

    def term(depth: int, may_be_named: bool) -> Term:
        label = next(spaces) if may_be_named and draw(st.integers(0, 3)) == 0 else None
        shape = draw(st.sampled_from(["axis", "axis", "product", "concat"])) if depth else "axis"
        if shape == "axis":
            return Axis(UNIT if draw(st.integers(0, 4)) == 0 else next(axes), label)
        count = draw(st.integers(1, 3))
        inside = may_be_named and label is None
        if shape == "concat":
            return Concat(tuple(term(depth - 1, inside) for _ in range(count)), label)
        named = draw(st.integers(0, count - 1))
        return Product(tuple(term(depth - 1, inside and number == named) for number in range(count)), label)

    return term(depth, may_be_named=True)


@given(terms())
def test_parse_reads_what_str_writes(term: Term) -> None:
    assert parse_term(str(term)) == term


@given(terms(), st.one_of(st.none(), terms()))
def test_arrows_parse_what_format_writes(target: Term, source: Term | None) -> None:
    assert parse_arrow(format_arrow(source, target)) == (source, target)


@given(terms())
def test_white_space_does_not_matter(term: Term) -> None:
    text = str(term)
    for mark in "()[]:":
        text = text.replace(mark, f" {mark}  ")
    assert parse_term(f"  {text} ") == term


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stream", Axis("stream")),
        ("q:key", Axis("key", "q")),
        ("-", Axis("-")),
        ("q:(heads key)", Product((Axis("heads"), Axis("key")), "q")),
        ("([q:- k:-] heads)", Product((Concat((Axis("-", "q"), Axis("-", "k"))), Axis("heads")))),
        ("(a)", Product((Axis("a"),))),
    ],
)
def test_terms(text: str, expected: Term) -> None:
    assert parse_term(text) == expected


def test_a_parameter_reads_nothing() -> None:
    assert parse_arrow("-> vocab") == (None, Axis("vocab"))
    assert parse_arrow("- -> vocab") == (Axis("-"), Axis("vocab"))
    assert parse_arrow("a->b") == (Axis("a"), Axis("b"))


def test_term_axes_and_labelled_spaces() -> None:
    term = parse_term("([q:- k:-] heads [a b])")
    assert term_axes(term) == {"-", "heads", "a", "b"}
    assert list(labelled_spaces(term)) == [
        ("q", ("heads", "a")),
        ("q", ("heads", "b")),
        ("k", ("heads", "a")),
        ("k", ("heads", "b")),
    ]


# Errors


@pytest.mark.parametrize(
    ("text", "caret", "message"),
    [
        ("normed > q", 7, "unexpected character '>'"),
        ("normed -> 2q", 10, "unexpected character '2'"),
        ("a b -> c", 2, "expected '->', found 'b'"),
        ("a", 1, "expected '->' before the end"),
        ("a ->", 4, "expected a name, '(' or '['"),
        ("a -> ", 4, "expected a name, '(' or '['"),
        ("", 0, "expected a name, '(' or '['"),
        ("a -> b c", 7, "unexpected 'c' after the end of the term"),
        ("a -> b -> c", 7, "unexpected '->' after the end of the term"),
        ("a -> (b c", 9, "expected ')' before the end"),
        ("a -> (b c]", 9, "expected ')', found ']'"),
        ("(a -> b", 3, "expected ')', found '->'"),
        ("a -> []", 5, "an empty []"),
        ("a -> (b ())", 8, "an empty ()"),
        ("a -> )", 5, "expected a name, '(' or '[', found ')'"),
        ("a -> q:", 7, "expected an axis, '(' or '[' after 'q:'"),
        ("a -> q::b", 7, "expected an axis, '(' or '[' after 'q:'"),
        ("a -> q:b:c", 8, "unexpected ':' after the end of the term"),
        ("a -> -:b", 5, "'-' is an axis of size one and cannot name a space"),
        ("a -> q:(heads k:key)", 7, "'q' names the whole, so no part can have a name (k:key)"),
        ("a -> (q:heads k:key)", 5, "two factors of one product have names (q:heads and k:key)"),
        ("a -> [q:b q:c]", 5, "the space 'q' occurs twice with different axes"),
        ("a -> (b [c b])", 5, "an axis occurs twice in one product (b b)"),
    ],
)
def test_errors_point_at_the_fault(text: str, caret: int, message: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        parse_arrow(text)
    assert str(caught.value) == f"cannot parse an arrow: {message}\n    {text}\n    {' ' * caret}^"


def test_terms_have_the_same_errors() -> None:
    with pytest.raises(ArchitectureError, match=re.escape("unexpected '->' after the end of the term")):
        parse_term("a -> b")


# Positions

Coordinate = tuple[str | None, tuple[tuple[str, int], ...]]
"""A space, and (axis, index) for each of its axes."""


def enumerate_term(term: Term, size_of: Callable[[str], int]) -> list[Coordinate]:
    """Return what lies at every position of a flattened dimension, by the definition of the language."""
    found: list[Coordinate]
    if isinstance(term, Axis):
        found = [(None, ())] if term.name == UNIT else [(None, ((term.name, i),)) for i in range(size_of(term.name))]
    elif isinstance(term, Concat):
        found = [coordinate for part in term.parts for coordinate in enumerate_term(part, size_of)]
    else:
        found = []
        for combination in itertools.product(*(enumerate_term(part, size_of) for part in term.parts)):
            names = [name for name, _ in combination if name]
            found.append((names[0] if names else None, tuple(pair for _, pairs in combination for pair in pairs)))
    return [(term.label or name, pairs) for name, pairs in found]


def size_of(axis: str) -> int:
    return int(axis[1:]) % 3 + 1


@given(terms())
@settings(deadline=None)
def test_positions_are_those_of_an_enumeration(term: Term) -> None:
    expected = enumerate_term(term, size_of)
    size, found = leaves(term, size_of)
    assert size == len(expected)
    seen = []
    for leaf in found:
        assert leaf.positions.shape == tuple(map(size_of, leaf.axes))
        assert leaf.positions.dtype == np.int64
        for index in np.ndindex(leaf.positions.shape):
            position = int(leaf.positions[index])
            assert expected[position] == (leaf.space, tuple(zip(leaf.axes, index, strict=True)))
            seen.append(position)
    assert sorted(seen) == list(range(size))


SIZES = {"heads": 3, "key": 5, "value": 2, "group": 4}


def positions(text: str) -> dict[str | None, np.ndarray]:
    size, found = leaves(parse_term(text), SIZES.__getitem__)
    assert size == sum(leaf.positions.size for leaf in found)
    return {leaf.space: leaf.positions for leaf in found}


def test_a_product_is_flattened_last_fastest() -> None:
    assert np.array_equal(positions("q:(heads key)")["q"], np.arange(15).reshape(3, 5))
    assert np.array_equal(positions("q:(key heads)")["q"], np.arange(15).reshape(5, 3))


def test_fused_projections_in_two_memory_orders() -> None:
    separate = positions("([q:- k:- v:-] heads key)")
    together = positions("(heads [q:key k:key v:key])")
    for number, name in enumerate(("q", "k", "v")):
        assert np.array_equal(separate[name], number * 15 + np.arange(15).reshape(3, 5))
        assert np.array_equal(together[name], 15 * np.arange(3)[:, None] + 5 * number + np.arange(5))


def test_parts_of_different_sizes() -> None:
    found = positions("(heads [q:(group key) k:key v:value])")
    width = 4 * 5 + 5 + 2
    assert found["q"].shape == (3, 4, 5)
    assert found["q"][2, 1, 3] == 2 * width + 1 * 5 + 3
    assert found["k"][2, 3] == 2 * width + 20 + 3
    assert found["v"][2, 1] == 2 * width + 25 + 1


def test_a_unit_has_size_one_and_no_axis() -> None:
    size, (leaf,) = leaves(Axis(UNIT, "x"), SIZES.__getitem__)
    assert (size, leaf.space, leaf.axes, leaf.positions.shape) == (1, "x", (), ())
    assert math.prod(leaf.positions.shape) == 1
