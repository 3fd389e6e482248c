"""embedding -> Gather. Under narrow storage only the rows looked up are widened, unless a tied head needs the wide table anyway."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.targets.onnx.builder import Builder, Tensor
from kexport.targets.onnx.lowering import Argument, Case, lowers
from kexport.targets.onnx.ops.linear import tied_table


def _wide_table_exists(b: Builder, name: str) -> bool:
    table = b.graph.weights[name]
    return any(tied_table(b, node.input(1)) == table for node in b.graph.of_op("linear"))


def _rows(node: Node, b: Builder, table: Tensor, ids: Tensor) -> Tensor:
    type_ = b.type_of(node.output)
    return b.op("Gather", [table, ids], table.dtype, type_.shape, axis=0)


@lowers(
    "embedding",
    cases=[
        Case("ids", [Argument((11, 8), role="weight"), Argument((2, 3), "int32", values="ids", limit=11)], expect=("Gather",)),
        Case("one row", [Argument((11, 8), role="weight"), Argument((1, 1), "int32", values="ids", limit=11)], expect=("Gather",)),
    ],
)
def lower(node: Node, b: Builder) -> None:
    """Rows of the table."""
    name, ids = node.input(0), b.ids(node.input(1))
    if name in b.graph.weights and not _wide_table_exists(b, name):
        rows = _rows(node, b, b.stored(b.stored_form(b.graph.weights[name])), ids)
        b.set(node.output, b.cast(rows, b.type_of(node.output).dtype))
        return
    b.set(node.output, _rows(node, b, b.value(name), ids))
