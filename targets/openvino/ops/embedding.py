"""embedding -> Gather. Under narrow storage only the rows looked up are widened."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.targets.openvino.builder import Builder
from kexport.targets.openvino.lowering import lowers
from openvino import opset13 as op


@lowers("embedding")
def lower(node: Node, b: Builder) -> None:
    """Rows of the table."""
    name, ids = node.input(0), b.ids(node.input(1))
    weight = b.graph.weights.get(name)
    table = b.value(name) if weight is None else b.stored(b.stored_form(weight))
    b.set(node.output, b.convert(op.gather(table, ids, b.integer(0)), b.type_of(node.output).dtype))
