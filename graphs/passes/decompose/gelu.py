"""gelu -> erf or tanh and products."""

from __future__ import annotations

import math

from kexport.graphs.ir import Node
from kexport.graphs.ops.activations import CUBIC
from kexport.graphs.passes.decompose.registry import Emit, decomposes

HALF = 0.5


@decomposes("gelu")
def gelu(node: Node, emit: Emit) -> str:
    """0.5 x (1 + erf(x / sqrt 2)), or the tanh approximation."""
    x = emit.input(0)
    inner = _tanh_part(emit, x) if emit.attr("approximate") else emit("erf", emit("div", x, emit.number(math.sqrt(2), x)))
    half = emit("mul", x, emit.number(HALF, x))
    return emit("mul", half, emit("add", inner, emit.number(1, x)))


def _tanh_part(emit: Emit, x: str) -> str:
    cube = emit("mul", emit("mul", x, x), x)
    polynomial = emit("add", x, emit("mul", cube, emit.number(CUBIC, x)))
    return emit("tanh", emit("mul", polynomial, emit.number(math.sqrt(2 / math.pi), x)))
