"""Norm layers -> rms_norm or layer_norm, where the stock layer, run on probe values, follows the formula; else plain ops.

What is found by probing: whether the layer is an RMS norm at all, which of its weights scales it, and whether as `w` or `1 + w`.
Weights hold random stand-ins or real values here, never all ones, so that `w` and `1 + w` and two norms can be told apart; a real
weight of ones is told by probing a copy of random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.layers import subclasses
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.standins import stand_in_scope
from kexport.graphs.capture.trace import Trace, is_symbolic

RELATIVE_TOLERANCE = 1e-4
PROBE_SCALE = 1e-2  # small numbers, so that epsilon shows
OFFSETS = (0.0, 1.0)


def _epsilon(layer: keras.layers.Layer) -> float | None:
    return next((float(value) for name, value in vars(layer).items() if "eps" in name and isinstance(value, float)), None)


def probe_rms_norm(
    stock: Callable[..., Any], layer: keras.layers.Layer, rank: int, size: int
) -> tuple[float, float, keras.Variable | None] | None:
    """(epsilon, offset, weight) where `stock(layer, x)` is an RMS norm over the last axis, else None."""
    epsilon = _epsilon(layer)
    if epsilon is None:
        return None
    candidates = [weight for weight in layer.weights if tuple(weight.shape) == (size,)]
    x = np.random.default_rng(0).normal(size=[1] * (rank - 1) + [size]).astype(np.float32) * PROBE_SCALE
    with tf.init_scope(), stand_in_scope(candidates) as values:
        result = np.asarray(keras.ops.cast(stock(layer, tf.constant(x, layer.compute_dtype)), "float32"))
    normed = x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + epsilon)
    for weight in [*candidates, None]:
        for offset in OFFSETS:
            scale = np.float32(1) if weight is None else offset + values[id(weight)]
            if np.allclose(normed * scale, result, rtol=RELATIVE_TOLERANCE, atol=RELATIVE_TOLERANCE * float(np.abs(result).max())):
                return epsilon, offset, weight
    return None


def _wrap_rms(trace: Trace, stock: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        plain = len(args) == 1 and not kwargs and is_symbolic(args[0]) and args[0].shape[-1] is not None
        if trace.inside_marker or not plain:
            return stock(self, *args, **kwargs)
        (x,) = args
        found = probe_rms_norm(stock, self, len(x.shape), int(x.shape[-1]))
        if found is None:
            return stock(self, x)
        epsilon, offset, weight = found
        return trace.mark("rms_norm", lambda tensor: stock(self, tensor), [x], inputs=[x, weight], layer=self.path, epsilon=epsilon, offset=offset)

    return call


@interceptor("rms_norm")
def install_rms_norm(trace: Trace, patches: Patches) -> None:
    for cls in subclasses(keras.layers.Layer):
        ours = cls.__module__.startswith("keras_hub") or cls is keras.layers.RMSNormalization
        if ours and "Norm" in cls.__name__ and "call" in cls.__dict__:
            patches.replace(cls, "call", _wrap_rms(trace, cls.__dict__["call"]))


@interceptor("layer_norm")
def install_layer_norm(trace: Trace, patches: Patches) -> None:
    stock = keras.layers.LayerNormalization.call

    def call(self: keras.layers.LayerNormalization, inputs: Any) -> Any:
        axes = [self.axis] if isinstance(self.axis, int) else list(self.axis)
        last = is_symbolic(inputs) and [axis % len(inputs.shape) for axis in axes] == [len(inputs.shape) - 1]
        if trace.inside_marker or not last or getattr(self, "rms_scaling", False):
            return stock(self, inputs)
        return trace.mark(
            "layer_norm",
            lambda tensor: stock(self, tensor),
            [inputs],
            inputs=[inputs, self.gamma, self.beta],
            layer=self.path,
            epsilon=float(self.epsilon),
        )

    patches.replace(keras.layers.LayerNormalization, "call", call)
