"""The paper's equations and a plan's blocks in SymPy: an interpreter and a forward pass that share no code with either.

Arrays are NumPy arrays of SymPy expressions, row vectors multiply from the left. What comes out of a norm or a softmax
gets a name: equal expressions get the same one, so that two outputs are equal if they are equal in terms of the names.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy

from growformer.architecture.exact import Root
from growformer.planning.blocks import Affine, Constant, Fill, Index1D, Value
from growformer.planning.plan import Plan
from growformer.reference import ReferenceConfig

Array = npt.NDArray[np.object_]
Arrays = dict[str, Array]

#: Any function at all: the theorems hold for every activation.
ACTIVATION = sympy.Function("act")
EPSILON = sympy.Symbol("epsilon", positive=True)

_NAMES: dict[sympy.Expr, sympy.Symbol] = {}
_MEANINGS: dict[sympy.Symbol, sympy.Expr] = {}


def named(expression: sympy.Expr) -> sympy.Expr:
    """The name of an expression; numbers and symbols are names already."""
    if expression.is_Atom:
        return expression
    if expression not in _NAMES:
        _NAMES[expression] = sympy.Symbol(f"t{len(_NAMES)}", real=True)
        _MEANINGS[_NAMES[expression]] = expression
    return _NAMES[expression]


def symbols(name: str, shape: tuple[int, ...]) -> Array:
    """An array of real symbols, each of its own."""
    found = np.empty(shape, dtype=object)
    for index in np.ndindex(shape):
        found[index] = sympy.Symbol(f"{name}[{','.join(map(str, index))}]", real=True)
    return found


def number(root: Root) -> sympy.Expr:
    """An exact factor of the plan as a SymPy number."""
    return sympy.sqrt(sympy.Rational(root.square.numerator, root.square.denominator))


def source_symbols(plan: Plan) -> Arrays:
    """Every parameter of the source as symbols."""
    return {name: symbols(name, info.shape) for name, info in plan.source.tensors.items()}


def interpret(plan: Plan, source: Arrays) -> Arrays:
    """Every parameter of the target: the plan's blocks, with a new symbol for each free entry."""
    fresh = count()
    found: Arrays = {}
    for tensor in plan.tensors():
        array = np.full(tensor.shape, None, dtype=object)
        for block in tensor.blocks:
            at = np.ix_(*map(_positions, block.region))
            assert all(entry is None for entry in array[at].flat), f"{tensor.name}: blocks overlap"
            array[at] = _value(block.value, array[at].shape, source, fresh)
        assert all(entry is not None for entry in array.flat), f"{tensor.name}: blocks leave a gap"
        found[tensor.name] = array
    return found


def _value(value: Value, shape: tuple[int, ...], source: Arrays, fresh: Any) -> Array:
    if isinstance(value, Constant):
        return np.full(shape, sympy.nsimplify(value.value), dtype=object)
    if isinstance(value, Fill):
        return symbols(f"new{next(fresh)}", shape)
    assert isinstance(value, Affine)  # the reference needs no means and no sums
    selected = source[value.tensor][np.ix_(*map(_positions, value.region))]
    shift = sympy.nsimplify(value.shift)
    return np.asarray(selected * number(value.scale) + shift, dtype=object)


def _positions(index: Index1D) -> npt.NDArray[np.int64]:
    return np.arange(index.start, index.stop) if isinstance(index, slice) else index


def forward(parameters: Arrays, config: ReferenceConfig, epsilon: sympy.Expr, inputs: Array) -> Array:
    """The reference transformer's outputs ``[position, output]`` for a dense input ``[position, input]``."""
    x = inputs @ parameters["embedding.weight"] + parameters["positions.weight"][: len(inputs)]
    for layer in range(config.num_hidden_layers):
        name = f"layers.{layer}"

        def norm(which: str, y: Array, name: str = name) -> Array:
            gain = parameters.get(f"{name}.{which}.weight")
            return y if gain is None else rms_norm(y, gain, epsilon)

        normed = norm("mha_norm", x)
        concatenated = np.concatenate(
            [
                attention(
                    *(normed @ parameters[f"{name}.heads.{head}.{part}.weight"] for part in ("query", "key", "value"))
                )
                for head in range(config.num_heads[layer])
            ],
            axis=1,
        )
        w_o = np.concatenate(
            [parameters[f"{name}.heads.{head}.output.weight"] for head in range(config.num_heads[layer])]
        )
        x = x + norm("mha_post_norm", concatenated @ w_o)
        inner = norm("mlp_norm", x) @ parameters[f"{name}.mlp.up.weight"] + parameters[f"{name}.mlp.up.bias"]
        activated = np.vectorize(ACTIVATION, otypes=[object])(inner)
        mlp = activated @ parameters[f"{name}.mlp.down.weight"] + parameters[f"{name}.mlp.down.bias"]
        x = x + norm("mlp_post_norm", mlp)
    if "norm.weight" in parameters:
        x = rms_norm(x, parameters["norm.weight"], epsilon)
    outputs: Array = x @ parameters["output.weight"]
    return outputs


def attention(q: Array, k: Array, v: Array) -> Array:
    """``softmax(q k^T / sqrt(k)) v``; scores are expanded, so that equal ones are equal expressions."""
    scores = (q @ k.T) / sympy.sqrt(q.shape[1])
    exponentials = np.vectorize(lambda score: sympy.exp(sympy.expand(score)), otypes=[object])(scores)
    weights = exponentials / exponentials.sum(axis=1, keepdims=True)
    mixed: Array = np.vectorize(named, otypes=[object])(weights) @ v
    return mixed


def rms_norm(x: Array, gain: Array, epsilon: sympy.Expr) -> Array:
    """``x g / sqrt(mean(x^2) + eps)``; the rational factor is taken out of the root, for the same reason."""
    normed = np.empty_like(x)
    for position, row in enumerate(x):
        mean = sympy.Add(*(entry**2 for entry in row)) / len(row)
        factor, rest = (mean + epsilon).primitive()
        normed[position] = [
            named(entry * g / (sympy.sqrt(factor) * sympy.sqrt(rest))) for entry, g in zip(row, gain, strict=True)
        ]
    return normed


def residual(source: Array, grown: Array) -> list[sympy.Expr]:
    """What is left of the differences of two outputs after simplification."""
    differences = [sympy.expand(a - b) for a, b in zip(source.flat, grown.flat, strict=True)]
    return [sympy.simplify(d) for d in differences if d != 0]


def evaluate(outputs: Array) -> npt.NDArray[np.float64]:
    """Outputs at one point: every symbol a number that its name determines, the activation a smooth function."""
    known: dict[sympy.Expr, float] = {EPSILON: 0.1}

    def compute(expression: sympy.Expr) -> float:
        if expression.is_Symbol:
            meaning = _MEANINGS.get(expression)
            return random.Random(str(expression)).gauss(0, 1) if meaning is None else at(meaning)
        if expression.is_Number:
            return float(expression)
        arguments = [at(argument) for argument in expression.args]
        return float(_OPERATIONS[expression.func](*arguments))

    def at(expression: sympy.Expr) -> float:
        if expression not in known:
            known[expression] = compute(expression)
        return known[expression]

    return np.array([at(expression) for expression in outputs.flat])


_OPERATIONS: dict[Any, Callable[..., float]] = {
    sympy.Add: lambda *terms: math.fsum(terms),
    sympy.Mul: lambda *factors: math.prod(factors),
    sympy.Pow: lambda base, exponent: base**exponent,
    sympy.exp: math.exp,
    ACTIVATION: math.tanh,
}
