"""linear -> matmul, add."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.passes.decompose.registry import Emit, decomposes


@decomposes("linear")
def linear(node: Node, emit: Emit) -> str:
    """x @ weight (+ bias)."""
    result = emit("matmul", emit.input(0), emit.input(1))
    bias = emit.input(2)
    return emit("add", result, emit.cast(bias, emit.type_of(result).dtype)) if bias else result
