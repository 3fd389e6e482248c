"""Elementwise TensorFlow ops: a name table, swapped operands where the grammar has one direction, size arithmetic, casts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from kexport.graphs.capture.importing.importer import Constant, GraphValue, Importer, Rule, Sizes, WeightValue, graph_dtype, imports
from kexport.graphs.dims import Dim, product, quotient

NAMES = {
    "AddV2": "add", "BiasAdd": "add", "Sub": "sub", "Mul": "mul", "RealDiv": "div", "Pow": "pow", "Maximum": "max", "Minimum": "min",
    "Less": "lt", "LessEqual": "le", "Equal": "eq", "LogicalAnd": "and", "LogicalOr": "or", "LogicalNot": "not",
    "Neg": "neg", "Abs": "abs", "Sqrt": "sqrt", "Rsqrt": "rsqrt", "Exp": "exp", "Log": "log", "Sin": "sin", "Cos": "cos", "Tanh": "tanh",
    "Sigmoid": "sigmoid", "Softplus": "softplus", "Relu": "relu", "Erf": "erf", "SelectV2": "where",
}  # fmt: skip
SWAPPED = {"Greater": "lt", "GreaterEqual": "le"}


def _multiply(left: Dim, right: Dim) -> Dim | None:
    return product((left, right))


def _of_numbers(function: Callable[[int, int], int]) -> Callable[[Dim, Dim], Dim | None]:
    return lambda left, right: function(left, right) if isinstance(left, int) and isinstance(right, int) else None


def _of_equals(function: Callable[[int, int], int]) -> Callable[[Dim, Dim], Dim | None]:
    """A maximum or minimum, which of one dim and itself is that dim."""
    return lambda left, right: left if left == right else _of_numbers(function)(left, right)


SIZE_ARITHMETIC: dict[str, Callable[[Dim, Dim], Dim | None]] = {
    "Mul": _multiply,
    "FloorDiv": quotient,
    "AddV2": _of_numbers(lambda a, b: a + b),
    "Sub": _of_numbers(lambda a, b: a - b),
    "Maximum": _of_equals(max),
    "Minimum": _of_equals(min),
}


def _fold_sizes(importer: Importer, op: tf.Operation) -> bool:
    """Arithmetic on dims stays symbolic where every result is a dim."""
    if op.type not in SIZE_ARITHMETIC or not any(isinstance(importer.get(tensor), Sizes) for tensor in op.inputs):
        return False
    left, right = (importer.sizes(tensor) for tensor in op.inputs)
    if left is None or right is None or op.outputs[0].dtype.is_floating:
        return False
    length = max(len(left), len(right))
    pairs = zip(left * (length // len(left)), right * (length // len(right)), strict=True)
    dims = [SIZE_ARITHMETIC[op.type](a, b) for a, b in pairs]
    if any(dim is None for dim in dims):
        return False
    importer.set(op.outputs[0], Sizes(tuple(dim for dim in dims if dim is not None), op.outputs[0].shape.rank == 0))
    return True


def _named(op_name: str, *, swapped: bool = False) -> Rule:
    def rule(importer: Importer, op: tf.Operation) -> None:
        if _fold_sizes(importer, op):
            return
        inputs = [importer.value(tensor) for tensor in op.inputs]
        importer.set(op.outputs[0], importer.node(op_name, inputs[::-1] if swapped else inputs))

    return rule


for _type, _name in NAMES.items():
    imports(_type)(_named(_name))
for _type, _name in SWAPPED.items():
    imports(_type)(_named(_name, swapped=True))


@imports("FloorDiv")
def floor_divide(importer: Importer, op: tf.Operation) -> None:
    if not _fold_sizes(importer, op):
        raise importer.refuse(op, "integer division is only known for sizes")


@imports("NotEqual")
def not_equal(importer: Importer, op: tf.Operation) -> None:
    equal = importer.node("eq", [importer.value(tensor) for tensor in op.inputs])
    importer.set(op.outputs[0], importer.node("not", [equal]))


@imports("Square")
def square(importer: Importer, op: tf.Operation) -> None:
    x = importer.value(op.inputs[0])
    importer.set(op.outputs[0], importer.node("mul", [x, x]))


@imports("SquaredDifference")
def squared_difference(importer: Importer, op: tf.Operation) -> None:
    difference = importer.node("sub", [importer.value(tensor) for tensor in op.inputs])
    importer.set(op.outputs[0], importer.node("mul", [difference, difference]))


@imports("Cast")
def cast(importer: Importer, op: tf.Operation) -> None:
    source, target = op.inputs[0], op.outputs[0]
    imported, dtype = importer.get(source), graph_dtype(target.dtype)
    if isinstance(imported, (Sizes, WeightValue)):
        importer.values[target.name] = imported
    elif isinstance(imported, Constant):
        importer.set(target, Constant(imported.array.astype(bool if dtype == "bool" else np.dtype(dtype))))
    elif graph_dtype(source.dtype) == dtype:
        importer.values[target.name] = GraphValue(importer.value(source))
    else:
        importer.set(target, importer.node("cast", [importer.value(source)], dtype=dtype))


@imports("Reciprocal")
def reciprocal(importer: Importer, op: tf.Operation) -> None:
    one = importer.graph.add_constant(np.ones((), graph_dtype(op.outputs[0].dtype)))
    importer.set(op.outputs[0], importer.node("div", [one, importer.value(op.inputs[0])]))


@imports("Erfc")
def complementary_error_function(importer: Importer, op: tf.Operation) -> None:
    erf = importer.node("erf", [importer.value(op.inputs[0])])
    one = importer.graph.add_constant(np.ones((), graph_dtype(op.outputs[0].dtype)))
    importer.set(op.outputs[0], importer.node("sub", [one, erf]))


@imports("Erfinv")
def inverse_error_function(importer: Importer, op: tf.Operation) -> None:
    """Of known numbers only, by TensorFlow itself: models ask for a quantile of the normal distribution, which is a number of their config."""
    numbers = importer.computed_constant(op, 0)
    with tf.init_scope():
        importer.set(op.outputs[0], Constant(np.asarray(tf.math.erfinv(numbers))))
