"""RotaryEmbedding and its subclasses -> rope, where the layer's own cos and sin follow rope's formula; else plain ops.

The frequencies are the layer's own; the formula is verified on a few positions, so that a subclass that does something else
(a table that switches on the length, a shifted phase) is left as it behaves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras_hub.src.layers.modeling.rotary_embedding import RotaryEmbedding
from kexport.graphs.capture.intercept import interceptor
from kexport.graphs.capture.layers import subclasses
from kexport.graphs.capture.patching import Patches
from kexport.graphs.capture.trace import Trace, eager_numpy, is_symbolic
from numpy.typing import NDArray

PROBE_POSITIONS = np.array([[0, 1, 7, 100]])
# cos and sin are compared at angles up to 100 radians in float32, where one unit in the last place of the angle is 8e-6.
TOLERANCE = 1e-4
SEQUENCE_AXIS = 1
RANK = 4


def probe_rotary(layer: RotaryEmbedding, dim: int) -> tuple[NDArray[np.float32], float] | None:
    """(inverse frequencies float32 [dim / 2], factor) where the layer's cos and sin follow rope's formula, else None."""
    try:
        with tf.init_scope():
            frequencies = np.asarray(layer._get_inverse_freq(dim), np.float32)
            zeros = tf.zeros([1, PROBE_POSITIONS.shape[1], 1, dim])
            positions = tf.constant(PROBE_POSITIONS, tf.float32)
            cos, sin = (np.asarray(keras.ops.cast(part, "float32")) for part in layer._compute_cos_sin_embedding(zeros, 0, positions))
    except TypeError:
        return None
    factor = float(cos.reshape(-1)[0])
    angles = np.tile(PROBE_POSITIONS[0][:, None].astype(np.float32) * frequencies, 2)
    expected = (factor * np.cos(angles), factor * np.sin(angles))
    same = all(np.allclose(part.reshape(angles.shape), value, atol=TOLERANCE) for part, value in zip((cos, sin), expected, strict=True))
    return (frequencies, factor) if same else None


def _wrap(trace: Trace, stock: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: RotaryEmbedding, inputs: Any, start_index: Any = 0, positions: Any = None) -> Any:
        supported = is_symbolic(inputs) and len(inputs.shape) == RANK and self.sequence_axis == SEQUENCE_AXIS and self.feature_axis in (-1, RANK - 1)
        if trace.inside_marker or not supported:
            return stock(self, inputs, start_index=start_index, positions=positions)
        if positions is None:
            positions = trace.token_positions(start_index, tf.shape(inputs)[SEQUENCE_AXIS])
        found = probe_rotary(self, int(inputs.shape[-1]))
        if found is None:
            trace.notes.append(f"{self.path}: cos and sin do not follow the rotary formula, kept as plain ops")
            return stock(self, inputs, positions=positions)
        frequencies, factor = found
        return trace.mark(
            "rope",
            lambda x, where: stock(self, x, positions=where),
            [inputs, positions],
            inputs=[inputs, positions, eager_numpy(frequencies)],
            layer=self.path,
            factor=factor,
        )

    return call


@interceptor("rope")
def install(trace: Trace, patches: Patches) -> None:
    for cls in subclasses(RotaryEmbedding):
        if "call" in cls.__dict__ and "positions" in inspect.signature(cls.__dict__["call"]).parameters:  # ESM's rotates two tensors at once
            patches.replace(cls, "call", _wrap(trace, cls.__dict__["call"]))
