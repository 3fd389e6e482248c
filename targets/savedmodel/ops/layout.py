"""Ops that move numbers, and sizes as numbers: reshape, transpose, concat, split, slice, broadcast_to, gather, cast, dim_size, range."""

from __future__ import annotations

import tensorflow as tf
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.savedmodel.builder import Builder
from kexport.targets.savedmodel.lowering import lowers

WHOLE = -1


@lowers("reshape")
def lower_reshape(node: Node, b: Builder) -> None:
    """The same numbers in another shape."""
    b.set(node.output, b.reshape(b.value(node.input(0)), tuple(attribute(node, "shape"))))


@lowers("transpose")
def lower_transpose(node: Node, b: Builder) -> None:
    """Axes in a new order."""
    x = node.input(0)
    b.set(node.output, b.transpose(b.value(x), b.type_of(x).shape, tuple(attribute(node, "permutation"))))


@lowers("concat")
def lower_concat(node: Node, b: Builder) -> None:
    """Tensors joined along an axis."""
    b.set(node.output, tf.concat([b.value(name) for name in node.inputs], int(attribute(node, "axis"))))


@lowers("split")
def lower_split(node: Node, b: Builder) -> None:
    """Parts of an axis."""
    sizes = list(attribute(node, "sizes"))
    equal = len(set(sizes)) == 1
    for name, part in zip(
        node.outputs, tf.split(b.value(node.input(0)), len(sizes) if equal else sizes, int(attribute(node, "axis"))), strict=True
    ):
        b.set(name, part)


@lowers("slice")
def lower_slice(node: Node, b: Builder) -> None:
    """Positions of one axis."""
    axis, start, stop = (int(attribute(node, name)) for name in ("axis", "start", "stop"))
    rank = len(b.type_of(node.input(0)).shape)
    begin = [start if place == axis else 0 for place in range(rank)]
    size = [stop - start if place == axis else WHOLE for place in range(rank)]
    b.set(node.output, tf.slice(b.value(node.input(0)), begin, size))


@lowers("broadcast_to")
def lower_broadcast_to(node: Node, b: Builder) -> None:
    """x repeated to a larger shape."""
    b.set(node.output, tf.broadcast_to(b.value(node.input(0)), b.full_shape(tuple(attribute(node, "shape")))))


@lowers("gather")
def lower_gather(node: Node, b: Builder) -> None:
    """x at indices along an axis."""
    x, indices = (b.value(name) for name in node.inputs)
    b.set(node.output, tf.gather(x, indices, axis=int(attribute(node, "axis"))))


@lowers("cast")
def lower_cast(node: Node, b: Builder) -> None:
    """x in another dtype."""
    b.set(node.output, tf.cast(b.value(node.input(0)), str(attribute(node, "dtype"))))


@lowers("dim_size")
def lower_dim_size(node: Node, b: Builder) -> None:
    """A size as a number."""
    b.set(node.output, b.size_tensor(attribute(node, "dim")))


@lowers("range")
def lower_range(node: Node, b: Builder) -> None:
    """0, 1, 2, ..."""
    b.set(node.output, tf.cast(tf.range(b.size_tensor(attribute(node, "size"))), str(attribute(node, "dtype"))))
