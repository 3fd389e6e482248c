"""How many bytes of weights a call of a model reads, whatever its tokens: what bounds the speed of a decode step from below."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import onnx_ir as ir
from kexport.runtime.contract.dtypes import item_size
from kexport.targets.onnx.assemble import DTYPE_NAMES

# Inputs of which an operator reads the rows of its tokens only: embedding tables, rotary tables.
ROW_TABLES = {"Gather": {0}, "GroupQueryAttention": {7, 8}, "RotaryEmbedding": {1, 2, 3}}
WIDENING = "Cast"


class Read(NamedTuple):
    """One operator's use of a tensor of this many bytes an element."""

    node: ir.Node
    place: int
    item_bytes: int


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers but those that operators take single rows from. A table that is also multiplied by (a tied head) counts.

    A narrow weight counts as wide as it is multiplied: onnxruntime widens it once, at loading.
    """
    total = 0
    for value in model.graph.initializers.values():
        whole = [read.item_bytes for read in _reads(value) if read.place not in ROW_TABLES.get(read.node.op_type, ())]
        if value.const_value is not None and whole:
            total += value.const_value.size * max(whole)
    return total


def _reads(value: ir.Value) -> Iterator[Read]:
    assert value.dtype is not None
    for node, index in value.uses():
        if node.op_type == WIDENING:
            yield from _reads(node.outputs[0])
        else:
            yield Read(node, index, item_size(DTYPE_NAMES[value.dtype]))
