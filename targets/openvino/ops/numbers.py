"""cast, rsqrt, dim_size and range."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.openvino.builder import Builder
from kexport.targets.openvino.lowering import lowers
from openvino import opset13 as op


@lowers("cast")
def lower_cast(node: Node, b: Builder) -> None:
    """x in another dtype."""
    b.set(node.output, b.convert(b.value(node.input(0)), str(attribute(node, "dtype"))))


@lowers("rsqrt")
def lower_rsqrt(node: Node, b: Builder) -> None:
    """1 / sqrt(x)."""
    b.set(node.output, op.divide(b.number(1), op.sqrt(b.value(node.input(0)))))


@lowers("dim_size")
def lower_dim_size(node: Node, b: Builder) -> None:
    """The size of a dim as an int32 scalar."""
    b.set(node.output, b.convert(b.scalar_dim(attribute(node, "dim")), "int32"))


@lowers("range")
def lower_range(node: Node, b: Builder) -> None:
    """0, 1, 2, ... up to a dim's size."""
    b.set(node.output, b.convert(b.range(attribute(node, "size")), str(attribute(node, "dtype"))))
