"""rope -> angles, cos, sin, and the two halves turned; in float32 or wider."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.passes.decompose.registry import Emit, decomposes

LAST = 3


@decomposes("rope")
def rope(node: Node, emit: Emit) -> str:
    """factor * (first cos - second sin, second cos + first sin), what lies beyond the rotary part unchanged."""
    x = emit.input(0)
    half = int(emit.type_of(emit.input(2)).shape[0])
    first, second = (emit.widened(_part(emit, x, start, start + half)) for start in (0, half))
    cos, sin = _cos_sin(emit, half, emit.type_of(first).dtype)
    turned = emit(
        "concat",
        emit("sub", emit("mul", first, cos), emit("mul", second, sin)),
        emit("add", emit("mul", second, cos), emit("mul", first, sin)),
        axis=LAST,
    )
    if emit.attr("factor") != 1:
        turned = emit("mul", turned, emit.number(emit.attr("factor"), turned))
    turned = emit.cast(turned, emit.type_of(x).dtype)
    size = int(emit.type_of(x).shape[LAST])
    return turned if size == 2 * half else emit("concat", turned, _part(emit, x, 2 * half, size), axis=LAST)


def _part(emit: Emit, x: str, start: int, stop: int) -> str:
    return emit("slice", x, axis=LAST, start=start, stop=stop)


def _cos_sin(emit: Emit, half: int, dtype: str) -> tuple[str, str]:
    """[batch, sequence, 1, half] cos and sin of the angles, which are float32 always."""
    positions, frequencies = emit.input(1), emit.input(2)
    rows, columns = emit.type_of(positions).shape
    at = emit.reshape(emit.cast(positions, "float32"), rows, columns, 1, 1)
    angles = emit("mul", at, emit.reshape(emit.cast(frequencies, "float32"), 1, 1, 1, half))
    return emit.cast(emit("cos", angles), dtype), emit.cast(emit("sin", angles), dtype)
