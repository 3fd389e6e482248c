"""cast, rsqrt, dim_size and range."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.onnx.builder import Builder
from kexport.targets.onnx.lowering import Argument, Case, lowers

_TEXT = Argument(("batch", "sequence"), "int32", values="ids", limit=9)


@lowers(
    "cast",
    cases=[
        Case("to int", [Argument((2, 3))], {"dtype": "int32"}, expect=("Cast",)),
        Case("to float", [_TEXT], {"dtype": "float32"}, expect=("Cast",)),
        Case("to bool", [_TEXT], {"dtype": "bool"}, expect=("Cast",)),
        Case("from half", [Argument((2, 3), "float16", role="weight")], {"dtype": "float32"}, expect=("Cast",)),
        Case("from bfloat16", [Argument((2, 3), "bfloat16", role="weight")], {"dtype": "float32"}, expect=("Cast",)),
    ],
)
def lower_cast(node: Node, b: Builder) -> None:
    """x in another dtype."""
    b.set(node.output, b.cast(b.value(node.input(0)), str(attribute(node, "dtype"))))


@lowers("rsqrt", cases=[Case("rsqrt", [Argument((2, 3), values="positive")], expect=("Sqrt", "Reciprocal"))])
def lower_rsqrt(node: Node, b: Builder) -> None:
    """1 / sqrt(x)."""
    x = b.value(node.input(0))
    b.set(node.output, b.op("Reciprocal", [b.op("Sqrt", [x], x.dtype, x.shape)], x.dtype, x.shape))


@lowers("dim_size")
def lower_dim_size(node: Node, b: Builder) -> None:
    """The size of a dim as an int32 scalar."""
    size = b.cast(b.dim(attribute(node, "dim")), "int32")
    b.set(node.output, b.op("Squeeze", [size, b.integers(0)], "int32", ()))


@lowers("range")
def lower_range(node: Node, b: Builder) -> None:
    """0, 1, 2, ... up to a dim's size."""
    b.set(node.output, b.cast(b.range(attribute(node, "size")), str(attribute(node, "dtype"))))
