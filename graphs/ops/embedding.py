"""embedding: rows of a table parameter [vocabulary, dim] by integer id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from kexport.graphs.ops.spec import Types, define, refuse

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType


def _infer(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    from kexport.graphs.ir import TensorType

    table, ids = types
    assert table is not None and ids is not None
    if len(table.shape) != 2 or not ids.dtype.startswith("int"):
        raise refuse(node, f"takes a table and integer ids, got {table} and {ids}")
    return (TensorType(table.dtype, (*ids.shape, table.shape[1])),)


define(
    "embedding",
    "rows of a table parameter [vocabulary, dim] by integer id; ids must be in range",
    inputs=("table", "ids"),
    infer=_infer,
    evaluate=lambda evaluation, node, arrays: (np.take(arrays[0], arrays[1], axis=0),),
    intrinsic=True,
)
