"""experts -> products of all experts in the form that the plugin turns into GatherMatmul, which reads the experts that tokens take, no others.

The plugin looks for two forms: three products without biases and a gate of silu or gelu; and two, with biases, limits on gate and values,
which stand in turn, and a shift of the values (gpt-oss). Every other mixture is written alike and computed as it is written.
"""

from __future__ import annotations

from typing import Any

from kexport.graphs.ir import Node
from kexport.graphs.weights import Weight
from kexport.targets import experts_request
from kexport.targets.experts_request import Request
from kexport.targets.openvino.builder import LAST_INDEX, Builder, Output, output_of
from kexport.targets.openvino.lowering import lowers
from openvino import opset13 as op

FORM, DENSE_FORM = "GatherMatmul", "MatMul over all experts"
LAST_AXIS = 2  # of [experts, tokens, columns]


@lowers("experts")
def lower(node: Node, b: Builder) -> None:
    """By the plugin's operator where it takes the node."""
    r = experts_request.read(node, b.graph)
    refusal = why_not_gathered(r)
    share = 1.0 if refusal else r.taken / r.count
    hidden = (_three_products if r.gate_bias is None else _two_products)(r, b, share)
    made = _biased(r, b, op.matmul(hidden, b.weight(r.rows(r.down), share=share), False, True), r.down_bias, share)
    b.set(node.output, b.reshape(_mixed(r, b, made), (r.tokens, r.hidden), b.type_of(node.output).shape))
    b.experts.append(r.record(DENSE_FORM if refusal else FORM, sparse=not refusal, reason=refusal))


def why_not_gathered(r: Request) -> str:
    """Why the plugin does not recognise the node; empty if it does."""
    if r.gate_bias is None and (r.down_bias is not None or r.limit is not None or r.offset or r.alpha != 1 or r.activation == "relu"):
        return "without biases the plugin knows plain gates of silu and gelu"
    if r.gate_bias is not None and (r.down_bias is None or r.limit is None or not r.offset or r.activation != "silu"):
        return "with biases the plugin knows gates of silu with limits and a shift"
    return ""


def _tiled(r: Request, b: Builder) -> Output:
    """The tokens once for every expert, [experts, tokens, hidden]."""
    x = b.reshape(b.value(r.x), b.type_of(r.x).shape, (r.tokens, r.hidden))
    return output_of(op.reshape(op.tile(x, b.integers(r.count, 1)), b.integers(r.count, -1, r.hidden), False))


def _biased(r: Request, b: Builder, made: Any, bias: Weight | None, share: float) -> Output:
    """The plugin wants biases as constants."""
    if bias is None:
        return output_of(made)
    return output_of(op.add(made, b.wide(bias.reshape((r.count, 1, bias.shape[1])), share=share)))


def _three_products(r: Request, b: Builder, share: float) -> Output:
    x = _tiled(r, b)
    gate, up = (output_of(op.matmul(x, b.weight(r.rows(weight), share=share), False, True)) for weight in (r.gate, r.up))
    gate, up = _within_limits(r, b, gate, up)
    return output_of(op.multiply(_activated(r, b, gate), up))


def _two_products(r: Request, b: Builder, share: float) -> Output:
    made = op.matmul(_tiled(r, b), b.weight(r.alternating(), share=share), False, True)
    both = _biased(r, b, made, r.alternating_bias(), share)
    gate, up = (
        output_of(op.slice(both, b.integers(start), b.integers(LAST_INDEX), b.integers(2), b.integers(LAST_AXIS))) for start in (0, 1)
    )
    gate, up = _within_limits(r, b, gate, up)
    return output_of(op.multiply(up, _activated(r, b, gate)))


def _within_limits(r: Request, b: Builder, gate: Output, up: Output) -> tuple[Output, Output]:
    """Gates and values held within the limit, the values shifted."""
    if r.limit is not None:
        gate, up = output_of(op.minimum(gate, b.number(r.limit))), output_of(op.clamp(up, -r.limit, r.limit))
    return gate, output_of(op.add(up, b.number(r.offset))) if r.offset else up


def _activated(r: Request, b: Builder, gate: Output) -> Output:
    """Of silu the factors, which the plugin joins to the Swish that it looks for: a Swish written here is taken for another form."""
    if r.activation == "relu":
        return output_of(op.relu(gate))
    if r.activation != "silu":
        return output_of(op.gelu(gate, "TANH" if r.activation == "gelu_tanh" else "ERF"))
    inner = gate if r.alpha == 1 else op.multiply(gate, b.number(r.alpha))
    return output_of(op.multiply(gate, op.sigmoid(inner)))


def _mixed(r: Request, b: Builder, made: Output) -> Output:
    """[tokens, hidden] of the experts' results [experts, tokens, hidden]: each token's own, weighted."""
    rows, count = b.dim(r.tokens), b.integers(r.count)
    ids, weights = (b.reshape(b.value(name), b.type_of(name).shape, (r.tokens, r.taken)) for name in (r.ids, r.shares))
    zeros = op.broadcast(b.number(0), op.concat([rows, count], 0))
    shares = op.scatter_elements_update(zeros, ids, weights, b.integer(1), "sum")
    turned = op.reshape(b.transpose(shares, (1, 0)), op.concat([count, b.integers(1), rows], 0), False)
    split = op.reshape(made, op.concat([count, b.integers(1), rows, b.integers(r.hidden)], 0), False)
    mixed = op.reduce_sum(op.multiply(split, b.unsqueeze(turned, -1)), b.integers(0), False)
    return output_of(op.reshape(mixed, b.integers(-1, r.hidden), False))
