"""linear: x @ weight + bias over the last axis; the weight is a parameter, stored [in, out]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.ops.spec import Arrays, Evaluation, Types, define, optional, refuse

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType


def _infer(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    from kexport.graphs.ir import TensorType

    x, weight, bias = types[0], types[1], optional(types, 2)
    assert x is not None and weight is not None
    if len(weight.shape) != 2 or x.shape[-1] != weight.shape[0] or x.dtype != weight.dtype:
        raise refuse(node, f"cannot multiply {x} by the weight {weight}")
    if bias is not None and bias.shape != weight.shape[1:]:
        raise refuse(node, f"bias {bias} does not fit the weight {weight}")
    return (TensorType(x.dtype, (*x.shape[:-1], weight.shape[1])),)


def _evaluate(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    x, weight, bias = arrays[0], arrays[1], optional(arrays, 2)
    result = np.matmul(x, weight)
    return (result if bias is None else result + bias,)


define(
    "linear",
    "x @ weight [in, out] (+ bias [out]) over the last axis; the weight is a parameter",
    inputs=("x", "weight", "bias?"),
    infer=_infer,
    evaluate=_evaluate,
    intrinsic=True,
)
