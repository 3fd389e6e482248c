"""embedding -> EMBEDDING_LOOKUP, which takes one row of ids; GATHER and CAST where the table is narrow.

Positions behind the last row of a table are held at it: only padding has them.
"""

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
    ids, (count, width) = b.value(node.input(1)), b.shape_of(node.input(0))
    flat = b.reshape(_in_table(node, b, ids, count), (math.prod(ids.shape),))
    b.set(node.output, b.reshape(_rows(node, b, flat, width), b.shape_of(node.output)))


def _rows(node: Node, b: Builder, flat: Tensor, width: int) -> Tensor:
    """Rows [ids, width]. Those of a narrow table are widened after they are taken: widening the table would keep a wide copy a signature."""
    shape, weight = (*flat.shape, width), b.graph.weights.get(node.input(0))
    if weight is not None and b.stored_form(weight).dtype != weight.dtype:
        narrow = b.stored(b.stored_form(weight))
        return b.cast(b.op("GATHER", [narrow, flat], narrow.dtype, shape, axis=0), weight.dtype)
    table = b.value(node.input(0))
    return b.op("EMBEDDING_LOOKUP", [flat, table], table.dtype, shape)


def _in_table(node: Node, b: Builder, ids: Tensor, rows: int) -> Tensor:
    if node.input(1) in TOKEN_INPUTS or rows >= b.cache_length:
        return ids
    return b.binary("MINIMUM", ids, b.constant(np.int32(rows - 1)))
