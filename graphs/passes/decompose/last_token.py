"""last_token -> one gather from the rows laid end to end."""

from __future__ import annotations

import numpy as np
from kexport.graphs.dims import product
from kexport.graphs.ir import Node
from kexport.graphs.passes.decompose.registry import Emit, decomposes


@decomposes("last_token")
def last_token(node: Node, emit: Emit) -> str:
    """x.reshape(batch * sequence, dim)[row * sequence + length - 1]; every length is at least 1."""
    x = emit.input(0)
    batch, sequence, width = emit.type_of(x).shape
    last = emit("sub", emit.cast(emit.input(1), "int32"), emit.graph.add_constant(np.int32(1)))
    starts = emit("mul", emit("range", size=batch, dtype="int32"), emit("dim_size", dim=sequence))
    rows = emit.reshape(x, product((batch, sequence)), width)
    return emit.reshape(emit("gather", rows, emit("add", starts, last), axis=0), batch, 1, width)
