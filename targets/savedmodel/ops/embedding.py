"""embedding -> GatherV2. Positions behind the last row of a table are held at it: only padding has them."""

from __future__ import annotations

import tensorflow as tf
from kexport.graphs.ir import Node
from kexport.targets.savedmodel.builder import Builder
from kexport.targets.savedmodel.lowering import lowers

TOKEN_INPUTS = ("token_ids", "encoder_token_ids")


@lowers("embedding")
def lower(node: Node, b: Builder) -> None:
    """Rows of a table by id."""
    table, ids = node.input(0), b.value(node.input(1))
    if node.input(1) not in TOKEN_INPUTS:
        last = int(b.type_of(table).shape[0]) - 1
        ids = b.memo(("in table", node.input(1), last), lambda: tf.minimum(ids, tf.constant(last, ids.dtype)))
    weight = b.graph.weights.get(table)
    b.set(node.output, b.rows(weight, ids) if weight is not None else tf.gather(b.value(table), ids))
