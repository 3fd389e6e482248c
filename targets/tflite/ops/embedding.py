"""embedding -> EMBEDDING_LOOKUP, which takes one row of ids. Positions behind the last row of a table are held at it: only padding has them."""

from __future__ import annotations

import math

import numpy as np
from kexport.graphs.ir import Node
from kexport.targets.tflite.builder import Builder, Tensor
from kexport.targets.tflite.lowering import Argument, Case, lowers

TOKEN_INPUTS = ("token_ids", "encoder_token_ids")
_IDS = Argument((1, 3), "int32", values="ids", limit=7)


@lowers(
    "embedding",
    cases=[
        Case("ids", [Argument((9, 4), role="weight"), _IDS], expect=("RESHAPE", "EMBEDDING_LOOKUP", "RESHAPE")),
        Case("a short table", [Argument((7, 4), role="weight"), _IDS], expect=("MINIMUM", "RESHAPE", "EMBEDDING_LOOKUP", "RESHAPE")),
    ],
)
def lower(node: Node, b: Builder) -> None:
    """Rows of a table by id."""
    table, ids = b.value(node.input(0)), b.value(node.input(1))
    flat = b.reshape(_in_table(node, b, ids, table.shape[0]), (math.prod(ids.shape),))
    rows = b.op("EMBEDDING_LOOKUP", [flat, table], table.dtype, (*flat.shape, table.shape[1]))
    b.set(node.output, b.reshape(rows, b.shape_of(node.output)))


def _in_table(node: Node, b: Builder, ids: Tensor, rows: int) -> Tensor:
    if node.input(1) in TOKEN_INPUTS or rows >= b.cache_length:
        return ids
    return b.binary("MINIMUM", ids, b.constant(np.int32(rows - 1)))
