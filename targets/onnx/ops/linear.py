"""linear -> MatMul (+ Add). A head tied to the embedding table reads that very tensor: FusedMatMul with transB, no second copy."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.weights import Transposed, Weight
from kexport.targets.onnx.builder import CONTRIB, Builder, Tensor
from kexport.targets.onnx.lowering import Argument, Case, lowers


def tied_table(b: Builder, name: str) -> Weight | None:
    """The embedding table that weight `name` is the transpose of, if the graph looks rows up in it."""
    weight = b.graph.weights.get(name)
    if isinstance(weight, Transposed) and len(weight.shape) == 2 and weight.of in b.embedded:
        return weight.of
    return None


def _product(node: Node, b: Builder) -> Tensor:
    type_, x, table = b.type_of(node.output), b.value(node.input(0)), tied_table(b, node.input(1))
    if table is not None:
        return b.op("FusedMatMul", [x, b.weight(table)], type_.dtype, type_.shape, domain=CONTRIB, transB=1)
    return b.op("MatMul", [x, b.value(node.input(1))], type_.dtype, type_.shape)


@lowers(
    "linear",
    cases=[
        Case("no bias", [Argument((2, 3, 8)), Argument((8, 5), role="weight")], expect=("MatMul",)),
        Case("bias", [Argument((2, 3, 8)), Argument((8, 5), role="weight"), Argument((5,), role="weight")], expect=("MatMul", "Add")),
    ],
)
def lower(node: Node, b: Builder) -> None:
    """x @ weight + bias."""
    result, bias = _product(node, b), b.optional(node.input(2))
    b.set(node.output, result if bias is None else b.op("Add", [result, bias], result.dtype, result.shape))
