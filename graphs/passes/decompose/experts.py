"""experts -> every expert for every token, weighted by the token's choice: 0 for those it does not take."""

from __future__ import annotations

from kexport.graphs.dims import Dim, product
from kexport.graphs.ir import Node
from kexport.graphs.ops.experts import DOWN, DOWN_BIAS, GATE, GATE_BIAS, IDS, UP, UP_BIAS, WEIGHTS, X
from kexport.graphs.passes.decompose.registry import Emit, decomposes

EXPERTS_FIRST = (1, 0)
EXPERTS_SECOND = (1, 0, 2)  # and back


@decomposes("experts")
def experts(node: Node, emit: Emit) -> str:
    """Products with all experts at once, [experts, tokens, ...]."""
    shape = emit.type_of(emit.input(X)).shape
    tokens = product(shape[:-1])
    x = emit.reshape(emit.input(X), tokens, shape[-1])
    gate, up = (_biased(emit, _first(emit, x, matrix), bias) for matrix, bias in ((GATE, GATE_BIAS), (UP, UP_BIAS)))
    made = _biased(emit, emit("matmul", _gated(emit, gate, up), emit.input(DOWN)), DOWN_BIAS)
    weighted = emit("mul", made, _shares(emit, tokens))
    return emit.reshape(emit("reduce_sum", weighted, axes=(0,), keepdims=False), *shape)


def _first(emit: Emit, x: str, matrix: int) -> str:
    """[experts, tokens, out] of x [tokens, in]: one product with all experts side by side, as KerasHub's own is traced."""
    weight, tokens = emit.graph.weights[emit.input(matrix)], emit.type_of(x).shape[0]
    count, size, out = weight.shape
    beside = emit.graph.add_weight(weight.transpose(EXPERTS_SECOND).reshape((size, count * out)))
    made = emit.reshape(emit("linear", x, beside), tokens, count, out)
    return emit("transpose", made, permutation=EXPERTS_SECOND)


def _biased(emit: Emit, made: str, bias: int) -> str:
    """[experts, tokens, out]."""
    if not emit.input(bias):
        return made
    count, size = emit.type_of(emit.input(bias)).shape
    return emit("add", made, emit.reshape(emit.input(bias), count, 1, size))


def _gated(emit: Emit, gate: str, up: str) -> str:
    limit, offset = emit.attr("limit"), emit.attr("offset")
    if limit is not None:
        gate = emit("min", gate, emit.number(limit, gate))
        up = emit("max", emit("min", up, emit.number(limit, up)), emit.number(-limit, up))
    if offset:
        up = emit("add", up, emit.number(offset, up))
    return emit("mul", _activated(emit, gate), up)


def _activated(emit: Emit, gate: str) -> str:
    activation, alpha = emit.attr("activation"), emit.attr("alpha")
    if activation == "silu" and alpha != 1:
        return emit("mul", gate, emit("sigmoid", emit("mul", gate, emit.number(alpha, gate))))
    if activation.startswith("gelu"):
        return emit("gelu", gate, approximate=activation == "gelu_tanh")
    return emit(activation, gate)


def _shares(emit: Emit, tokens: Dim) -> str:
    """[experts, tokens, 1]: the weight with which a token takes an expert."""
    count, taken = emit.type_of(emit.input(GATE)).shape[0], emit.type_of(emit.input(IDS)).shape[-1]
    dtype = emit.type_of(emit.input(WEIGHTS)).dtype
    chosen = emit("one_hot", emit.reshape(emit.input(IDS), tokens, taken), depth=count, dtype=dtype)
    shares = emit("reduce_sum", emit("mul", chosen, emit.reshape(emit.input(WEIGHTS), tokens, taken, 1)), axes=(1,), keepdims=False)
    return emit.reshape(emit("transpose", shares, permutation=EXPERTS_FIRST), count, tokens, 1)
