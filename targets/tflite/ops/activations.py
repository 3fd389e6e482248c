"""gelu -> GELU, silu -> LOGISTIC and MUL; all of them taken by XNNPACK."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.tflite.builder import Builder
from kexport.targets.tflite.lowering import Argument, Case, lowers

_X = Argument((1, 2, 64))


@lowers(
    "gelu",
    cases=[Case("exact", [_X], expect=("GELU",)), Case("tanh", [_X], {"approximate": True}, expect=("GELU",))],
)
def lower_gelu(node: Node, b: Builder) -> None:
    """Exact by erf, or the tanh approximation."""
    b.set(node.output, b.unary("GELU", b.value(node.input(0)), approximate=bool(attribute(node, "approximate"))))


@lowers("silu", cases=[Case("decode step", [Argument((1, 1, 64))], expect=("LOGISTIC", "MUL"))])
def lower_silu(node: Node, b: Builder) -> None:
    """x * sigmoid(x)."""
    x = b.value(node.input(0))
    b.set(node.output, b.binary("MUL", x, b.unary("LOGISTIC", x)))
