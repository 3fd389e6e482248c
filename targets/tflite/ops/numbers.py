"""Elementwise ops without an operator of the same form: where, cast, softplus, erf; and sizes as numbers: dim_size, range."""

from __future__ import annotations

import numpy as np
from kexport.graphs.dims import evaluate
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.runtime.contract.dtypes import numpy_dtype
from kexport.targets.tflite.builder import Builder, Tensor
from kexport.targets.tflite.lowering import Argument, Case, lowers

_X = Argument((1, 2, 3))
# Abramowitz and Stegun 7.1.26: |error| <= 1.5e-7
ERF_P = 0.3275911
ERF_COEFFICIENTS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


@lowers(
    "where",
    cases=[Case("broadcast", [Argument((1, 2, 1), "bool", values="bool"), _X, Argument(())], expect=("SELECT_V2",))],
)
def lower_where(node: Node, b: Builder) -> None:
    """a where the condition holds, else b."""
    inputs = [b.value(name) for name in node.inputs]
    b.set(node.output, b.op("SELECT_V2", inputs, b.type_of(node.output).dtype, b.shape_of(node.output)))


@lowers(
    "cast",
    cases=[
        Case("to float", [Argument((2, 3), "int32", values="ids", limit=9)], {"dtype": "float32"}, expect=("CAST",)),
        Case("to bool", [Argument((2, 3), "int32", values="ids", limit=2)], {"dtype": "bool"}, expect=("CAST",)),
        Case("of bool", [Argument((2, 3), "bool", values="bool")], {"dtype": "float32"}, expect=("CAST",)),
        Case("truncated", [Argument((2, 3))], {"dtype": "int32"}, expect=("CAST",)),
    ],
)
def lower_cast(node: Node, b: Builder) -> None:
    """x in another dtype."""
    b.set(node.output, b.cast(b.value(node.input(0)), str(attribute(node, "dtype"))))


@lowers("softplus", cases=[Case("three axes", [_X])])
def lower_softplus(node: Node, b: Builder) -> None:
    """max(x, 0) + log(1 + exp(-|x|)): no overflow on either side."""
    x = b.value(node.input(0))
    small = b.unary("EXP", b.unary("NEG", b.unary("ABS", x)))
    b.set(node.output, b.binary("ADD", b.unary("RELU", x), b.unary("LOG", b.binary("ADD", small, b.number(1)))))


@lowers("erf", cases=[Case("three axes", [_X])])
def lower_erf(node: Node, b: Builder) -> None:
    """sign(x) * (1 - polynomial(t) * exp(-x^2)), t = 1 / (1 + p |x|); TFLite has no erf of its own."""
    x = b.value(node.input(0))
    size = b.unary("ABS", x)
    t = b.binary("DIV", b.number(1), b.binary("ADD", b.binary("MUL", size, b.number(ERF_P)), b.number(1)))
    polynomial: Tensor = b.number(ERF_COEFFICIENTS[0])
    for coefficient in ERF_COEFFICIENTS[1:]:
        polynomial = b.binary("ADD", b.binary("MUL", polynomial, t), b.number(coefficient))
    tail = b.binary("MUL", b.binary("MUL", polynomial, t), b.unary("EXP", b.unary("NEG", b.binary("MUL", x, x))))
    value = b.binary("SUB", b.number(1), tail)
    negative = b.op("LESS", [x, b.number(0)], "bool", x.shape)
    b.set(node.output, b.op("SELECT_V2", [negative, b.unary("NEG", value), value], x.dtype, x.shape))


@lowers("dim_size")
def lower_dim_size(node: Node, b: Builder) -> None:
    """A number: every size is known."""
    b.set(node.output, b.constant(np.int32(evaluate(attribute(node, "dim"), b.sizes))))


@lowers("range")
def lower_range(node: Node, b: Builder) -> None:
    """0, 1, 2, ...: every size is known."""
    b.set(node.output, b.constant(np.arange(evaluate(attribute(node, "size"), b.sizes)).astype(numpy_dtype(str(attribute(node, "dtype"))))))
