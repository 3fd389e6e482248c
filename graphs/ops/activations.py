"""gelu and silu.

    gelu   x * Phi(x), exact by erf; or 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))      Hendrycks and Gimpel 2016
    silu   x * sigmoid(x)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.ops.elementwise import erf
from kexport.graphs.ops.spec import Arrays, Evaluation, Types, attribute, define

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType

CUBIC = 0.044715


def _infer(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    assert types[0] is not None
    return (types[0],)


def _gelu(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    (x,) = arrays
    if attribute(node, "approximate"):
        inner = np.tanh(math.sqrt(2 / math.pi) * (x + CUBIC * x**3))
    else:
        inner = erf(x / math.sqrt(2))
    return ((0.5 * x * (1 + inner)).astype(x.dtype),)


define(
    "gelu",
    "x times the normal distribution function of x, exact (erf) or by the tanh approximation",
    inputs=("x",),
    attrs={"approximate": False},
    infer=_infer,
    evaluate=_gelu,
    intrinsic=True,
)
define(
    "silu",
    "x * sigmoid(x)",
    inputs=("x",),
    infer=_infer,
    evaluate=lambda evaluation, node, arrays: ((arrays[0] / (1 + np.exp(-arrays[0]))).astype(arrays[0].dtype),),
    intrinsic=True,
)
