"""Ops that move numbers: reshape, transpose, concat, split, slice, broadcast_to, gather."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.openvino.builder import Builder
from kexport.targets.openvino.lowering import lowers
from openvino import opset13 as op


@lowers("reshape")
def lower_reshape(node: Node, b: Builder) -> None:
    """The same numbers in another shape."""
    b.set(node.output, b.reshape(b.value(node.input(0)), b.type_of(node.input(0)).shape, tuple(attribute(node, "shape"))))


@lowers("transpose")
def lower_transpose(node: Node, b: Builder) -> None:
    """Axes in a new order."""
    b.set(node.output, b.transpose(b.value(node.input(0)), tuple(attribute(node, "permutation"))))


@lowers("concat")
def lower_concat(node: Node, b: Builder) -> None:
    """Tensors joined along an axis."""
    b.set(node.output, op.concat([b.value(name) for name in node.inputs], int(attribute(node, "axis"))))


@lowers("split")
def lower_split(node: Node, b: Builder) -> None:
    """Parts of an axis."""
    parts = op.variadic_split(b.value(node.input(0)), b.integer(int(attribute(node, "axis"))), b.integers(*attribute(node, "sizes")))
    for index, name in enumerate(node.outputs):
        b.set(name, parts.output(index))


@lowers("slice")
def lower_slice(node: Node, b: Builder) -> None:
    """Positions of one axis."""
    start, stop, axis = (b.integers(int(attribute(node, name))) for name in ("start", "stop", "axis"))
    b.set(node.output, op.slice(b.value(node.input(0)), start, stop, b.integers(1), axis))


@lowers("broadcast_to")
def lower_broadcast_to(node: Node, b: Builder) -> None:
    """x repeated to a larger shape."""
    b.set(node.output, op.broadcast(b.value(node.input(0)), b.shape(tuple(attribute(node, "shape")))))


@lowers("gather")
def lower_gather(node: Node, b: Builder) -> None:
    """x at indices along an axis."""
    b.set(node.output, op.gather(b.value(node.input(0)), b.ids(node.input(1)), b.integer(int(attribute(node, "axis")))))
