"""rms_norm and layer_norm by their formulas in graphs/ops/norms.py; rms_norm's offset is added to the weight while it is written."""

from __future__ import annotations

import tensorflow as tf
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.savedmodel.builder import Builder, Tensor, number
from kexport.targets.savedmodel.lowering import lowers

LAST = -1


def _over_root(node: Node, x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon)."""
    mean = tf.reduce_mean(tf.square(x), LAST, keepdims=True)
    return x * tf.math.rsqrt(mean + number(float(attribute(node, "epsilon")), x))


def _gain(node: Node, b: Builder) -> Tensor | None:
    """offset + weight."""
    name, offset = node.input(1), float(attribute(node, "offset"))
    if not name:
        return None
    if name in b.graph.weights:
        weight = b.graph.weights[name]
        return b.given(b.weights.stored_form(weight).plus(offset), weight.dtype)
    value = b.value(name)
    return value + number(offset, value) if offset else value


@lowers("rms_norm")
def lower_rms_norm(node: Node, b: Builder) -> None:
    """x / sqrt(mean(x^2) + epsilon) * (offset + weight)."""
    normed, gain = _over_root(node, b.value(node.input(0))), _gain(node, b)
    b.set(node.output, normed if gain is None else normed * gain)


@lowers("layer_norm")
def lower_layer_norm(node: Node, b: Builder) -> None:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias."""
    x, weight, bias = b.value(node.input(0)), b.optional(node.input(1)), b.optional(node.input(2))
    normed = _over_root(node, x - tf.reduce_mean(x, LAST, keepdims=True))
    normed = normed if weight is None else normed * weight
    b.set(node.output, normed if bias is None else normed + bias)
