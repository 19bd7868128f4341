"""Exact factors, and the expressions that sizes and scales are written in."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from growformer.architecture.exact import ONE, Fields, Root, compute, evaluate, evaluate_size, indices_in, names_in
from growformer.errors import ArchitectureError

rationals = st.fractions(min_value=0, max_value=1000, max_denominator=1000)
roots = rationals.map(Root)

# Roots


@given(roots, roots)
def test_products_and_quotients_are_exact(a: Root, b: Root) -> None:
    assert (a * b).square == a.square * b.square
    assume(b.square)
    assert a * b / b == a
    assert (a / b) * b == a


@given(roots)
def test_parse_reads_what_str_writes(root: Root) -> None:
    assert Root.parse(str(root)) == root


@given(rationals)
def test_of_is_the_number_and_sqrt_its_root(number: Fraction) -> None:
    assert Root.of(number).rational() == number
    assert Root.sqrt(number) * Root.sqrt(number) == Root.of(number)
    assert Root.sqrt(number) == Root(number)
    assert Root.of(Root.of(number)) == Root.of(number)


@given(roots)
def test_float_is_within_one_unit(root: Root) -> None:
    exact = math.sqrt(root.square)
    assert abs(float(root) - exact) <= math.ulp(exact)


@given(rationals)
def test_rational_roots_print_as_rationals(number: Fraction) -> None:
    assert str(Root(number**2)) == str(number)
    assert float(Root(number**2)) == float(number)


def test_large_and_small_numbers_stay_exact() -> None:
    big = Root.of(10**40 + 1)
    assert (big * big).rational() == (10**40 + 1) ** 2
    assert str(Root.sqrt(Fraction(24, 36))) == "sqrt(2/3)"
    assert str(Root.sqrt(Fraction(4, 9))) == "2/3"


def test_one_changes_nothing() -> None:
    assert ONE.is_one()
    assert Root.of(3) * ONE == Root.of(3)
    assert not Root.sqrt(2).is_one()
    assert (Root.sqrt(2) / Root.sqrt(2)).is_one()


@pytest.mark.parametrize("text", ["", "x", "sqrt(2", "sqrt(x)", "sqrt(-1)", "-1", "1/0"])
def test_parse_refuses_other_texts(text: str) -> None:
    with pytest.raises((ValueError, ZeroDivisionError)):
        Root.parse(text)


def test_irrational_and_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sqrt\(2\) is irrational"):
        Root.sqrt(2).rational()
    with pytest.raises(ValueError, match="a factor must not be negative, got -1"):
        Root.of(-1)
    with pytest.raises(ValueError, match="irrational"):
        Root.sqrt(Root.sqrt(2))


# Expressions

CONFIG: dict[str, Any] = {
    "hidden_size": 24,
    "num_attention_heads": 6,
    "head_dim": None,
    "n_inner": 40,
    "none_inner": 0,
    "scaled": True,
    "plain": False,
    "multiplier": 0.25,
    "mlp": [13, 17],
    "key": [[3, 5], [7]],
    "name": "x",
    "infinite": math.inf,
}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("2", 2),
        ("hidden_size", 24),
        ("hidden_size / num_attention_heads", 4),
        ("hidden_size - num_attention_heads * 2 + 1", 13),
        ("head_dim or hidden_size / num_attention_heads", 4),
        ("none_inner or head_dim or 4 * hidden_size", 96),
        ("n_inner or 4 * hidden_size", 40),
        ("2 if scaled else 3", 2),
        ("2 if plain else 3", 3),
        ("2 if head_dim else 3", 3),
        ("hidden_size if plain else (n_inner if scaled else 1)", 40),
        ("multiplier * 2", Fraction(1, 2)),
        ("mlp[layer]", 17),
        ("key[layer][head]", 7),
        ("layer + 1", 2),
    ],
)
def test_rational_expressions(expression: str, expected: Fraction | int) -> None:
    assert evaluate(expression, CONFIG, {"layer": 1, "head": 0}) == Root.of(expected)


def test_an_index_has_its_own_value() -> None:
    assert evaluate("key[layer][head]", CONFIG, {"layer": 0, "head": 1}) == Root.of(5)
    assert evaluate("mlp[1]", CONFIG) == Root.of(17)


@pytest.mark.parametrize(
    ("expression", "square"),
    [
        ("1 / sqrt(hidden_size)", Fraction(1, 24)),
        ("sqrt(hidden_size) * sqrt(hidden_size)", Fraction(24) ** 2),
        ("sqrt(hidden_size / num_attention_heads)", Fraction(4)),
        ("(1 / sqrt(hidden_size) if scaled else 1) / (layer + 1 if scaled else 1)", Fraction(1, 24) / 4),
        ("3 * sqrt(2)", Fraction(18)),
        ("sqrt(8) / 2", Fraction(2)),
    ],
)
def test_square_roots(expression: str, square: Fraction) -> None:
    assert evaluate(expression, CONFIG, {"layer": 1}).square == square


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("hidden_sise", "unknown name 'hidden_sise'; did you mean 'hidden_size'?"),
        ("missing or 2", "unknown name 'missing'"),
        ("name", "name must be a number, found 'x'"),
        ("head_dim * 2", "head_dim must be a number, found None"),
        ("scaled + 1", "scaled must be a number, found True"),
        ("infinite", "infinite must be a number, found inf"),
        ("'2'", "a literal must be a number, found '2'"),
        ("mlp", "mlp must be a number, found [13, 17]"),
        ("mlp[head]", "no entry 2 for the index 'head' in [13, 17]"),
        ("mlp[expert]", "no value for the index 'expert'"),
        ("hidden_size[layer]", "no entry 1 for the index 'layer' in 24"),
        ("mlp[2]", "no entry 2 for the index '2' in [13, 17]"),
        ("mlp[-1]", "'mlp[-1]' is not allowed here"),
        ("hidden_size / (layer - 1)", "division by zero"),
        ("1 / sqrt(layer - 1)", "division by zero"),
        ("sqrt(2) + 1", "a square root can be multiplied and divided only"),
        ("sqrt(1, 2)", "sqrt takes one argument"),
        ("sqrt(sqrt(2))", "sqrt(2) is irrational"),
        ("sqrt(1 - 2)", "a factor must not be negative, got -1"),
        ("1 - 2", "a factor must not be negative, got -1"),
        ("(1 - 2) * sqrt(2)", "a factor must not be negative, got -1"),
        ("-1", "'-1' is not allowed"),
        ("2 ** 3", "'2 ** 3' is not allowed"),
        ("max(1, 2)", "'max(1, 2)' is not allowed"),
        ("2 +", "not an expression (invalid syntax)"),
    ],
)
def test_errors_name_the_expression(expression: str, message: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        evaluate(expression, CONFIG, {"layer": 1, "head": 2})
    assert str(caught.value) == f"in the expression {expression!r}: {message}"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("layer not in dense and (layer + 1) % step == 0", True),
        ("'sliding' if (layer + 1) % step else 'full'", "full"),
        ("layer >= 3 or -1", True),
        ("kinds[layer] == 'full'", False),
        ("[layer, 2]", [3, 2]),
        ("nested.size // 2 - 1", 3),
        ("missing is None", True),
        ("not (1 < layer < 4)", False),
    ],
)
def test_conditions_and_kinds_are_plain_values(expression: str, value: object) -> None:
    names = {"dense": [0], "step": 2, "kinds": ["a", "b", "c", "d"], "nested.size": 8, "missing": None}
    assert compute(expression, names, {"layer": 3}) == value


@pytest.mark.parametrize("expression", ["open('x')", "layer.__class__", "[x for x in kinds]", "lambda: 1", "unknown"])
def test_nothing_else_is_computed(expression: str) -> None:
    with pytest.raises(ArchitectureError):
        compute(expression, {"kinds": [1]}, {"layer": 3})


def test_fields_forget_what_they_knew_when_one_changes() -> None:
    fields = Fields({"a": 2})
    assert fields.remember("a + 1", None, lambda: fields["a"] + 1) == 3
    fields["a"] = 5
    assert fields.remember("a + 1", None, lambda: fields["a"] + 1) == 6


@pytest.mark.parametrize(("size", "share", "rotated"), [(80, 0.4, 32), (44, 30 / 44, 29), (44, 30.5 / 44, 30)])
def test_int_rounds_down_as_python_does(size: int, share: float, rotated: int) -> None:
    assert int(size * share) == rotated
    assert evaluate("int(size * share)", {"size": size, "share": share}).rational() == rotated


def test_names_come_in_order_of_appearance() -> None:
    assert names_in("a / b * c") == ["a", "b", "c"]
    assert names_in("x[layer] if flag else sqrt(y) + x[layer]") == ["x", "y"]
    assert names_in("2") == []


def test_indices_come_from_the_outermost_list_inwards() -> None:
    assert indices_in("key[layer][head]") == ("layer", "head")
    assert indices_in("mlp[layer] + mlp[layer]") == ("layer",)
    assert indices_in("hidden_size") == ()


def test_what_is_no_expression_is_refused_everywhere() -> None:
    for function in (names_in, indices_in):
        with pytest.raises(ArchitectureError, match=r"in the expression 'a \+': not an expression"):
            function("a +")


def test_sizes_are_whole_numbers() -> None:
    assert evaluate_size("hidden_size / 8", CONFIG) == 3
    assert evaluate_size("none_inner", CONFIG) == 0
    with pytest.raises(ArchitectureError) as caught:
        evaluate_size("hidden_size / num_attention_heads / 3", CONFIG)
    assert str(caught.value) == (
        "the size 'hidden_size / num_attention_heads / 3' is not a whole number (4/3) with hidden_size = 24, "
        "num_attention_heads = 6"
    )
    with pytest.raises(ArchitectureError, match=r"not a whole number \(sqrt\(24\)\) with hidden_size = 24"):
        evaluate_size("sqrt(hidden_size)", CONFIG)
