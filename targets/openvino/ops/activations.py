"""gelu -> Gelu, silu -> Swish."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.openvino.builder import Builder
from kexport.targets.openvino.lowering import lowers
from openvino import opset13 as op


@lowers("gelu")
def lower_gelu(node: Node, b: Builder) -> None:
    """Exact or by tanh."""
    b.set(node.output, op.gelu(b.value(node.input(0)), "TANH" if attribute(node, "approximate") else "ERF"))


@lowers("silu")
def lower_silu(node: Node, b: Builder) -> None:
    """x * sigmoid(x)."""
    b.set(node.output, op.swish(b.value(node.input(0))))
