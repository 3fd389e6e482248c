"""Graph ops that are one OpenVINO operator with the same inputs, as one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kexport.graphs.ir import Node
from kexport.targets.openvino.builder import Builder
from kexport.targets.openvino.lowering import lowers
from openvino import opset13 as op

UNARY: dict[str, Callable[..., Any]] = {
    "neg": op.negative, "abs": op.absolute, "exp": op.exp, "log": op.log, "sin": op.sin, "cos": op.cos, "tanh": op.tanh,
    "sigmoid": op.sigmoid, "softplus": op.softplus, "relu": op.relu, "erf": op.erf, "sqrt": op.sqrt, "not": op.logical_not,
}  # fmt: skip
BINARY: dict[str, Callable[..., Any]] = {
    "add": op.add, "sub": op.subtract, "mul": op.multiply, "div": op.divide, "pow": op.power, "max": op.maximum, "min": op.minimum,
    "lt": op.less, "le": op.less_equal, "eq": op.equal, "and": op.logical_and, "or": op.logical_or, "where": op.select,
}  # fmt: skip


def _lower(function: Callable[..., Any]) -> Callable[[Node, Builder], None]:
    def lower(node: Node, b: Builder) -> None:
        b.set(node.output, function(*(b.value(name) for name in node.inputs)))

    return lower


for _op, _function in (UNARY | BINARY).items():
    lowers(_op)(_lower(_function))


@lowers("matmul")
def lower_matmul(node: Node, b: Builder) -> None:
    """The product over the last two axes."""
    b.set(node.output, op.matmul(b.value(node.input(0)), b.value(node.input(1)), False, False))
