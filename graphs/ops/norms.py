"""rms_norm and layer_norm over the last axis, computed in float32 as Keras does.

    rms_norm    x / sqrt(mean(x^2) + epsilon) * (offset + weight)              Zhang and Sennrich 2019; offset 1 in Gemma
    layer_norm  (x - mean) / sqrt(variance + epsilon) * weight + bias          Ba, Kiros and Hinton 2016
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from kexport.graphs.ops.spec import REQUIRED, Arrays, Evaluation, Types, attribute, define, float32_or_wider, optional, refuse

if TYPE_CHECKING:
    from kexport.graphs.ir import Graph, Node, TensorType


def _infer(graph: Graph, node: Node, types: Types) -> tuple[TensorType, ...]:
    x = types[0]
    assert x is not None
    for weight in types[1:]:
        if weight is not None and weight.shape != x.shape[-1:]:
            raise refuse(node, f"weight {weight} does not fit {x}")
    return (x,)


def _rms_norm(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    x, weight = float32_or_wider(arrays[0]), optional(arrays, 1)
    normed = x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + x.dtype.type(attribute(node, "epsilon")))
    if weight is not None:
        normed = normed * (x.dtype.type(attribute(node, "offset")) + weight)
    return (normed.astype(arrays[0].dtype),)


def _layer_norm(evaluation: Evaluation, node: Node, arrays: Arrays) -> tuple[Any, ...]:
    x, weight, bias = float32_or_wider(arrays[0]), optional(arrays, 1), optional(arrays, 2)
    centred = x - x.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(np.mean(np.square(centred), axis=-1, keepdims=True) + x.dtype.type(attribute(node, "epsilon")))
    normed = normed if weight is None else normed * weight
    normed = normed if bias is None else normed + bias
    return (normed.astype(arrays[0].dtype),)


define(
    "rms_norm",
    "x / sqrt(mean(x^2) + epsilon) * (offset + weight) over the last axis",
    inputs=("x", "weight?"),
    attrs={"epsilon": REQUIRED, "offset": 0.0},
    infer=_infer,
    evaluate=_rms_norm,
    intrinsic=True,
)
define(
    "layer_norm",
    "(x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis",
    inputs=("x", "weight?", "bias?"),
    attrs={"epsilon": REQUIRED},
    infer=_infer,
    evaluate=_layer_norm,
    intrinsic=True,
)
