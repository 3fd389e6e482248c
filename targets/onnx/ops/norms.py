"""rms_norm -> SimplifiedLayerNormalization, layer_norm -> LayerNormalization.

The first is a contrib operator that onnxruntime keeps in the default domain; it loads in every release of the engine, where the
standard RMSNormalization needs opset 23. A constant offset (Gemma's 1 + weight) is added to the weight when it is written.
"""

from __future__ import annotations

import numpy as np
from kexport.graphs.ir import Node
from kexport.graphs.ops import attribute
from kexport.targets.onnx.builder import Builder, Tensor, fixed
from kexport.targets.onnx.lowering import Argument, Case, lowers

_X, _SCALE = Argument((2, 3, 8)), Argument((8,), role="weight")


def _ones(node: Node, b: Builder) -> Tensor:
    return b.constant(np.ones(fixed(b.type_of(node.input(0)).shape[-1], "the normalized axis", node), np.float32))


def _scale(node: Node, b: Builder, offset: float) -> Tensor:
    name = node.input(1)
    if not name:
        return _ones(node, b)
    if not offset:
        return b.value(name)
    if name in b.graph.weights:
        return b.stored(b.stored_form(b.graph.weights[name]).plus(offset))
    scale = b.value(name)
    return b.op("Add", [b.constant(np.asarray(offset, scale.dtype)), scale], scale.dtype, scale.shape)


@lowers(
    "rms_norm",
    cases=[
        Case("weight", [_X, _SCALE], {"epsilon": 1e-6}, expect=("SimplifiedLayerNormalization",)),
        Case("1 + weight", [_X, _SCALE], {"epsilon": 1e-6, "offset": 1.0}, expect=("SimplifiedLayerNormalization",)),
        Case("heads", [Argument((2, 3, 4, 8)), _SCALE], {"epsilon": 1e-5}, expect=("SimplifiedLayerNormalization",)),
        Case("1 + computed weight", [_X, Argument((8,))], {"epsilon": 1e-6, "offset": 1.0}, expect=("Add", "SimplifiedLayerNormalization")),
        Case("no weight", [_X], {"epsilon": 1e-2}, expect=("SimplifiedLayerNormalization",)),
    ],
)
def lower_rms_norm(node: Node, b: Builder) -> None:
    """x / sqrt(mean(x^2) + epsilon) * (offset + weight)."""
    x = b.value(node.input(0))
    scale = _scale(node, b, float(attribute(node, "offset")))
    b.set(
        node.output,
        b.op(
            "SimplifiedLayerNormalization", [x, scale], x.dtype, x.shape, axis=-1, epsilon=float(attribute(node, "epsilon")), stash_type=1
        ),
    )


@lowers(
    "layer_norm",
    cases=[
        Case("weight and bias", [_X, _SCALE, _SCALE], {"epsilon": 1e-5}, expect=("LayerNormalization",)),
        Case("weight", [_X, _SCALE], {"epsilon": 1e-5}, expect=("LayerNormalization",)),
        Case("bias", [_X, None, _SCALE], {"epsilon": 1e-3}, expect=("LayerNormalization",)),
        Case("neither", [_X], {"epsilon": 1e-5}, expect=("LayerNormalization",)),
    ],
)
def lower_layer_norm(node: Node, b: Builder) -> None:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias."""
    x = b.value(node.input(0))
    inputs = [x, _scale(node, b, 0.0), b.optional(node.input(2))]
    b.set(node.output, b.op("LayerNormalization", inputs, x.dtype, x.shape, axis=-1, epsilon=float(attribute(node, "epsilon"))))
