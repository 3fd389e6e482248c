"""Ops that move numbers: reshape, transpose, concat, split, slice, broadcast_to, gather."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.onnx.builder import Builder
from kexport.targets.onnx.lowering import Argument, Case, lowers

_X = Argument((2, 3, 8))
_TEXT = Argument(("batch", "sequence", 8))


@lowers(
    "reshape",
    cases=[
        Case("fixed", [_X], {"shape": (6, 8)}, expect=("Reshape",)),
        Case("heads", [_TEXT], {"shape": ("batch", "sequence", 2, 4)}, expect=("Reshape",)),
        Case("merged", [_TEXT], {"shape": ("batch*sequence", 8)}, expect=("Reshape",)),
        Case("new order of names", [Argument(("batch", 2, "sequence", 4))], {"shape": (2, "batch", "2*sequence", 2)}),
    ],
)
def lower_reshape(node: Node, b: Builder) -> None:
    """The same numbers in another shape."""
    b.set(node.output, b.reshape(b.value(node.input(0)), tuple(attribute(node, "shape"))))


@lowers("transpose", cases=[Case("heads first", [_TEXT], {"permutation": (0, 2, 1)}, expect=("Transpose",))])
def lower_transpose(node: Node, b: Builder) -> None:
    """Axes in a new order."""
    b.set(node.output, b.transpose(b.value(node.input(0)), tuple(attribute(node, "permutation"))))


@lowers("concat", cases=[Case("last axis", [_X, Argument((2, 3, 5))], {"axis": 2}, expect=("Concat",))])
def lower_concat(node: Node, b: Builder) -> None:
    """Tensors joined along an axis."""
    type_ = b.type_of(node.output)
    inputs = [b.value(name) for name in node.inputs]
    b.set(node.output, b.op("Concat", inputs, type_.dtype, type_.shape, axis=int(attribute(node, "axis"))))


@lowers("split", cases=[Case("three parts", [_X], {"axis": 2, "sizes": (4, 2, 2)}, expect=("Split",))])
def lower_split(node: Node, b: Builder) -> None:
    """Parts of an axis."""
    types = [b.type_of(name) for name in node.outputs]
    inputs = [b.value(node.input(0)), b.integers(*attribute(node, "sizes"))]
    parts = b.operator("Split", inputs, [(type_.dtype, type_.shape) for type_ in types], axis=int(attribute(node, "axis")))
    for name, part in zip(node.outputs, parts, strict=True):
        b.set(name, part)


@lowers("slice", cases=[Case("middle", [_X], {"axis": 2, "start": 2, "stop": 5}, expect=("Slice",))])
def lower_slice(node: Node, b: Builder) -> None:
    """Positions of one axis."""
    type_ = b.type_of(node.output)
    bounds = [b.integers(int(attribute(node, name))) for name in ("start", "stop", "axis")]
    b.set(node.output, b.op("Slice", [b.value(node.input(0)), *bounds], type_.dtype, type_.shape))


@lowers(
    "broadcast_to",
    cases=[
        Case("fixed", [Argument((3, 1))], {"shape": (2, 3, 8)}, expect=("Expand",)),
        Case("named", [Argument(("batch", 1, 4))], {"shape": ("batch", 3, 4)}, expect=("Shape", "Concat", "Expand")),
    ],
)
def lower_broadcast_to(node: Node, b: Builder) -> None:
    """x repeated to a larger shape."""
    b.set(node.output, b.expand(b.value(node.input(0)), tuple(attribute(node, "shape"))))


@lowers(
    "gather",
    cases=[
        Case("rows", [_X, Argument((2,), "int32", values="ids", limit=3)], {"axis": 1}, expect=("Gather",)),
        Case("one", [_X, Argument((), "int32", values="ids", limit=8)], {"axis": 2}, expect=("Gather",)),
    ],
)
def lower_gather(node: Node, b: Builder) -> None:
    """x at indices along an axis."""
    type_ = b.type_of(node.output)
    inputs = [b.value(node.input(0)), b.ids(node.input(1))]
    b.set(node.output, b.op("Gather", inputs, type_.dtype, type_.shape, axis=int(attribute(node, "axis"))))
