"""rms_norm in the form that the plugin turns into its RMS kernel, layer_norm -> MVN.

    rms_norm     gamma * (x * (1 / sqrt(reduce_mean(x^2) + epsilon)))

A constant offset (Gemma's 1 + weight) is added to the weight when it is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.openvino.builder import Builder, Output, fixed, output_of
from kexport.targets.openvino.lowering import lowers
from openvino import opset13 as op


def _scale(node: Node, b: Builder, offset: float) -> Output | None:
    """The factor of the last axis with the rank of x, None where there is none."""
    name, rank = node.input(1), len(b.type_of(node.input(0)).shape)
    if not name:
        return None
    size = fixed(b.type_of(name).shape[0], "the normalized axis", node)
    shape = (1,) * (rank - 1) + (size,)
    if name in b.graph.weights:
        weight = b.graph.weights[name]
        stored = b.stored_form(weight).plus(offset)  # plus after rounding: the oracle adds the offset to the rounded weight
        return b.stored(stored.reshape(shape))
    scale = b.value(name)
    return b.reshape(op.add(b.constant(np.asarray(offset, np.float32)), scale) if offset else scale, (size,), shape)


def _scaled(made: Any, scale: Output | None) -> Any:
    return made if scale is None else op.multiply(scale, made)


@lowers("rms_norm")
def lower_rms_norm(node: Node, b: Builder) -> None:
    """x / sqrt(mean(x^2) + epsilon) * (offset + weight)."""
    x, rank = b.value(node.input(0)), len(b.type_of(node.input(0)).shape)
    mean = op.reduce_mean(op.power(x, b.number(2, rank)), b.integers(-1), True)
    root = op.sqrt(op.add(mean, b.number(float(attribute(node, "epsilon")), rank)))
    normed = op.multiply(x, op.divide(b.number(1, rank), root))
    scale = _scale(node, b, float(attribute(node, "offset")))
    b.set(node.output, _scaled(normed, scale))


@lowers("layer_norm")
def lower_layer_norm(node: Node, b: Builder) -> None:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias."""
    x, rank = b.value(node.input(0)), len(b.type_of(node.input(0)).shape)
    normed = _scaled(op.mvn(x, b.integers(-1), True, float(attribute(node, "epsilon")), "INSIDE_SQRT"), _scale(node, b, 0.0))
    bias = b.optional(node.input(2))
    if bias is not None:
        size = b.type_of(node.input(2)).shape
        normed = op.add(normed, b.reshape(bias, size, (1,) * (rank - 1) + size))
    b.set(node.output, output_of(normed))
