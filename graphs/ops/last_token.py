"""last_token: each row's last real position of x [batch, sequence, dim], as [batch, 1, dim].

`lengths` [batch] int32 counts the real tokens of this call; padding is on the right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.ops.spec import Arrays, Evaluation, Types, define, refuse

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType

RANK = 3


def _infer(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    from kexport.graphs.ir import TensorType

    x, lengths = types
    assert x is not None and lengths is not None
    if len(x.shape) != RANK or len(lengths.shape) != 1:
        raise refuse(node, f"takes [batch, sequence, dim] and [batch], got {x} and {lengths}")
    return (TensorType(x.dtype, (x.shape[0], 1, x.shape[2])),)


def _evaluate(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    x, lengths = arrays
    return (x[np.arange(x.shape[0]), lengths - 1][:, None, :],)


define(
    "last_token",
    "each row's last real position of x [batch, sequence, dim] -> [batch, 1, dim]",
    inputs=("x", "lengths"),
    infer=_infer,
    evaluate=_evaluate,
    intrinsic=True,
)
