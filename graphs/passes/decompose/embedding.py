"""embedding -> gather along the table's first axis."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.passes.decompose.registry import Emit, decomposes


@decomposes("embedding")
def embedding(node: Node, emit: Emit) -> str:
    """table[ids]."""
    return emit("gather", emit.input(0), emit.input(1), axis=0)
