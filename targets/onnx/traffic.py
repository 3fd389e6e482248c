"""How many bytes of weights a call of a model reads, whatever its tokens: what bounds the speed of a decode step from below."""

from __future__ import annotations

import onnx_ir as ir

# Inputs of which an operator reads the rows of its tokens only: embedding tables, rotary tables.
ROW_TABLES = {"Gather": {0}, "GroupQueryAttention": {7, 8}, "RotaryEmbedding": {1, 2, 3}}


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers but those that operators take single rows from. A table that is also multiplied by (a tied head) counts."""
    return sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None and any(not _takes_rows(node, index) for node, index in value.uses())
    )


def _takes_rows(node: ir.Node, index: int) -> bool:
    return index in ROW_TABLES.get(node.op_type, ())
