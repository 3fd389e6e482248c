"""Ops that are one TensorFlow operator of the same form: a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from kexport.graphs.ir import Node
from kexport.targets.savedmodel.builder import Builder, Tensor
from kexport.targets.savedmodel.lowering import Lower, lowers


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """Division as numpy does it, rounded towards zero for integers."""
    return a / b if a.dtype.is_floating else tf.cast(tf.truediv(a, b), a.dtype)


OPERATORS: dict[str, Callable[..., Any]] = {
    "neg": tf.negative,
    "abs": tf.abs,
    "sqrt": tf.sqrt,
    "rsqrt": tf.math.rsqrt,
    "exp": tf.exp,
    "log": tf.math.log,
    "sin": tf.sin,
    "cos": tf.cos,
    "tanh": tf.tanh,
    "sigmoid": tf.sigmoid,
    "softplus": tf.math.softplus,
    "relu": tf.nn.relu,
    "erf": tf.math.erf,
    "not": tf.logical_not,
    "add": tf.add,
    "sub": tf.subtract,
    "mul": tf.multiply,
    "div": _divide,
    "pow": tf.pow,
    "max": tf.maximum,
    "min": tf.minimum,
    "lt": tf.less,
    "le": tf.less_equal,
    "eq": tf.equal,
    "and": tf.logical_and,
    "or": tf.logical_or,
    "where": tf.where,
    "matmul": tf.matmul,
}


def _plain(operator: Callable[..., Any]) -> Lower:
    def lower(node: Node, b: Builder) -> None:
        b.set(node.output, operator(*(b.value(name) for name in node.inputs)))

    return lower


for _op, _operator in OPERATORS.items():
    lowers(_op)(_plain(_operator))
