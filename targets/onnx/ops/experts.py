"""experts -> com.microsoft MoE, which multiplies every token with the experts that it takes and reads no others; else dense MatMuls.

The operator chooses by itself, by the softmax of what it is given: it gets the logarithms of the tokens' weights, minus infinity for experts
that a token does not take. So it chooses what the graph chose and finds the same weights again, but for their sum, which is multiplied back.
That holds for weights that are parts of a softmax: never negative, and one at least above 0. The operator knows one gate only:
g sigmoid(alpha g) within limits, with gate and values in turn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from kexport.graphs.dims import Dim
from kexport.graphs.ir import Node
from kexport.graphs.weights import Weight
from kexport.targets import experts_request
from kexport.targets.experts_request import Request
from kexport.targets.onnx.builder import CONTRIB, Builder, Tensor
from kexport.targets.onnx.lowering import Argument, Case, lowers

FORM, DENSE_FORM = "MoE", "MatMul over all experts"
UNCHANGED = frozenset({"reshape", "topk"})  # of topk: its first output
_TOKENS, _COUNT, _HIDDEN, _INTERMEDIATE, _TAKEN = 6, 5, 8, 12, 2
_CHOICE = [Argument((_TOKENS, _HIDDEN)), Argument((_TOKENS, _TAKEN), "int32", values="ids", limit=_COUNT), Argument((_TOKENS, _TAKEN))]
_GATE, _DOWN = (Argument(shape, role="weight") for shape in ((_COUNT, _HIDDEN, _INTERMEDIATE), (_COUNT, _INTERMEDIATE, _HIDDEN)))
_BIASES = [Argument((_COUNT, size), role="weight") for size in (_INTERMEDIATE, _INTERMEDIATE, _HIDDEN)]
_MATRICES = [_GATE, _GATE, _DOWN]
_TEXT = [Argument(("batch", "sequence", _HIDDEN)), Argument(("batch", "sequence", 1), "int32", values="ids", limit=_COUNT), Argument(("batch", "sequence", 1))]


@lowers(
    "experts",
    cases=[
        Case("silu", [*_CHOICE, *_MATRICES], {"activation": "silu"}, tolerance=1e-5),
        Case("gelu by tanh, one expert a token", [*_TEXT, *_MATRICES], {"activation": "gelu_tanh"}, tolerance=1e-5),
        Case("gelu", [*_CHOICE, *_MATRICES], {"activation": "gelu"}, tolerance=1e-5),
        Case("relu, last bias", [*_CHOICE, *_MATRICES, None, None, _BIASES[-1]], {"activation": "relu"}, tolerance=1e-5),
        Case(
            "limits and biases",
            [*_CHOICE, *_MATRICES, *_BIASES],
            {"activation": "silu", "alpha": 1.702, "limit": 2.0, "offset": 1.0},
            tolerance=1e-5,
        ),
    ],
)
def lower(node: Node, b: Builder) -> None:
    """By the operator where it takes the node."""
    r = experts_request.read(node, b.graph)
    refusal = why_not_kernel(r, b)
    b.set(node.output, b.reshape((_dense if refusal else _kernel)(r, b), b.type_of(node.output).shape))
    b.experts.append(r.record(DENSE_FORM if refusal else FORM, sparse=not refusal, reason=refusal))


def why_not_kernel(r: Request, b: Builder) -> str:
    """Why the operator cannot take the node; empty if it can."""
    if r.activation != "silu":
        return f"the operator has no gate of {r.activation}"
    if not _parts_of_softmax(b, r.shares):
        return "the operator finds no weights again that are not parts of a softmax"
    return ""


def _parts_of_softmax(b: Builder, name: str) -> bool:
    """Whether `name` is a softmax, its largest parts, or these divided by their sum."""
    node = b.producers.get(name)
    while node is not None and node.op != "softmax":
        kept = node.op in UNCHANGED and name == node.output
        name = node.input(0) if kept or _by_sum(b, node) else ""
        node = b.producers.get(name)
    return node is not None


def _by_sum(b: Builder, node: Node) -> bool:
    divisor = b.producers.get(node.input(1)) if node.op == "div" else None
    return divisor is not None and divisor.op == "reduce_sum" and divisor.input(0) == node.input(0)


def _kernel(r: Request, b: Builder) -> Tensor:
    """[tokens, hidden]."""
    logarithms = b.op("Log", [_shares(r, b)], "float32", (r.tokens, r.count))
    first, last = b.weight(r.alternating()), b.weight(r.rows(r.down))
    biases = [_optional(b, weight) for weight in (r.alternating_bias(), r.down_bias)]
    limit: dict[str, Any] = {} if r.limit is None else {"swiglu_limit": r.limit}
    made = b.op(
        "MoE",
        [_flat(r, b, r.x, r.hidden), logarithms, first, biases[0], last, biases[1]],
        "float32",
        (r.tokens, r.hidden),
        domain=CONTRIB,
        k=r.taken,
        activation_type="swiglu",
        swiglu_fusion=1,
        normalize_routing_weights=1,
        activation_alpha=r.alpha,
        activation_beta=r.offset,
        **limit,
    )
    total = b.op("ReduceSum", [_flat(r, b, r.shares, r.taken), b.integers(-1)], "float32", (r.tokens, 1), keepdims=1)
    return b.op("Mul", [made, total], "float32", made.shape)


def _shares(r: Request, b: Builder) -> Tensor:
    """[tokens, experts]: the weight with which a token takes an expert, 0 where it does not."""
    ids = _flat(r, b, r.ids, r.taken)
    places = b.constant(np.arange(r.count, dtype=np.int32))
    shape = (r.tokens, r.taken, r.count)
    equal = b.op("Equal", [b.reshape(ids, (r.tokens, r.taken, 1)), places], "bool", shape)
    weights = b.reshape(_flat(r, b, r.shares, r.taken), (r.tokens, r.taken, 1))
    weighted = b.op("Mul", [b.cast(equal, "float32"), weights], "float32", shape)
    return b.op("ReduceSum", [weighted, b.integers(1)], "float32", (r.tokens, r.count), keepdims=0)


def _flat(r: Request, b: Builder, name: str, size: Dim) -> Tensor:
    return b.reshape(b.value(name), (r.tokens, size))


def _optional(b: Builder, weight: Weight | None) -> Tensor | None:
    return None if weight is None else b.weight(weight)


# ---- every expert for every token


def _dense(r: Request, b: Builder) -> Tensor:
    """[tokens, hidden]."""
    x = _flat(r, b, r.x, r.hidden)
    gate, up = (_product(r, b, x, weight, bias) for weight, bias in ((r.gate, r.gate_bias), (r.up, r.up_bias)))
    made = _product(r, b, _gated(r, b, gate, up), r.down, r.down_bias)
    shares = b.reshape(b.transpose(_shares(r, b), (1, 0)), (r.count, r.tokens, 1))
    weighted = b.op("Mul", [made, shares], "float32", made.shape)
    return b.op("ReduceSum", [weighted, b.integers(0)], "float32", (r.tokens, r.hidden), keepdims=0)


def _product(r: Request, b: Builder, x: Tensor, weight: Weight, bias: Weight | None) -> Tensor:
    """[experts, tokens, out]."""
    shape = (r.count, r.tokens, weight.shape[-1])
    made = b.op("MatMul", [x, b.weight(weight)], "float32", shape)
    return made if bias is None else b.op("Add", [made, b.reshape(b.weight(bias), (r.count, 1, bias.shape[-1]))], "float32", shape)


def _gated(r: Request, b: Builder, gate: Tensor, up: Tensor) -> Tensor:
    if r.limit is not None:
        gate = b.op("Min", [gate, b.number(r.limit)], "float32", gate.shape)
        up = b.op("Clip", [up, b.number(-r.limit), b.number(r.limit)], "float32", up.shape)
    if r.offset:
        up = b.op("Add", [up, b.number(r.offset)], "float32", up.shape)
    return b.op("Mul", [_activated(r, b, gate), up], "float32", up.shape)


def _activated(r: Request, b: Builder, gate: Tensor) -> Tensor:
    if r.activation == "relu":
        return b.op("Relu", [gate], "float32", gate.shape)
    if r.activation != "silu":
        return b.op("Gelu", [gate], "float32", gate.shape, approximate="tanh" if r.activation == "gelu_tanh" else "none")
    inner = gate if r.alpha == 1 else b.op("Mul", [gate, b.number(r.alpha)], "float32", gate.shape)
    return b.op("Mul", [gate, b.op("Sigmoid", [inner], "float32", gate.shape)], "float32", gate.shape)
