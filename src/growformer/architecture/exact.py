"""Exact numbers: square roots of rationals, and size expressions over config fields.

Every factor of function-preserving growth is a square root of a rational (sqrt(h/h'), sqrt(k'/k), 1/m).
Kept exact, factors of composed growth steps multiply without rounding, and each tensor is rounded once.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from growformer.errors import ArchitectureError, did_you_mean

MAX_SIZE = 2**24
"""Of one axis: sixteen million, fifty times the largest vocabulary. Plans hold arrays of this length."""


@dataclass(frozen=True, slots=True)
class Root:
    """The exact number ``sqrt(square)`` for a non-negative rational ``square``."""

    square: Fraction

    @staticmethod
    def of(value: int | Fraction | Root) -> Root:
        """Return ``value`` itself (not its square root) as a ``Root``."""
        if isinstance(value, Root):
            return value
        if value < 0:
            raise ValueError(f"a factor must not be negative, got {value}")
        return Root(Fraction(value) ** 2)

    @staticmethod
    def sqrt(value: int | Fraction | Root) -> Root:
        """Return the square root of a rational."""
        return Root(Root.of(value).rational())

    @staticmethod
    def parse(text: str) -> Root:
        """Read what ``str`` wrote: ``"3/2"`` or ``"sqrt(3/4)"``.

        Raises:
            ValueError: the text is neither.
        """
        if text.startswith("sqrt(") and text.endswith(")"):
            square = Fraction(text[5:-1])
            if square < 0:
                raise ValueError(f"negative square in {text!r}")
            return Root(square)
        return Root.of(Fraction(text))

    def __mul__(self, other: Root | Fraction | int) -> Root:
        return Root(self.square * Root.of(other).square)

    def __truediv__(self, other: Root | Fraction | int) -> Root:
        return Root(self.square / Root.of(other).square)

    def __float__(self) -> float:
        # math.sqrt of a correctly rounded quotient: within one unit in the last place of float64.
        exact = self._exact()
        return float(exact) if exact is not None else math.sqrt(self.square)

    def __str__(self) -> str:
        exact = self._exact()
        return str(exact) if exact is not None else f"sqrt({self.square})"

    def rational(self) -> Fraction:
        """Return the number as a fraction.

        Raises:
            ValueError: it is irrational.
        """
        exact = self._exact()
        if exact is None:
            raise ValueError(f"{self} is irrational")
        return exact

    def is_whole(self) -> bool:
        """Tell whether it is a whole number."""
        exact = self._exact()
        return exact is not None and exact.denominator == 1

    def is_one(self) -> bool:
        """Tell whether the factor changes nothing."""
        return self.square == 1

    def _exact(self) -> Fraction | None:
        top, bottom = math.isqrt(self.square.numerator), math.isqrt(self.square.denominator)
        exact = Fraction(top, bottom)
        return exact if exact**2 == self.square else None


ONE = Root(Fraction(1))


class Fields(dict[str, Any]):
    """Values of config fields, with what was already evaluated from them: a large model asks for few sizes often."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.known: dict[Any, Any] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        self.known.clear()
        super().__setitem__(name, value)

    def remember(self, expression: str, index: Mapping[str, int] | None, make: Callable[[], Any]) -> Any:
        """Return a value made from these fields and the indices that an expression names; only once each."""
        key: Any = expression
        if index and not _all_names(expression).isdisjoint(index):
            named = _all_names(expression)
            key = (expression, *((axis, at) for axis, at in index.items() if axis in named))
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]


def evaluate(expression: str, names: Mapping[str, Any], index: Mapping[str, int] | None = None) -> Root:
    """Evaluate a size or scale expression exactly.

    The language: numbers, names (``text_config.hidden_size`` for a nested one), ``+ - * /``, ``sqrt(x)``, ``int(x)``
    (rounded down, in float64 as Python does), ``name[0]``, ``name[layer]`` and ``name[layer][head]``, ``a or b``
    (``b`` where ``a`` is None, false or 0) and ``a if condition else b``, where a condition is as in ``compute``. An
    index is a name too.

    Args:
        expression: such as ``"num_attention_heads / num_key_value_heads"`` or ``"1 / sqrt(key)"``.
        names: values of the names: numbers, or (nested) lists for indexed ones.
        index: values of the index axes that may stand in brackets.

    Raises:
        ArchitectureError: a name is unknown, or the expression is outside the language.
    """
    index = index or {}
    names = {**names, **index}

    def fail(what: str) -> ArchitectureError:
        return ArchitectureError(f"in the expression {expression!r}: {what}")

    def number(value: Any, what: str) -> Fraction:
        if isinstance(value, bool) or not isinstance(value, (int, float, Fraction)) or not math.isfinite(value):
            raise fail(f"{what} must be a number, found {value!r}")
        return Fraction(value)

    def look_up(node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            if node.id not in names:
                raise fail(f"unknown name {node.id!r}{did_you_mean(node.id, names)}")
            return names[node.id]
        if isinstance(node, ast.Attribute):
            return look_up(ast.Name(id=ast.unparse(node)))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, (ast.Name, ast.Constant)):
            at = ast.unparse(node.slice)
            if isinstance(node.slice, ast.Name) and at not in index:
                raise fail(f"no value for the index {at!r}")
            values = look_up(node.value)
            position: Any = index[at] if isinstance(node.slice, ast.Name) else node.slice.value
            if (
                not isinstance(values, (list, tuple))
                or not isinstance(position, int)
                or not -1 < position < len(values)
            ):
                raise fail(f"no entry {position} for the index {at!r} in {values!r}")
            return values[position]
        raise fail(f"{ast.unparse(node)!r} is not allowed here")

    def truth(node: ast.expr) -> bool:
        try:
            return bool(compute(ast.unparse(node), names, index))
        except ArchitectureError as error:
            raise fail(str(error).partition(": ")[2]) from None

    def value(node: ast.expr) -> Root | Fraction:
        if isinstance(node, ast.Constant):
            return number(node.value, "a literal")
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            for operand in node.values[:-1]:
                if truth(operand):
                    return value(operand)
            return value(node.values[-1])
        if isinstance(node, ast.IfExp):
            return value(node.body if truth(node.test) else node.orelse)
        if isinstance(node, (ast.Name, ast.Subscript, ast.Attribute)):
            return number(look_up(node), ast.unparse(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "int":
            return Fraction(math.floor(float(Root.of(value(node.args[0])))))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sqrt":
            if len(node.args) != 1:
                raise fail("sqrt takes one argument")
            return Root.sqrt(value(node.args[0]))
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Div):
                if (right.square if isinstance(right, Root) else right) == 0:
                    raise fail("division by zero")
                return Root.of(left) / right if isinstance(left, Root) or isinstance(right, Root) else left / right
            if isinstance(node.op, ast.Mult):
                return Root.of(left) * right if isinstance(left, Root) or isinstance(right, Root) else left * right
            if isinstance(left, Root) or isinstance(right, Root):
                raise fail("a square root can be multiplied and divided only")
            if isinstance(node.op, ast.Add):
                return left + right
            if isinstance(node.op, ast.Sub):
                return left - right
        raise fail(f"{ast.unparse(node)!r} is not allowed")

    try:
        return Root.of(value(_parse(expression).body))
    except (ValueError, OverflowError) as error:  # a negative result, the square root of an irrational number, 10^400
        raise fail(str(error)) from None


def compute(expression: str, names: Mapping[str, Any], index: Mapping[str, int] | None = None) -> Any:
    """Evaluate an expression over config fields to any plain value: a kind of layer, a list, whether something exists.

    The language is that of ``evaluate`` with text, lists, ``%``, ``//``, comparisons, ``in``, ``and``, ``or``, ``not``.

    Raises:
        ArchitectureError: a name is unknown, or the expression is outside the language.
    """
    values = {**names, **(index or {})}

    def fail(what: str) -> ArchitectureError:
        return ArchitectureError(f"in the expression {expression!r}: {what}")

    def run(node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name() | ast.Attribute():
                name = node.id if isinstance(node, ast.Name) else ast.unparse(node)
                if name not in values:
                    raise fail(f"unknown name {name!r}{did_you_mean(name, values)}")
                return values[name]
            case ast.List() | ast.Tuple():
                return [run(item) for item in node.elts]
            case ast.Subscript():
                inside, position = run(node.value), run(node.slice)
                try:
                    return inside[position]
                except (TypeError, IndexError, KeyError):
                    raise fail(f"no entry {position!r} in {inside!r}") from None
            case ast.BoolOp():
                found = None
                for item in node.values:
                    found = run(item)
                    if bool(found) is isinstance(node.op, ast.Or):
                        break
                return found
            case ast.UnaryOp(op=ast.Not()):
                return not run(node.operand)
            case ast.UnaryOp(op=ast.USub()):
                return -run(node.operand)
            case ast.IfExp():
                return run(node.body if run(node.test) else node.orelse)
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                return _ARITHMETIC[type(node.op)](run(node.left), run(node.right))
            case ast.Compare():
                left = run(node.left)
                for operator_, item in zip(node.ops, node.comparators, strict=True):
                    right = run(item)
                    if type(operator_) not in _COMPARISONS or not _COMPARISONS[type(operator_)](left, right):
                        return False
                    left = right
                return True
            case ast.Call(func=ast.Name(id="sqrt" | "int" as function)):
                argument = float(run(node.args[0]))
                return math.sqrt(argument) if function == "sqrt" else math.floor(argument)
        raise fail(f"{ast.unparse(node)!r} is not allowed")

    try:
        return run(_parse(expression).body)
    except (TypeError, ValueError, ArithmeticError, MemoryError) as error:
        raise fail(str(error)) from None


_ARITHMETIC: dict[type[ast.operator], Any] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], Any] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip


@lru_cache(maxsize=1024)
def _all_names(expression: str) -> frozenset[str]:
    return frozenset(node.id for node in ast.walk(_parse(expression)) if isinstance(node, ast.Name))


@lru_cache(maxsize=1024)
def _parse(expression: str) -> ast.Expression:
    try:
        return ast.parse(expression, mode="eval")
    except SyntaxError as error:
        raise ArchitectureError(f"in the expression {expression!r}: not an expression ({error.msg})") from None


def names_in(expression: str) -> list[str]:
    """Return the names that an expression takes numbers from, in order of appearance.

    Indices in brackets and conditions (``a if condition else b``) are left out.
    """
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.Name, ast.Attribute)):
            found.append(ast.unparse(node))
            return
        if isinstance(node, ast.Subscript):
            visit(node.value)
            return
        for child in ast.iter_child_nodes(node):
            if not (isinstance(node, ast.IfExp) and child is node.test):
                visit(child)

    visit(_parse(expression).body)
    return [name for name in dict.fromkeys(found) if name not in ("sqrt", "int")]


def mentions(expression: str, name: str) -> bool:
    """Tell whether a name stands anywhere in an expression, in brackets and conditions as well."""
    return name in _all_names(expression)


@lru_cache(maxsize=1024)
def indices_in(expression: str) -> tuple[str, ...]:
    """Return the index names in brackets: ``("layer", "head")`` for ``"key[layer][head]"``."""
    found: list[str] = []
    for node in ast.walk(_parse(expression)):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Name) and node.slice.id not in found:
            found.insert(0, node.slice.id)
    return tuple(found)


def evaluate_size(expression: str, names: Mapping[str, Any], index: Mapping[str, int] | None = None) -> int:
    """Evaluate a size: a positive integer (0 is allowed for counts) of at most ``MAX_SIZE``.

    Raises:
        ArchitectureError: the result is not a whole number, or larger.
    """
    plain = names.get(expression) if not index or expression not in index else None
    if type(plain) is int and 0 <= plain <= MAX_SIZE:  # most sizes are a field as it stands
        return plain
    if isinstance(names.get(expression), float):
        raise ArchitectureError(f"the size {expression!r} must be a whole number, found {names[expression]!r}")
    result = evaluate(expression, names, index)
    try:
        exact = result.rational()
    except ValueError:
        exact = Fraction(1, 2)
    if exact.denominator == 1 and exact <= MAX_SIZE:
        return int(exact)
    used = ", ".join(f"{name} = {names[name]}" for name in names_in(expression) if name in names)
    if exact.denominator != 1:
        raise ArchitectureError(f"the size {expression!r} is not a whole number ({result}) with {used}")
    raise ArchitectureError(f"the size {expression!r} is {float(exact):.6g} with {used}; expected at most {MAX_SIZE}")
