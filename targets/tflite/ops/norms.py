"""rms_norm and layer_norm in parts that XNNPACK takes: MEAN, RSQRT and elementwise operators. The offset is folded into the weight."""

from __future__ import annotations

from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.tflite.builder import Builder, Tensor
from kexport.targets.tflite.lowering import Argument, Case, lowers

_X, _SCALE = Argument((1, 2, 64)), Argument((64,), role="weight")
ROOT = ("MUL", "MEAN", "ADD", "RSQRT", "MUL")


def _mean(b: Builder, x: Tensor) -> Tensor:
    last = len(x.shape) - 1
    return b.op("MEAN", [x, b.integers(last)], x.dtype, (*x.shape[:-1], 1), keep_dims=True)


def _over_root(node: Node, b: Builder, x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon)."""
    square = _mean(b, b.binary("MUL", x, x))
    root = b.unary("RSQRT", b.binary("ADD", square, b.number(float(attribute(node, "epsilon")))))
    return b.binary("MUL", x, root)


def _gain(node: Node, b: Builder) -> Tensor | None:
    """offset + weight: computed while it is written where the weight is a parameter."""
    name, offset = node.input(1), float(attribute(node, "offset"))
    if not name:
        return None
    if name in b.graph.weights:
        return b.stored(b.stored_form(b.graph.weights[name]).plus(offset))
    value = b.value(name)
    return b.binary("ADD", value, b.number(offset)) if offset else value


@lowers(
    "rms_norm",
    cases=[
        Case("weight", [_X, _SCALE], {"epsilon": 1e-6}, expect=(*ROOT, "MUL")),
        Case("offset", [_X, _SCALE], {"epsilon": 1e-6, "offset": 1.0}, expect=(*ROOT, "MUL")),
        Case("bare", [_X], {"epsilon": 1e-6}, expect=ROOT),
        Case("computed weight", [_X, Argument((64,))], {"epsilon": 1e-6, "offset": 1.0}),
    ],
)
def lower_rms_norm(node: Node, b: Builder) -> None:
    """x / sqrt(mean(x^2) + epsilon) * (offset + weight)."""
    normed, gain = _over_root(node, b, b.value(node.input(0))), _gain(node, b)
    b.set(node.output, normed if gain is None else b.binary("MUL", normed, gain))


@lowers(
    "layer_norm",
    cases=[
        Case("weight and bias", [_X, _SCALE, _SCALE], {"epsilon": 1e-5}, expect=("MEAN", "SUB", *ROOT, "MUL", "ADD")),
        Case("bare", [_X], {"epsilon": 1e-5}, expect=("MEAN", "SUB", *ROOT)),
    ],
)
def lower_layer_norm(node: Node, b: Builder) -> None:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias."""
    x, weight, bias = b.value(node.input(0)), b.optional(node.input(1)), b.optional(node.input(2))
    normed = _over_root(node, b, b.binary("SUB", x, _mean(b, x)))
    normed = normed if weight is None else b.binary("MUL", normed, weight)
    b.set(node.output, normed if bias is None else b.binary("ADD", normed, bias))
