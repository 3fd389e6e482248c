"""Elementwise ops: numpy's broadcasting, one dtype in and the same out (comparisons give bool)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.dims import broadcast
from kexport.graphs.ops.spec import REQUIRED, Array, Arrays, Evaluation, Types, attribute, define, refuse
from kexport.runtime.contract.dtypes import numpy_dtype

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType

_erf_of_numbers = np.vectorize(math.erf, otypes=[np.float64])


def erf(x: Array) -> Array:
    """The error function, through float64."""
    return np.asarray(_erf_of_numbers(x)).astype(x.dtype)


def _sigmoid(x: Array) -> Any:
    return 1 / (1 + np.exp(-x))


BINARY: dict[str, tuple[Callable[..., Any], str]] = {
    "add": (np.add, "a + b"),
    "sub": (np.subtract, "a - b"),
    "mul": (np.multiply, "a * b"),
    "div": (np.divide, "a / b"),
    "pow": (np.power, "a to the power b"),
    "max": (np.maximum, "the larger of a and b"),
    "min": (np.minimum, "the smaller of a and b"),
}
COMPARE: dict[str, tuple[Callable[..., Any], str]] = {
    "lt": (np.less, "a < b"),
    "le": (np.less_equal, "a <= b"),
    "eq": (np.equal, "a == b"),
    "and": (np.logical_and, "a and b"),
    "or": (np.logical_or, "a or b"),
}
UNARY: dict[str, tuple[Callable[..., Any], str]] = {
    "neg": (np.negative, "-x"),
    "abs": (np.abs, "|x|"),
    "sqrt": (np.sqrt, "square root of x"),
    "rsqrt": (lambda x: 1 / np.sqrt(x), "1 / square root of x"),
    "exp": (np.exp, "e to the x"),
    "log": (np.log, "natural logarithm of x"),
    "sin": (np.sin, "sine of x"),
    "cos": (np.cos, "cosine of x"),
    "tanh": (np.tanh, "hyperbolic tangent of x"),
    "sigmoid": (_sigmoid, "1 / (1 + exp(-x))"),
    "softplus": (lambda x: np.logaddexp(x, 0), "log(1 + exp(x))"),
    "relu": (lambda x: np.maximum(x, 0), "max(x, 0)"),
    "erf": (erf, "the error function of x"),
    "not": (np.logical_not, "not x"),
}


def _same_type(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    assert types[0] is not None
    return (types[0],)


def _broadcast_types(node: Node, left: TensorType, right: TensorType, dtype: str) -> tuple[TensorType, ...]:
    from kexport.graphs.ir import TensorType

    shape = broadcast(left.shape, right.shape)
    if shape is None:
        raise refuse(node, f"shapes {left} and {right} do not broadcast")
    return (TensorType(dtype, shape),)


def _binary_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    left, right = types
    assert left is not None and right is not None
    if left.dtype != right.dtype:
        raise refuse(node, f"dtypes differ: {left} and {right}")
    return _broadcast_types(node, left, right, "bool" if node.op in COMPARE else left.dtype)


def _where_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    condition, left, right = types
    assert condition is not None and left is not None and right is not None
    if condition.dtype != "bool" or left.dtype != right.dtype:
        raise refuse(node, f"takes bool and two of one dtype, got {condition}, {left}, {right}")
    (chosen,) = _broadcast_types(node, left, right, left.dtype)
    return _broadcast_types(node, condition, chosen, left.dtype)


def _cast_types(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    from kexport.graphs.ir import TensorType

    assert types[0] is not None
    return (TensorType(str(attribute(node, "dtype")), types[0].shape),)


def _plain(function: Callable[..., Any]) -> Callable[[Evaluation, Node, Arrays], tuple[Any, ...]]:
    def evaluate(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
        return (np.asarray(function(*arrays)).astype(bool if node.op in COMPARE or node.op == "not" else arrays[0].dtype),)

    return evaluate


for _name, (_function, _summary) in (BINARY | COMPARE).items():
    define(_name, _summary, inputs=("a", "b"), infer=_binary_types, evaluate=_plain(_function))
for _name, (_function, _summary) in UNARY.items():
    define(_name, _summary, inputs=("x",), infer=_same_type, evaluate=_plain(_function))
define(
    "where",
    "a where the condition holds, else b",
    inputs=("condition", "a", "b"),
    infer=_where_types,
    evaluate=lambda evaluation, node, arrays: (np.where(*arrays),),
)
define(
    "cast",
    "x in another dtype",
    inputs=("x",),
    attrs={"dtype": REQUIRED},
    infer=_cast_types,
    evaluate=lambda evaluation, node, arrays: (arrays[0].astype(numpy_dtype(str(attribute(node, "dtype")))),),
)
