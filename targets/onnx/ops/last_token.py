"""last_token -> GatherND at lengths - 1, one row of each batch entry."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.targets.onnx.builder import Builder
from kexport.targets.onnx.lowering import Argument, Case, lowers


@lowers(
    "last_token",
    cases=[
        Case(
            "ragged",
            [Argument((3, 5, 8)), Argument((3,), "int32", values="positive", limit=5)],
            expect=("Cast", "Sub", "Unsqueeze", "GatherND"),
        )
    ],
)
def lower(node: Node, b: Builder) -> None:
    """Each row's last real position."""
    x, lengths = b.value(node.input(0)), b.cast(b.ids(node.input(1)), "int64")
    last = b.op("Sub", [lengths, b.integers(1)], "int64", lengths.shape)
    index = b.op("Unsqueeze", [last, b.integers(1, 2)], "int64", (*lengths.shape, 1, 1))
    type_ = b.type_of(node.output)
    b.set(node.output, b.op("GatherND", [x, index], type_.dtype, type_.shape, batch_dims=1))
