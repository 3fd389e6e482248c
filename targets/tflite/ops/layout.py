"""Ops that move numbers: reshape, transpose, concat, split, slice, broadcast_to, gather."""

from __future__ import annotations

import numpy as np
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.tflite.builder import Builder
from kexport.targets.tflite.lowering import Argument, Case, lowers

_X = Argument((2, 3, 8))
_TEXT = Argument(("batch", "sequence", 8))


@lowers(
    "reshape",
    cases=[
        Case("fixed", [_X], {"shape": (6, 8)}, expect=("RESHAPE",)),
        Case("heads", [_TEXT], {"shape": ("batch", "sequence", 2, 4)}, expect=("RESHAPE",)),
        Case("merged", [_TEXT], {"shape": ("batch*sequence", 8)}, expect=("RESHAPE",)),
    ],
)
def lower_reshape(node: Node, b: Builder) -> None:
    """The same numbers in another shape."""
    b.set(node.output, b.reshape(b.value(node.input(0)), b.shape_of(node.output)))


@lowers(
    "transpose",
    cases=[
        Case("two axes", [_X], {"permutation": (0, 2, 1)}, expect=("TRANSPOSE",)),
        Case("one of size 1", [Argument((2, 1, 8))], {"permutation": (1, 0, 2)}, expect=("RESHAPE",)),
    ],
)
def lower_transpose(node: Node, b: Builder) -> None:
    """Axes in a new order."""
    b.set(node.output, b.transpose(b.value(node.input(0)), tuple(attribute(node, "permutation"))))


@lowers("concat", cases=[Case("last axis", [_X, Argument((2, 3, 5))], {"axis": 2}, expect=("CONCATENATION",))])
def lower_concat(node: Node, b: Builder) -> None:
    """Tensors joined along an axis."""
    b.set(node.output, b.joined([b.value(name) for name in node.inputs], int(attribute(node, "axis"))))


@lowers(
    "split",
    cases=[
        Case("equal parts", [_X], {"axis": 2, "sizes": (4, 4)}, expect=("SPLIT",)),
        Case("unequal parts", [_X], {"axis": 2, "sizes": (4, 2, 2)}, expect=("SLICE", "SLICE", "SLICE")),
    ],
)
def lower_split(node: Node, b: Builder) -> None:
    """Parts of an axis: SPLIT where they are equal, else one SLICE each (XNNPACK takes both, but not SPLIT_V)."""
    x, axis, sizes = b.value(node.input(0)), int(attribute(node, "axis")), tuple(attribute(node, "sizes"))
    shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
    if len(set(sizes)) == 1:
        kinds = [(x.dtype, shape) for shape in shapes]
        parts = b.operator("SPLIT", [b.constant(np.int32(axis)), x], kinds, num_splits=len(sizes))
    else:
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        begins = [tuple(start if place == axis else 0 for place in range(len(x.shape))) for start in starts]
        parts = tuple(b.part(x, begin, shape) for begin, shape in zip(begins, shapes, strict=True))
    for name, part in zip(node.outputs, parts, strict=True):
        b.set(name, part)


@lowers("slice", cases=[Case("middle", [_X], {"axis": 2, "start": 2, "stop": 5}, expect=("SLICE",))])
def lower_slice(node: Node, b: Builder) -> None:
    """Positions of one axis."""
    x, axis, start = b.value(node.input(0)), int(attribute(node, "axis")), int(attribute(node, "start"))
    begin = tuple(start if place == axis else 0 for place in range(len(x.shape)))
    b.set(node.output, b.part(x, begin, b.shape_of(node.output)))


@lowers(
    "broadcast_to",
    cases=[
        Case("larger", [Argument((3, 1))], {"shape": (2, 3, 8)}, expect=("BROADCAST_TO",)),
        Case("as it is", [Argument((1, 3, 8))], {"shape": ("batch", 3, 8)}),
    ],
)
def lower_broadcast_to(node: Node, b: Builder) -> None:
    """x repeated to a larger shape."""
    x, shape = b.value(node.input(0)), b.shape_of(node.output)
    b.set(node.output, x if x.shape == shape else b.op("BROADCAST_TO", [x, b.integers(*shape)], x.dtype, shape))


@lowers(
    "gather",
    cases=[
        Case("rows", [_X, Argument((2,), "int32", values="ids", limit=3)], {"axis": 1}, expect=("GATHER",)),
        Case("one", [_X, Argument((), "int32", values="ids", limit=8)], {"axis": 2}, expect=("GATHER",)),
    ],
)
def lower_gather(node: Node, b: Builder) -> None:
    """x at indices along an axis."""
    x, indices = (b.value(name) for name in node.inputs)
    b.set(node.output, b.op("GATHER", [x, indices], x.dtype, b.shape_of(node.output), axis=int(attribute(node, "axis"))))
