"""experts -> for one token, the matrices of its experts by GATHER, each in a FULLY_CONNECTED; for several, BATCH_MATMULs over all experts.

A GATHER of one expert copies it; a BATCH_MATMUL over the copies was measured five times slower than products one by one. Decoding and prefill
read the same buffers. Under narrow storage only the taken experts are widened in a decode step.
"""

from __future__ import annotations

import numpy as np
from kexport.graphs.ir import Node
from kexport.graphs.weights import Weight
from kexport.targets import experts_request
from kexport.targets.experts_request import Request
from kexport.targets.tflite.builder import Builder, Sizes, Tensor
from kexport.targets.tflite.lowering import Argument, Case, lowers

FORM, DENSE_FORM = "GATHER-FULLY_CONNECTED", "BATCH_MATMUL over all experts"
_COUNT, _HIDDEN, _INTERMEDIATE = 5, 8, 12
_GATE, _DOWN = (Argument(shape, role="weight") for shape in ((_COUNT, _HIDDEN, _INTERMEDIATE), (_COUNT, _INTERMEDIATE, _HIDDEN)))
_MATRICES = [_GATE, _GATE, _DOWN]
_BIASES = [Argument((_COUNT, size), role="weight") for size in (_INTERMEDIATE, _INTERMEDIATE, _HIDDEN)]
_GPT_OSS = {"activation": "silu", "alpha": 1.702, "limit": 2.0, "offset": 1.0}


def _arguments(tokens: int, taken: int) -> list[Argument]:
    choice = [Argument((1, tokens, taken), "int32", values="ids", limit=_COUNT), Argument((1, tokens, taken))]
    return [Argument((1, tokens, _HIDDEN)), *choice, *_MATRICES]


@lowers(
    "experts",
    cases=[
        Case("a step", _arguments(1, 2), {"activation": "silu"}, tolerance=1e-5),
        Case("a step with one expert", _arguments(1, 1), {"activation": "gelu_tanh"}, tolerance=1e-5),
        Case("a step with as many as there are", _arguments(1, _COUNT), {"activation": "gelu"}, tolerance=1e-5),
        Case("a step with limits and biases", [*_arguments(1, 2), *_BIASES], _GPT_OSS, tolerance=1e-5),
        Case("several tokens", _arguments(6, 2), {"activation": "relu"}, tolerance=1e-5),
        Case("several tokens, gelu", _arguments(6, 2), {"activation": "gelu_tanh"}, tolerance=1e-5),
        Case("several tokens with limits and biases", [*_arguments(6, 2), *_BIASES], _GPT_OSS, tolerance=1e-5),
    ],
)
def lower(node: Node, b: Builder) -> None:
    """By the number of tokens, which every signature knows."""
    r = experts_request.read(node, b.graph)
    (tokens,) = b.fixed((r.tokens,))
    sparse = tokens == 1 and r.taken < r.count
    reason = "" if sparse else "a token takes them all" if tokens == 1 else "several tokens"
    made = _step(r, b) if sparse else _dense(r, b, tokens)
    b.set(node.output, b.reshape(made, b.shape_of(node.output)))
    b.experts.append(r.record(FORM if sparse else DENSE_FORM, sparse=sparse, reason=reason))


# ---- one token


def _step(r: Request, b: Builder) -> Tensor:
    """[1, hidden]."""
    x, ids, weights = (b.reshape(b.value(name), (1, size)) for name, size in ((r.x, r.hidden), (r.ids, r.taken), (r.shares, r.taken)))
    total = None
    for place in range(r.taken):
        expert = b.reshape(b.part(ids, (0, place), (1, 1)), ())
        gate, up = (_of_one(b, x, r.rows(matrix), bias, expert) for matrix, bias in ((r.gate, r.gate_bias), (r.up, r.up_bias)))
        made = _of_one(b, _gated(r, b, gate, up), r.rows(r.down), r.down_bias, expert)
        weighted = b.binary("MUL", made, b.part(weights, (0, place), (1, 1)))
        total = weighted if total is None else b.binary("ADD", total, weighted)
    assert total is not None
    return total


def _of_one(b: Builder, x: Tensor, rows: Weight, bias: Weight | None, expert: Tensor) -> Tensor:
    made = b.op("FULLY_CONNECTED", [x, _taken(b, rows, expert), None], "float32", (1, rows.shape[1]), keep_num_dims=True)
    return made if bias is None else b.binary("ADD", made, _taken(b, bias, expert))


def _taken(b: Builder, weight: Weight, expert: Tensor) -> Tensor:
    """What `weight` has for one expert."""
    stored = b.stored(b.stored_form(weight))
    return b.cast(b.op("GATHER", [stored, expert], stored.dtype, stored.shape[1:], axis=0), weight.dtype)


# ---- every expert for every token


def _dense(r: Request, b: Builder, tokens: int) -> Tensor:
    """[tokens, hidden]."""
    x = b.reshape(b.value(r.x), (1, tokens, r.hidden))
    gate, up = (_of_all(b, x, r.rows(matrix), bias) for matrix, bias in ((r.gate, r.gate_bias), (r.up, r.up_bias)))
    made = _of_all(b, _gated(r, b, gate, up), r.rows(r.down), r.down_bias)
    weighted = b.binary("MUL", made, _shares(r, b, tokens))
    return b.op("SUM", [weighted, b.integers(0)], "float32", (tokens, r.hidden))


def _of_all(b: Builder, x: Tensor, rows: Weight, bias: Weight | None) -> Tensor:
    count, out, _ = rows.shape
    made = b.op("BATCH_MATMUL", [x, b.weight(rows)], "float32", (count, x.shape[1], out), adj_y=True)
    return made if bias is None else b.binary("ADD", made, b.weight(bias.reshape((count, 1, out))))


def _shares(r: Request, b: Builder, tokens: int) -> Tensor:
    """[experts, tokens, 1]: the weight with which a token takes an expert."""
    ids, weights = (b.reshape(b.value(name), shape) for name, shape in ((r.ids, (tokens, r.taken)), (r.shares, (tokens, r.taken, 1))))
    shape: Sizes = (tokens, r.taken, r.count)
    chosen = b.op("ONE_HOT", [ids, b.constant(np.int32(r.count)), b.number(1), b.number(0)], "float32", shape, axis=-1)
    shares = b.op("SUM", [b.binary("MUL", chosen, weights), b.integers(1)], "float32", (tokens, r.count))
    return b.reshape(b.transpose(shares, (1, 0)), (r.count, tokens, 1))


# ---- between the products


def _gated(r: Request, b: Builder, gate: Tensor, up: Tensor) -> Tensor:
    if r.limit is not None:
        limit = b.number(r.limit)
        gate, up = b.binary("MINIMUM", gate, limit), b.binary("MAXIMUM", b.binary("MINIMUM", up, limit), b.number(-r.limit))
    if r.offset:
        up = b.binary("ADD", up, b.number(r.offset))
    return b.binary("MUL", _activated(r, b, gate), up)


def _activated(r: Request, b: Builder, gate: Tensor) -> Tensor:
    if r.activation == "relu":
        return b.unary("RELU", gate)
    if r.activation != "silu":
        return b.unary("GELU", gate, approximate=r.activation == "gelu_tanh")
    inner = gate if r.alpha == 1 else b.binary("MUL", gate, b.number(r.alpha))
    return b.binary("MUL", gate, b.unary("LOGISTIC", inner))
