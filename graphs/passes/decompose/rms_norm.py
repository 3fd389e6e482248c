"""rms_norm -> mean of squares, square root, division; in float32 or wider."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.passes.decompose.registry import Emit, decomposes


@decomposes("rms_norm")
def rms_norm(node: Node, emit: Emit) -> str:
    """x / sqrt(mean(x^2) + epsilon) * (offset + weight)."""
    x, weight = emit.widened(emit.input(0)), emit.input(1)
    last = len(emit.type_of(x).shape) - 1
    mean = emit("reduce_mean", emit("mul", x, x), axes=(last,), keepdims=True)
    normed = emit("div", x, emit("sqrt", emit("add", mean, emit.number(emit.attr("epsilon"), x))))
    if weight:
        scale = emit.cast(weight, emit.type_of(x).dtype)
        offset = emit.attr("offset")
        normed = emit("mul", normed, emit("add", scale, emit.number(offset, x)) if offset else scale)
    return emit.cast(normed, emit.type_of(emit.input(0)).dtype)
