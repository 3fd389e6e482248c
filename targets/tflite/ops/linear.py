"""linear -> FULLY_CONNECTED over [out, in]: a tied head reads the embedding table itself, no second copy."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.targets.tflite.builder import Builder, Tensor
from kexport.targets.tflite.lowering import Argument, Case, lowers

OUT_FIRST = (1, 0)
_X = Argument((1, 3, 8))


def _rows(node: Node, b: Builder) -> Tensor:
    name = node.input(1)
    if name in b.graph.weights:
        return b.weight(b.graph.weights[name].transpose(OUT_FIRST))
    if name in b.graph.constants:
        return b.constant(b.graph.constants[name].transpose(OUT_FIRST))
    return b.transpose(b.value(name), OUT_FIRST)


@lowers(
    "linear",
    cases=[
        Case("no bias", [_X, Argument((8, 5), role="weight")], expect=("FULLY_CONNECTED",)),
        Case("bias", [_X, Argument((8, 5), role="weight"), Argument((5,), role="weight")], expect=("FULLY_CONNECTED",)),
        Case("computed weight", [_X, Argument((8, 5))], expect=("TRANSPOSE", "FULLY_CONNECTED")),
    ],
)
def lower(node: Node, b: Builder) -> None:
    """x @ weight + bias."""
    x, rows, bias = b.value(node.input(0)), _rows(node, b), b.optional(node.input(2))
    b.set(node.output, b.op("FULLY_CONNECTED", [x, rows, bias], x.dtype, (*x.shape[:-1], rows.shape[0]), keep_num_dims=True))
