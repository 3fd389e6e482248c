"""layer_norm -> mean, variance, square root, division; in float32 or wider."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.passes.decompose.registry import Emit, decomposes


@decomposes("layer_norm")
def layer_norm(node: Node, emit: Emit) -> str:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias."""
    x, weight, bias = emit.widened(emit.input(0)), emit.input(1), emit.input(2)
    dtype, last = emit.type_of(x).dtype, len(emit.type_of(x).shape) - 1
    centred = emit("sub", x, emit("reduce_mean", x, axes=(last,), keepdims=True))
    variance = emit("reduce_mean", emit("mul", centred, centred), axes=(last,), keepdims=True)
    normed = emit("div", centred, emit("sqrt", emit("add", variance, emit.number(emit.attr("epsilon"), x))))
    if weight:
        normed = emit("mul", normed, emit.cast(weight, dtype))
    if bias:
        normed = emit("add", normed, emit.cast(bias, dtype))
    return emit.cast(normed, emit.type_of(emit.input(0)).dtype)
