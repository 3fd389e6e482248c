"""gelu -> Gelu (opset 20), silu -> x * Sigmoid(x), which onnxruntime fuses itself where that pays."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.onnx.builder import Builder
from kexport.targets.onnx.lowering import Argument, Case, lowers

_X = [Argument((2, 3, 8))]


@lowers("gelu", cases=[Case("exact", _X, expect=("Gelu",)), Case("tanh", _X, {"approximate": True}, expect=("Gelu",))])
def lower_gelu(node: Node, b: Builder) -> None:
    """Exact or by tanh."""
    x = b.value(node.input(0))
    b.set(node.output, b.op("Gelu", [x], x.dtype, x.shape, approximate="tanh" if attribute(node, "approximate") else "none"))


@lowers("silu", cases=[Case("silu", _X, expect=("Sigmoid", "Mul"))])
def lower_silu(node: Node, b: Builder) -> None:
    """x * sigmoid(x)."""
    x = b.value(node.input(0))
    b.set(node.output, b.op("Mul", [x, b.op("Sigmoid", [x], x.dtype, x.shape)], x.dtype, x.shape))
