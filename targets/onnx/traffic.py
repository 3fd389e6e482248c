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
MIXTURE, EXPERTS_OF = "MoE", {2, 3, 4, 5}  # inputs of which it reads the experts that a token takes


class Read(NamedTuple):
    """One operator's use of a tensor, in bytes an element; of experts, the part that one token's take of them."""

    node: ir.Node
    place: int
    item_bytes: float


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers but those that operators take single rows from. A table that is also multiplied by (a tied head) counts.

    A narrow weight counts as wide as it is multiplied: onnxruntime widens it once, at loading.
    """
    total = 0
    for value in model.graph.initializers.values():
        whole = [read.item_bytes for read in _reads(value) if read.place not in ROW_TABLES.get(read.node.op_type, ())]
        if value.const_value is not None and whole:
            total += round(value.const_value.size * max(whole))
    return total


def _reads(value: ir.Value) -> Iterator[Read]:
    assert value.dtype is not None
    for node, index in value.uses():
        if node.op_type == WIDENING:
            yield from _reads(node.outputs[0])
        else:
            yield Read(node, index, item_size(DTYPE_NAMES[value.dtype]) * _share(value, node, index))


def _share(value: ir.Value, node: ir.Node, place: int) -> float:
    """How much of `value` a call with one token reads."""
    if node.op_type != MIXTURE or place not in EXPERTS_OF:
        return 1.0
    assert value.shape is not None and isinstance(value.shape[0], int)  # weights have fixed sizes
    return node.attributes["k"].as_int() / value.shape[0]
