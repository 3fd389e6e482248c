"""silu -> x * sigmoid(x)."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.passes.decompose.registry import Emit, decomposes


@decomposes("silu")
def silu(node: Node, emit: Emit) -> str:
    """x * sigmoid(x)."""
    x = emit.input(0)
    return emit("mul", x, emit("sigmoid", x))
